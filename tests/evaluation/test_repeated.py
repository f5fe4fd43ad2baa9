import pytest

from feed.evaluation.repeated import measure
from feed.events import Click, Like, View, utc
from feed.repeats import ALWAYS, NEVER

HOUR = 3600


def events(*rows):
    return [
        kind(event_id=f"e{k}", user_id=user, item_id=item, occurred_at=utc(1.7e9 + at * HOUR))
        for k, (kind, at, user, item) in enumerate(rows)
    ]


def test_the_later_positives_are_measured_and_one_occasion_counts_once():
    first = [(Click, k, "u", f"i{k}") for k in range(8)]
    log = events(*first, (Click, 20, "u", "i3"), (Like, 20.1, "u", "i3"), (View, 20.2, "u", "i4"), (Click, 21, "u", "new"))
    found = measure(log, {*(f"i{k}" for k in range(8)), "new"})
    assert (found.share, found.positives, found.median_seconds) == (0.5, 2, 17 * HOUR)
    assert (
        str(found)
        == "50.0% of the log's later positives are of an item that the user took before, 17 h after the last time at the median"
    )


def test_what_another_user_took_and_what_no_catalogue_describes_is_no_repeat():
    assert (
        measure(events((Click, 0, "u", "a"), (Click, 5, "v", "a"), (Click, 9, "v", "b"), (Click, 19, "v", "b")), {"a"}).share
        == 0
    )


@pytest.mark.parametrize(("repeated", "rule"), [(0, NEVER), (4, NEVER), (5, ALWAYS), (20, ALWAYS)])
def test_a_log_whose_later_positives_are_repeats_by_a_quarter_lets_items_come_again(repeated, rule):
    before = [(Click, k, f"u{k}", f"i{k}") for k in range(80)]
    later = [(Click, 100 + k, f"u{k}", f"i{k if k < repeated else k + 1}") for k in range(20)]
    assert measure(events(*before, *later), {f"i{k}" for k in range(80)}).rule == rule


def test_a_log_without_positives_never_lets_anything_come_again():
    found = measure(events((View, 0, "u", "a"), (View, 9, "u", "a")), {"a"})
    assert (found.share, found.positives, found.median_seconds, found.rule) == (0.0, 0, None, NEVER)
