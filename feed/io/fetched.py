"""What a fetch of one partition brought, before a client hands out its records: the same for kafka-python and aiokafka.

Both clients end with an exception at a batch that they cannot unpack, and come back to it for ever. Here one record stands in
its place, whose value (`wire.Corrupt`) says why; it becomes a dead letter like any record that cannot be used.

The broker says which transactions were aborted. The embedded one does not, though it holds back what is undecided: there they
are found by their markers, as long as a marker is fetched together with its records.

Private parts of both clients are used: tests/integration/test_codecs.py holds the contract.
"""

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import structlog

from feed.wire import Corrupt

log = structlog.get_logger()

COMMITTED = "read_committed"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")  # by their number in a batch's attributes


class Aborted(NamedTuple):
    """Batches of this producer are void from this offset on, up to its next marker."""

    producer_id: int
    first_offset: int


class Fetched:
    """The batches of one fetch, with the interface of both clients' `MemoryRecords`."""

    def __init__(self, topic: str, partition: int, records: Any) -> None:
        self._batches: deque[_Batch] = deque()
        while records.has_next():
            self._batches.append(_Batch(topic, partition, records.next_batch()))

    def has_next(self) -> bool:
        """Whether a batch is left."""
        return bool(self._batches)

    def next_batch(self) -> Any:
        """The next batch; None if none is left."""
        return self._batches.popleft() if self._batches else None

    def aborted(self) -> list[Aborted]:
        """What the markers among these batches say was aborted, in the order of the log."""
        found, aborts = list[Aborted](), dict[int, bool]()
        for batch in reversed(self._batches):
            if batch.is_control_batch:
                aborts[batch.producer_id] = any(_aborts(marker) for marker in batch.records)
            elif batch.is_transactional and aborts.get(batch.producer_id):
                found.append(Aborted(batch.producer_id, batch.base_offset))
        return found[::-1]


class _Batch:
    """A client's batch, which is unpacked as a whole, or not at all."""

    def __init__(self, topic: str, partition: int, batch: Any) -> None:
        self._place, self._batch = f"{topic}/{partition}", batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.records)

    def __next__(self) -> Any:
        """The first record: of a marker there is only one."""
        return next(iter(self.records))

    def validate_crc(self) -> bool:
        """True: unpacking says it."""
        return True

    @cached_property
    def records(self) -> list[Any]:
        """All records, or one in their place."""
        codec = self._batch.compression_type
        try:
            if self._batch.validate_crc():
                return list(self._batch)
            why = "its checksum is wrong"
        except Exception as error:  # every codec, of either client, has errors of its own
            if type(error).__name__ == "UnsupportedCodecError" and codec < len(CODECS):
                raise  # an installation that lacks a package must not pass for records that are broken
            name = CODECS[codec] if codec < len(CODECS) else f"unknown codec {codec}"
            why = f"it cannot be unpacked (compression: {name}): {error!r}"
        first, last = self._batch.base_offset, max(self._batch.base_offset, self._batch.next_offset - 1)
        reason = (
            f"the batch of records {first} to {last} of {self._place} is broken and left out: {why}; send its events again, "
            "and look at the producer's compression or at the broker's disk"
        )
        log.error("broken batch", partition=self._place, first=first, last=last, reason=reason)
        return [_Stand(last, Corrupt(reason))]


class _Stand(NamedTuple):
    """The record in the place of a broken batch, as both clients read records."""

    offset: int
    value: Corrupt
    key: None = None
    headers: tuple[()] = ()
    timestamp: int = -1
    timestamp_type: int = 0
    checksum: None = None
    size_in_bytes: int = 0

    def validate_crc(self) -> bool:
        return True


def _aborts(marker: Any) -> bool:
    # a key of two int16: version, and 0 for abort, 1 for commit
    return marker.key is not None and marker.key[2:4] == b"\0\0"
