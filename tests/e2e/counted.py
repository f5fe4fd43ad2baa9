"""How many interactions the features of all users hold: `python tests/e2e/counted.py`."""

from feed import settings
from feed.io.redis import FeatureStore, connect

store = FeatureStore(connect(settings.load().redis))
ids = list(store.all_user_ids())
states = (state for start in range(0, len(ids), 500) for state in store.users(ids[start : start + 500]))
print(sum(int(state["features"]["total_interactions"]) for state in states if state))  # noqa: T201
