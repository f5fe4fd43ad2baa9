"""Which items are kept away from a user: the one place where stream, batch and server decide what may be shown again."""

from collections.abc import Collection, Mapping

from feed.catalogue import Item
from feed.features.user import UserState, consumed, own_items
from feed.repeats import Repeats


def kept_away(state: UserState, now: float, repeats: Repeats, items: Mapping[str, Item]) -> Collection[str]:
    """The items that may not be shown to this user at `now` (seconds since 1970), as far back as ids are remembered.

    Under a rule that never lets anything come again, all that is `consumed`. Under any other, a positive decides alone: its
    item is away until the rule's time since the last one has passed. What was viewed and never taken stays away, and so does
    what was hidden (of which `hidden_before` knows the rest). `items`: the known items by id, for their categories.
    """
    met = consumed(state)
    if not repeats.ever:
        return met
    own = own_items(state, now)
    again: set[str] = set()
    not_yet: set[str] = set()
    for item_id, since in zip(own.ids, own.since.tolist(), strict=True):
        item = items.get(item_id)
        (again if since >= repeats.seconds(item.category if item else None) else not_yet).add(item_id)
    return (({*met} - again) | not_yet).union(state["hidden"]["ids"])
