"""The execution report of a full ranking: one fixed form, for people and for whoever reads it line by line."""

from datetime import datetime

from feed.monitoring.quality import Quality

RULE = "=" * 80


def execution_report(quality: Quality, at: datetime) -> str:
    """The report of a ranking finished `at` (UTC); "Avg items/user" is over users with a feed.

    It says "successfully" of a ranking of the whole catalogue only.
    """
    outcome = "completed successfully!"
    if quality.missing:
        outcome = f"completed WITHOUT {quality.missing} of {quality.items + quality.missing} items of the catalogue."
    return f"""{RULE}
FEED RANKING SYSTEM - EXECUTION REPORT
{RULE}
Execution Time: {at.replace(tzinfo=None).isoformat(timespec="microseconds")}

Data Processing:
  Users processed: {quality.users}
  Items processed: {quality.items}

Ranking Generation:
  Total rankings: {quality.rankings}
  Users with feeds: {quality.users_with_feeds}
  Avg items/user: {quality.items_per_feed:.1f}
  Item coverage: {quality.item_coverage:.1%}
{RULE}
Feed ranking pipeline {outcome}
{RULE}
"""
