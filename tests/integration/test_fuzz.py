"""No record that the grammar of the wire knows, or that is just beyond it, ends a process or costs another one."""

from pathlib import Path

import pytest

from tests.integration.fuzz import Fuzz
from tests.integration.whole import whole_system


@pytest.mark.timeout(300)
def test_no_process_ends_each_bad_record_is_a_dead_letter_once_and_each_good_one_counts(
    own_broker: str, redis_url: str, tmp_path: Path
) -> None:
    with whole_system(own_broker, redis_url, tmp_path, FEED_ATTRIBUTION_SECONDS="60") as whole:
        Fuzz(whole).round(0, 300)
