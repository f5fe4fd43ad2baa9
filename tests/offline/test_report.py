from datetime import UTC, datetime

from feed.monitoring.quality import Quality
from offline.report import execution_report

EXPECTED = """\
================================================================================
FEED RANKING SYSTEM - EXECUTION REPORT
================================================================================
Execution Time: 2025-11-15T02:00:00.000000

Data Processing:
  Users processed: 1000
  Items processed: 5000

Ranking Generation:
  Total rankings: 50000
  Users with feeds: 1000
  Avg items/user: 50.0
  Item coverage: 87.4%
================================================================================
Feed ranking pipeline completed successfully!
================================================================================
"""


def test_the_report_has_exactly_its_form():
    quality = Quality(
        users=1000, items=5000, rankings=50_000, users_with_feeds=1000, user_coverage=1.0, item_coverage=0.8742,
        items_per_feed=50.0, diversity=0.9, gini=0.5, scores=(0.0,) * 7,
    )  # fmt: skip
    assert execution_report(quality, datetime(2025, 11, 15, 2, tzinfo=UTC)) == EXPECTED
