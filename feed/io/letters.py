"""What could not be used, by the place of its record: for everybody who reads topics and must count what the stream counts."""

from collections.abc import Mapping
from dataclasses import dataclass

from feed import wire
from feed.address import Broker
from feed.errors import Unreadable
from feed.io import kafka
from feed.io.kafka import Record
from feed.wire import DeadLetter

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True)
class Letters:
    """The dead letters of records, by the record's place."""

    by_place: Mapping[Place, DeadLetter]

    def of(self, record: Record) -> DeadLetter | None:
        """The dead letter of this record; a topic that was made anew has others at its places."""
        letter = self.by_place.get((record.topic, record.partition, record.offset))
        return letter if letter is not None and letter.value == record.value else None

    def since(self, before: "Letters") -> list[DeadLetter]:
        """Those of records of which there was none when `before` was read; where the log is folded anew, letters come again."""
        return [
            letter
            for place, letter in self.by_place.items()
            if place not in before.by_place or before.by_place[place].value != letter.value
        ]


def read_letters(broker: Broker | str) -> Letters:
    """All dead letters of records that have a value. Raises `FeedError` if there is no such topic."""
    found: dict[Place, DeadLetter] = {}
    for record in kafka.read_topic(broker, wire.DEAD_LETTERS):
        try:
            letter = wire.decode_letter(record.value)
        except Unreadable:
            continue
        if letter.value is not None:  # of an example, or of a record that is too large for any reader
            found[letter.topic, letter.position.partition, letter.position.offset] = letter
    return Letters(found)
