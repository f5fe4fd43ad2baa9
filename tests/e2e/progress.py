"""How far the loop has come: interactions in the features of all users, and places in the log their feeds were made from.

`python tests/e2e/progress.py` prints both sums; both grow as long as the features and the feeds agent do their work.
"""

from feed import settings
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect

client = connect(settings.load().redis)
store = FeatureStore(client)
ids = list(store.all_user_ids())
states = [state for start in range(0, len(ids), 500) for state in store.users(ids[start : start + 500])]
feeds = FeedStore(client).read_many(ids)
interactions = sum(int(state["features"]["total_interactions"]) for state in states if state)
places = sum(feed.position.offset for feed in feeds if feed and feed.position)
print(interactions, places)  # noqa: T201
