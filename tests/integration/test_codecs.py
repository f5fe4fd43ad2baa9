"""Whatever a producer compresses with is read, by both clients; a batch that cannot be read is named and set aside."""

import inspect
import json
import struct
import time
import uuid
from datetime import UTC, datetime

import kafka.consumer.fetcher as kafka_python
import kafka.record.default_records as encoding
import pytest
import redis
import structlog.testing
from aiokafka.consumer import fetcher as aiokafka
from confluent_kafka import Producer
from kafka import KafkaProducer

from feed import wire
from feed.io import kafka
from offline.export import Reader
from stream_processors.batches import Records
from tests.integration.service import service

CODECS = ["gzip", "snappy", "lz4", "zstd"]


def clicks(user_id, n):
    """JSON of `n` clicks, long enough that compressing pays."""
    now = datetime.now(UTC).isoformat()
    ids = [str(uuid.uuid4()) for _ in range(n)]
    common = {"event": "click", "user_id": user_id, "occurred_at": now}
    return [json.dumps(common | {"event_id": event_id, "item_id": f"t{i}"}) for i, event_id in enumerate(ids)]


def send(broker, codec, values, key="p1", **options):
    """With librdkafka: one batch if they come at once."""
    producer = Producer(
        {"bootstrap.servers": broker, "partitioner": "murmur2_random", "compression.type": codec, "linger.ms": 50} | options
    )
    for value in values:
        producer.produce("interactions", key=key, value=value)
    assert producer.flush(10) == 0


def send_with_kafka_python(broker, codec, values, key="p1"):
    producer = KafkaProducer(bootstrap_servers=broker, compression_type=codec, linger_ms=50)
    for value in values:
        producer.send("interactions", key=key.encode(), value=value.encode())
    producer.flush()
    producer.close()


@pytest.fixture
def topics(own_broker):
    kafka.ensure_topics(own_broker, 2, wire.TOPICS)
    return own_broker


@pytest.fixture
def features(topics, redis_url, tmp_path):
    """What the features agent makes of it, while the test sends."""
    settings = {"FEED_KAFKA": topics, "FEED_REDIS": redis_url, "FEED_PARTITIONS": "2", "FEED_SESSION_SECONDS": "2"}
    with service("stream_processors/features.py", tmp_path / "log", settings) as process:
        yield process


def clicked(redis_url, user_id):
    state = redis.Redis.from_url(redis_url).get(f"user:{user_id}")
    return json.loads(state)["events"].get("click", 0) if state else 0


