"""What the newest engagements say, apart from all that is known."""

from feed.catalogue import Item
from feed.events import Click, View, utc
from feed.features.user import LATELY

CATEGORIES = LATELY[0]
ITEMS = {name: Item(item_id=name, category=name) for name in ("old", "new")}


def weights_after(*steps: tuple[type, str, int]) -> dict[str, float]:
    part, at = CATEGORIES.start(), 0
    for event, item, times in steps:
        for _ in range(times):
            at += 1
            shown = {"event_id": str(at), "user_id": "u", "item_id": item, "occurred_at": utc(1.7e9 + 1e6 * at)}
            part = CATEGORIES.update(part, event(**shown), ITEMS)
    return dict(CATEGORIES.weights(part, 2e9))


def test_a_few_new_clicks_outweigh_many_old_ones_whenever_they_were():
    found = weights_after((Click, "old", 40), (Click, "new", 20))
    assert found["new"] > found["old"] > 0


def test_looking_without_a_click_turns_a_liking_into_its_opposite():
    assert weights_after((Click, "old", 3))["old"] > 0
    assert weights_after((Click, "old", 3), (View, "old", 40))["old"] < 0


def test_half_of_the_evidence_is_gone_after_17_engagements():
    one, later = weights_after((Click, "old", 1)), weights_after((Click, "old", 1), (View, "new", 17))
    weight, faded = (
        one["old"] * 2 / (1 - one["old"]),
        later["old"] / later["new"],
    )  # w = s / (2 + s), and the ratio is free of scale
    views = -0.2 * sum(0.96**k for k in range(17))
    assert abs(weight - 1.2) < 1e-6
    assert abs(faded * views - 0.5 * 1.2) < 0.01
