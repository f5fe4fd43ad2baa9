"""What could not be used, by the place of its record: for everybody who reads topics and must count what the stream counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from feed import wire
from feed.address import Broker
from feed.errors import Unreadable
from feed.io import kafka
from feed.io.kafka import Record

Place = tuple[str, int, int]  # topic, partition, offset
REASON_LENGTH = 200  # characters; the topic has all of it


class Letter(NamedTuple):
    """A dead letter of a record, as far as it is remembered: `digest` is the one of the record's value."""

    topic: str
    key: str
    reason: str
    digest: bytes


@dataclass(frozen=True)
class Letters:
    """The dead letters of records, by the record's place."""

    by_place: Mapping[Place, Letter]

    def of(self, record: Record) -> Letter | None:
        """The dead letter of this record; a topic that was made anew has others at its places."""
        letter = self.by_place.get((record.topic, record.partition, record.offset))
        return letter if letter is not None and letter.digest == digest(record.value or b"") else None

    def since(self, before: "Letters") -> list[Letter]:
        """Those of records of which there was none when `before` was read; where the log is folded anew, letters come again."""
        earlier = before.by_place
        return [one for at, one in self.by_place.items() if at not in earlier or earlier[at].digest != one.digest]


def digest(value: bytes) -> bytes:
    """Stands for a record's value, which may be a megabyte."""
    return blake2b(value, digest_size=16).digest()


def shortened(reason: str) -> str:
    """A reason that has room in a line, and in memory a million times."""
    return reason if len(reason) <= REASON_LENGTH else f"{reason[:REASON_LENGTH]}…"


def read_letters(broker: Broker | str) -> Letters:
    """All dead letters of records that have a value. Raises `FeedError` if there is no such topic."""
    found: dict[Place, Letter] = {}
    for record in kafka.read_topic(broker, wire.DEAD_LETTERS):
        try:
            letter = wire.decode_letter(record.value)
        except Unreadable:
            continue
        if letter.value is not None:  # not of an example, nor of a record that is too large for any reader
            key, value = (letter.key or b"").decode(errors="replace"), digest(letter.value)
            place = (letter.topic, letter.position.partition, letter.position.offset)
            found[place] = Letter(letter.topic, key, shortened(letter.reason), value)
    return Letters(found)
