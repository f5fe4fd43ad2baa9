"""How a loss is found, and how what was computed is removed: only by who is in the state that he thinks."""

import pytest

from feed.catalogue import Item
from feed.errors import BadSetting
from feed.features import new_user
from feed.io import recovery
from feed.io.recovery import Recovery, require_no_eviction, require_own
from feed.io.redis import CATALOGUE, READY, WIPING, Change, FeatureStore, FoldStore, connect
from feed.wire import Position
from tests.small import emptied


@pytest.fixture
def client(redis_url):
    return connect(redis_url)


def fill(client, epoch: str, users: int = 2500, items: int = 2500) -> None:
    store = FoldStore(client)
    change = Change(Position("U", 0, 1), users={f"{u}": new_user(f"{u}") for u in range(users)})
    assert store.apply(change, 0, "I", 0, epoch).done
    described = {f"{i}": Item(item_id=i) for i in range(items)}
    assert store.apply(Change(Position("C", 0, 1), items=described), 0, "C", 0, epoch).done


def ready(client) -> str:
    """A new epoch that is whole; returns it."""
    epoch = emptied(client)
    assert Recovery(client).go_on(epoch, CATALOGUE, READY)
    return epoch


@pytest.mark.parametrize("lost", ["user:1234", "item:1234"])
def test_an_audit_finds_one_missing_key_among_thousands_within_a_few_looks(client, lost):
    epoch, audit = ready(client), Recovery(client)
    fill(client, epoch)
    assert [audit.audit("I", 0).keys for _ in range(5)] == [[]] * 5
    client.delete(lost)
    found = [found for _ in range(5) for found in [audit.audit("I", 0)] if found.keys]
    assert found
    assert found[0] == (epoch, [lost])


@pytest.mark.parametrize("key", ["members:0", "items:changed"])
def test_an_audit_finds_that_a_set_of_ids_is_missing_or_smaller_at_once(client, key):
    epoch = ready(client)
    fill(client, epoch, 20, 20)
    (client.srem if key == "members:0" else client.zrem)(key, "7")
    assert Recovery(client).audit("I", 0) == (epoch, [key])
    client.delete(key)
    assert Recovery(client).audit("I", 0) == (epoch, [key])


def test_a_new_state_is_begun_by_one_worker_only_and_forgets_every_position(client):
    epoch = ready(client)
    fill(client, epoch, 5, 5)
    assert Recovery(client).begin(epoch)
    assert not Recovery(client).begin(epoch)
    standing = FeatureStore(client).standing(("U", 0), ("C", 0))
    assert standing.epoch not in ("", epoch)
    assert (standing.state, standing.offsets) == (WIPING, {("U", 0): 0, ("C", 0): 0})


def test_what_was_computed_is_removed_and_nothing_else(client):
    epoch = ready(client)
    fill(client, epoch, 2500, 10)
    client.mset({"feed:1:meta": "{}", "topics": "{}", "catalogue": "{}", "another": "x", "position:I:0": "7", "clock": "1.0"})
    client.xadd("outbox:I:0", {"topic": "t"})
    assert Recovery(client).begin(epoch)
    epoch, slow = FeatureStore(client).standing().epoch, Recovery(client)
    assert not slow.wipe(epoch, 0.0)
    while not slow.wipe(epoch, 0.001):  # a worker may be killed between any two
        pass
    assert set(client.keys("*")) == {b"positions", b"feed:1:meta", b"topics", b"catalogue", b"another", b"outbox:I:0"}


def test_who_was_erased_stays_known_unless_that_is_what_is_lost(client):
    epoch = ready(client)
    assert FoldStore(client).apply(Change(Position("U", 0, 1), erased={"who": 1234}), 0, "I", 0, epoch).done
    ready(client)
    epoch = ready(client)
    assert FeatureStore(client).erased(["who"]) == {"who": 1234}
    assert Recovery(client).begin(epoch, ["user:1", "erased"])
    assert not client.exists("erased")


def test_a_slow_worker_removes_nothing_that_a_faster_one_has_computed_anew(client):
    epoch = ready(client)
    fill(client, epoch, 5, 5)
    assert Recovery(client).begin(epoch)
    epoch, slow = FeatureStore(client).standing().epoch, Recovery(client)
    assert not slow.wipe(epoch, 0.0)
    assert Recovery(client).wipe(epoch, 10.0)
    assert Recovery(client).go_on(epoch, WIPING, CATALOGUE)
    fill(client, epoch, 5, 5)
    slow.wipe(epoch, 10.0)
    assert not slow.go_on(epoch, WIPING, CATALOGUE)
    assert len(client.keys("user:*")) == 5
    again = FeatureStore(client).standing().epoch
    assert Recovery(client).begin(again)  # and not in the epoch after that either
    slow.wipe(epoch, 10.0)
    assert len(client.keys("user:*")) == 5


def test_another_epoch_alone_leaves_everything_where_it_is(client):
    epoch = ready(client)
    fill(client, epoch, 5, 5)
    Recovery(client).renew("another")
    assert FeatureStore(client).standing().epoch == epoch
    Recovery(client).renew(epoch)
    standing = FeatureStore(client).standing(("U", 0))
    assert standing.epoch not in ("", epoch)
    assert (standing.state, standing.offsets) == (READY, {("U", 0): 1})
    assert Recovery(client).audit("I", 0).keys == []


def test_rebuilds_in_a_row_wait_longer_and_longer_and_one_much_later_does_not(client, monkeypatch):
    now = [1.7e9]
    monkeypatch.setattr(recovery.time, "time", lambda: now[0])
    waits = []
    for _ in range(8):
        ready(client)
        now[0] += 20
        waits.append(Recovery(client).wait())
        now[0] += waits[-1]
    assert waits == [0, 0, 0, 0, 0, 20, 60, 140]
    now[0] += 1000
    assert Recovery(client).wait() == 0
    ready(client)
    assert Recovery(client).wait() == 0


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_removes_keys_when_it_is_full_is_refused_with_the_remedy(client, policy):
    require_no_eviction(client, "redis://here")
    client.config_set("maxmemory-policy", policy)
    try:
        with pytest.raises(
            BadSetting, match=rf"redis://here has maxmemory-policy {policy}.*CONFIG SET maxmemory-policy noeviction"
        ):
            require_no_eviction(client, "redis://here")
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_the_policy_is_found_where_config_is_forbidden(client, redis_url):
    client.acl_setuser("managed", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"])
    client.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        managed = connect(redis_url.replace("redis://", "redis://managed:x@"))
        with pytest.raises(BadSetting, match="allkeys-lfu"):
            require_no_eviction(managed, "redis://here")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.acl_deluser("managed")


def test_keys_of_somebody_else_are_not_removed_but_refused(client):
    client.set("user:17", "of a web shop")
    with pytest.raises(BadSetting, match=r"holds 'user:17', which is not of this system.*FEED_REDIS"):
        require_own(client, "redis://here", lambda: False)
    require_own(client, "redis://here", lambda: True)  # the log was folded before: what else should they be
    client.set("topics", "{}")
    require_own(client, "redis://here", lambda: False)
