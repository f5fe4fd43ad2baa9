"""Ten minutes of random records into every service: see `tests.integration.fuzz`."""

import time
from pathlib import Path

import pytest

from deploy import embedded
from tests.integration.fuzz import Fuzz
from tests.integration.whole import whole_system

MINUTES = 10


@pytest.mark.timeout(1200)
def test_ten_minutes_of_random_records_end_no_process_and_cost_no_good_one(tmp_path: Path) -> None:
    with (
        embedded.start_broker(embedded.free_port(), tmp_path / "broker") as broker,
        embedded.start_redis(embedded.free_port(), tmp_path / "redis") as redis,
        whole_system(broker.address, f"redis://{redis.address}/0", tmp_path, FEED_ATTRIBUTION_SECONDS="60") as whole,
    ):
        fuzz, began, seeds = Fuzz(whole), time.monotonic(), iter(range(100, 10_000))
        while time.monotonic() < began + 60 * MINUTES:
            fuzz.round(next(seeds), 500)
