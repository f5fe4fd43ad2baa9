"""Sends to Apache Kafka as other apps do, with every compression and in transactions, and waits until it is counted.

Run while the system is up: `python tests/e2e/clients.py`. Ends with status 1 if something is not, or is counted too often.
"""

import json
import sys
import time
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer
from kafka import KafkaProducer

from feed import settings, wire
from feed.io.redis import FeatureStore, connect
from offline.export import Reader

SECONDS = 60.0
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def clicks(user_id, n):
    now = datetime.now(UTC).isoformat()
    common = {"event": "click", "user_id": user_id, "occurred_at": now}
    return [json.dumps(common | {"event_id": str(uuid.uuid4()), "item_id": f"t{i}"}) for i in range(n)]


def librdkafka(servers, codec, **options):
    return Producer(
        {"bootstrap.servers": servers, "partitioner": "murmur2_random", "compression.type": codec, "linger.ms": 50} | options
    )


def with_librdkafka(servers, codec, user_id):
    producer = librdkafka(servers, codec)
    for n in (10, 1):  # a batch of ten, and one of one
        for value in clicks(user_id, n):
            producer.produce("interactions", value, user_id)
        assert producer.flush(20) == 0


def with_kafka_python(servers, codec, user_id):
    producer = KafkaProducer(bootstrap_servers=servers, compression_type=None if codec == "none" else codec, linger_ms=50)
    for value in clicks(user_id, 11):
        producer.send("interactions", value.encode(), user_id.encode())
    producer.close()


def in_transactions(servers, user_id):
    """Five that are committed and six that are not, which are the first and the last; the last is larger than a fetch."""
    producer = librdkafka(servers, "none", **{"transactional.id": user_id})
    producer.init_transactions(30)
    for n in range(11):
        producer.begin_transaction()
        for value in clicks(user_id, 3000 if n == 10 else 10):
            producer.produce("interactions", value.ljust(500), user_id)
        producer.flush(20)
        if n % 2:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


def main():
    configuration, run = settings.load(), uuid.uuid4().hex[:8]
    servers, store = configuration.kafka, FeatureStore(connect(configuration.redis))
    expected = {}
    for codec in CODECS:
        for send in (with_librdkafka, with_kafka_python):
            user_id = f"{send.__name__}-{codec}-{run}"
            send(servers, codec, user_id)
            expected[user_id] = 11
    in_transactions(servers, f"transactions-{run}")
    expected[f"transactions-{run}"] = 50

    deadline, counted = time.monotonic() + SECONDS, {}
    while counted != expected and time.monotonic() < deadline:
        time.sleep(0.5)
        states = zip(expected, store.users(list(expected)), strict=True)
        counted = {user_id: state["events"].get("click", 0) if state else 0 for user_id, state in states}
    if counted != expected:
        return f"counted: {counted}, expected: {expected}"
    exported = [event.user_id for _, event in Reader(configuration.broker).messages(wire.INTERACTIONS, wire.decode_event)]
    read = {user_id: exported.count(user_id) for user_id in expected}
    if read != expected:
        return f"exported: {read}, expected: {expected}"
    print(f"{sum(expected.values())} clicks of {len(expected)} users are counted once, and read by the export")  # noqa: T201
    return None


if __name__ == "__main__":
    sys.exit(main())
