"""The offline fold: a whole log in memory, through the same objects as the stream."""

from collections.abc import Iterable

from feed.catalogue import Item, User
from feed.events import Event
from feed.features.items import ItemTable
from feed.features.near import taken
from feed.features.user import UserState, is_repeat, new_user, update_profile, update_user


class BatchState:
    """Users and items as of the last event applied; `now` is the newest event time so far (seconds since 1970)."""

    def __init__(self, items: Iterable[Item] = (), users: Iterable[User] = ()) -> None:
        self.users: dict[str, UserState] = {}
        self.items = ItemTable()
        self.now = 0.0
        for item in items:
            self.items.upsert(item)
        for user in users:
            update_profile(self.user(user.user_id), user)

    def user(self, user_id: str) -> UserState:
        """The user's state, made if there is none."""
        if user_id not in self.users:
            self.users[user_id] = new_user(user_id)
        return self.users[user_id]

    def apply(self, event: Event) -> None:
        """Fold one event; one that the user's newest events have already changes nothing."""
        state = self.user(event.user_id)
        if is_repeat(state, event):
            return
        if (of_item := taken(state, event)) is not None:
            self.items.take(*of_item)
        update_user(state, event, self.items.by_id)
        self.items.add(event)
        self.now = max(self.now, event.at)