def wait_until(holds, seconds=100.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def exported(broker):
    reader = Reader(broker)
    return len(list(reader.messages(wire.INTERACTIONS, wire.decode_event))), reader.unreadable


def letters(broker):
    return [wire.decode_letter(record.value) for record in kafka.read_topic(broker, wire.DEAD_LETTERS)]


def test_every_codec_of_both_clients_is_counted_and_exported(topics, features, redis_url):
    for codec in ("none", *CODECS):
        send(topics, codec, clicks("p1", 10))
        send(topics, codec, clicks("p1", 1))  # a batch of one record, which is compressed all the same
        send_with_kafka_python(topics, None if codec == "none" else codec, clicks("p1", 10))
    # far fewer bytes than a fetch may have, far more when unpacked
    send(topics, "zstd", clicks("p1", 1000), **{"batch.num.messages": 1000, "linger.ms": 1000, "batch.size": 10_000_000})
    wait_until(lambda: clicked(redis_url, "p1") == 5 * 21 + 1000)
    assert letters(topics) == []
    assert exported(topics) == (5 * 21 + 1000, {})


JUNK = {
    "truncated": lambda data: data[: len(data) // 2],
    "noise": lambda data: b"\xfe" * 30,
    "empty": lambda data: b"",
}


def send_broken(broker, codec, junk, monkeypatch):
    """Ten records, whose compressed data are `junk(data)`, with a checksum that holds."""
    name = f"{codec}_encode"
    real = getattr(encoding, name)
    with monkeypatch.context() as patched:
        patched.setattr(encoding, name, lambda data: junk(real(data)))
        send_with_kafka_python(broker, codec, clicks("p1", 10))


def test_a_batch_that_does_not_unpack_is_a_dead_letter_and_the_rest_is_counted(topics, features, redis_url, monkeypatch):
    cases = [(codec, junk) for junk in JUNK.values() for codec in CODECS]
    for codec, junk in cases:
        send_with_kafka_python(topics, codec, clicks("p1", 10))
        send_broken(topics, codec, junk, monkeypatch)
    send(topics, "none", clicks("p1", 1))
    wait_until(lambda: clicked(redis_url, "p1") == len(cases) * 10 + 1)
    wait_until(lambda: len(letters(topics)) == len(cases))
    partition = wire.partition_of("p1", 2)
    for n, ((codec, _), letter) in enumerate(zip(cases, letters(topics), strict=True)):
        first = 20 * n + 10
        assert (letter.value, letter.position.partition, letter.position.offset) == (None, partition, first + 9)
        assert f"records {first} to {first + 9} of interactions/{partition} is broken" in letter.reason
        assert f"compression: {codec}" in letter.reason
    assert features.poll() is None
    assert exported(topics) == (len(cases) * 10 + 1, {"interactions": len(cases)})


def batch(values, codec=0, change=lambda data: data):
    """The bytes of a batch, as a fetch brings them."""
    builder = encoding.DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1_000_000,
    )  # fmt: skip
    for n, value in enumerate(values):
        builder.append(n, timestamp=1, key=b"k", value=value, headers=[])
    return change(bytes(builder.build()))


def at(offset, data):
    return struct.pack(">q", offset) + data[8:]


def read_by_kafka_python(data, offset=0):
    place = kafka_python.TopicPartition("t", 0)
    return [(r.offset, r.value) for r in kafka._Records(offset, place, kafka_python.MemoryRecords(data)).take()]


def read_by_aiokafka(data, offset=0):
    place = aiokafka.TopicPartition("t", 0)
    records = Records(place, aiokafka.MemoryRecords(data), [], offset, None, None, True, aiokafka.READ_COMMITTED)
    return [(r.offset, r.value) for r in records]


def flipped(data):
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def unknown_codec(data):
    """Codec 7, which nobody has, and a checksum that holds."""
    data = bytearray(data)
    data[22] |= 7
    struct.pack_into(">I", data, 17, encoding.calc_crc32c(memoryview(data)[21:]))
    return bytes(data)


@pytest.mark.parametrize("read", [read_by_kafka_python, read_by_aiokafka])
@pytest.mark.parametrize(("change", "why"), [(flipped, "its checksum is wrong"), (unknown_codec, "unknown codec 7")])
def test_a_broken_batch_among_others_is_named_with_its_range(read, change, why):
    data = batch([b"a", b"b"]) + at(2, batch([b"c", b"d"], change=change)) + at(4, batch([b"e"]))
    with structlog.testing.capture_logs() as lines:
        assert read(data) == [(0, b"a"), (1, b"b"), (3, b""), (4, b"e")]
    assert [(line["log_level"], line["first"], line["last"]) for line in lines] == [("error", 2, 3)]
    assert why in lines[0]["reason"]
    with pytest.raises(wire.Unreadable, match=r"records 2 to 3 of t/0 is broken"):
        wire.decode_event(dict(read(data))[3])


@pytest.mark.parametrize("read", [read_by_kafka_python, read_by_aiokafka])
@pytest.mark.parametrize("codec", [1, 2, 3, 4])
@pytest.mark.parametrize("start", [0, 37])
def test_a_client_reads_from_the_middle_of_a_compressed_batch(read, codec, start):
    values = [b"value %d" % n for n in range(100)]
    assert read(batch(values, codec), start) == list(enumerate(values))[start:]


@pytest.mark.parametrize("read", [read_by_kafka_python, read_by_aiokafka])
def test_a_missing_package_is_no_broken_batch(read, monkeypatch):
    """Else an installation without it would set everything aside that is compressed."""
    data = batch([b"value"] * 50, 4)
    monkeypatch.setattr("kafka.codec.zstd", None)
    monkeypatch.setattr("aiokafka.codec.cramjam", None)
    with pytest.raises(Exception, match="Libraries for zstd compression codec not found"):
        read(data)


def test_the_private_parts_of_both_clients_that_are_used_are_there():
    assert "self.PartitionRecords(" in inspect.getsource(kafka_python.Fetcher)
    assert "partition_records = PartitionRecords(" in inspect.getsource(aiokafka.Fetcher)
    for records in (kafka_python.Fetcher.PartitionRecords, aiokafka.PartitionRecords):
        assert inspect.isgeneratorfunction(records._unpack_records)  # `Fetched` takes all at the first record
