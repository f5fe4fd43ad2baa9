"""The gatekeeper decides every trial once, for the same reason, whenever it is killed."""

import json
from itertools import count

import pytest
from msgspec.structs import replace

from feed.examples import RaiseRate, Restart
from feed.io.kafka import Record, Sender, ensure_topics, follow_topic
from feed.learning.state import CREATED_BY
from feed.models import snapshot as snapshots
from feed.registry import Registry
from feed.trial import history
from feed.wire import Topic, encode
from offline.contenders import CHUNK
from offline.gatekeeper import Gatekeeper, follow
from tests.trial.people import NOW, OTHER, TRUTH, requests

LIMIT = 2500
LOG = [
    Record("training-examples", 0, offset, b"", encode(example))
    for offset, example in enumerate(requests(200, seed=3, at=NOW - 200) + requests(LIMIT, start=200))
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


def publish(registry, trained, *, nan=False, challenger=True, **about):
    def write(folder):
        manifest = {"created_by": CREATED_BY, "learned_until": NOW - 1, "position": None, **about}
        weights = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
        model = type(trained.model)(trained.space.user_spec, trained.space.item_spec, trained.space.sizes)
        model.load_state_dict({name: tensor * float("nan") if nan else tensor for name, tensor in weights.items()})
        snapshots.save(folder, model, trained.space, manifest)

    return registry.publish(write, challenger=challenger)


def gatekeeper(registry, sent=None, limit=LIMIT):
    return Gatekeeper(registry, "T", limit, (sent if sent is not None else []).append)


def run(keeper, log=LOG, until=None):
    """Feed the records as the service does, with looks between; stop when `until` says so."""
    for record in log[keeper.start :]:
        if record.offset % 10 == 0:
            keeper.look()
            if until and until():
                return
        keeper.see(record)
    keeper.look()


def events(registry):
    return [line["event"] for line in registry.ledger()]


def line(registry, event):
    (found,) = [line for line in registry.ledger() if line["event"] == event]
    return found


def test_a_better_challenger_becomes_champion_with_its_evidence_in_the_ledger(registry):
    worse = publish(registry, OTHER)
    registry.promote(worse)
    better = publish(registry, TRUTH)
    run(gatekeeper(registry), until=lambda: registry.generation() == 2)
    assert registry.champion().version == better
    trial, evidence = line(registry, "trial"), registry.ledger()[-2 if events(registry)[-1] == "watch" else -1]["evidence"]
    assert (trial["champion"], trial["challenger"], trial["number"]) == (worse, better, 1)
    assert (evidence["number"], evidence["decision"], evidence["why"][:18]) == (1, "promote", "better by the test")
    assert evidence["difference"]["low"] > 0


def test_evidence_is_later_than_both_positions_what_was_read_and_what_either_learned_from(registry):
    registry.promote(publish(registry, OTHER, learned_until=NOW - 50))
    publish(registry, TRUTH, learned_until=NOW + 500, position={"topic_id": "T", "partition": 0, "offset": 400})
    keeper = gatekeeper(registry)
    run(keeper, until=lambda: "trial" in events(registry))
    trial = line(registry, "trial")
    assert (trial["from_offset"], trial["after"]) == (448, NOW + 500)  # the next chunk
    run(keeper, until=lambda: registry.generation() == 2)
    seen = registry.ledger()[-1 if events(registry)[-1] == "promoted" else -2]["evidence"]["requests"]
    assert 0 < seen <= sum(example.at > NOW + 500 for example in requests(LIMIT, start=200))


def test_a_position_in_another_log_does_not_count(registry):
    registry.promote(publish(registry, OTHER))
    publish(registry, TRUTH, position={"topic_id": "gone", "partition": 0, "offset": 10**6})
    run(gatekeeper(registry), LOG[:100])
    assert line(registry, "trial")["from_offset"] == 0


def test_copies_of_examples_count_once(registry):
    registry.promote(publish(registry, OTHER))
    publish(registry, TRUTH)
    twice = [record._replace(offset=k) for k, record in enumerate(r for r in LOG[:1200] for _ in (0, 1))]
    run(gatekeeper(registry, limit=100), twice, until=lambda: "gave up" in events(registry))
    assert 100 <= line(registry, "gave up")["with_evidence"] < 100 + CHUNK  # a chunk of the log holds half as many
    assert line(registry, "gave up")["requests"] == line(registry, "gave up")["offset"] / 2 - 200  # those were too early


@pytest.mark.parametrize(("rule", "counted"), [("never", 0), ("always", 500 - 500 % CHUNK)])
def test_who_came_back_to_what_they_took_is_evidence_only_where_the_champion_shows_items_again(registry, rule, counted):
    registry.promote(publish(registry, OTHER, challenger=False, repeats={"rule": rule}))
    publish(registry, TRUTH)
    back = [replace(example, again=True) for example in requests(500)]
    keeper = gatekeeper(registry)
    run(keeper, [Record("training-examples", 0, offset, b"", encode(example)) for offset, example in enumerate(back)])
    assert keeper._trial.comparison.requests == counted


def verdicts(registry, log, kill_at):
    """The ledger after a run in which the gatekeeper is made anew at these offsets."""
    keeper, sent = gatekeeper(registry, []), []
    stops = iter([*sorted(kill_at), len(log)])
    for stop in stops:
        run(keeper, log[:stop])
        keeper = gatekeeper(registry, sent)
    return [
        {k: v for k, v in line.items() if k not in ("at", "latency_ratio")}
        for line in registry.ledger()
        if line["event"] != "published"
    ]


def test_killed_again_and_again_it_gives_the_same_verdicts_and_each_once(tmp_path):
    ledgers = []
    for name, kills in (("whole", ()), ("killed", (310, 640, 1003, 1400))):
        registry = Registry(tmp_path / name)
        registry.promote(publish(registry, TRUTH))
        publish(registry, OTHER)
        ledgers.append(verdicts(registry, LOG[:1800], kills))
    assert [entry["event"] for entry in ledgers[0]] == ["promoted", "trial", "refused"]
    assert json.dumps(ledgers[0]) == json.dumps(ledgers[1])


def test_killed_between_a_promotion_and_its_line_it_does_not_try_again(registry):
    champion = publish(registry, OTHER)
    registry.promote(champion)
    publish(registry, TRUTH)
    keeper = gatekeeper(registry)
    run(keeper, until=lambda: registry.generation() == 2)
    ledger = next(registry.folder(champion).parent.parent.glob("ledger.jsonl"))
    lines = ledger.read_text().splitlines(keepends=True)
    until_promoted = max(k for k, text in enumerate(lines) if json.loads(text)["event"] == "promoted")
    ledger.write_text("".join(lines[:until_promoted]))  # as it is if the writer dies after the role file
    (ledger.parent / "roles" / "previous.json").unlink(missing_ok=True)
    run(gatekeeper(registry), LOG[:1])
    assert events(registry).count("trial") == 1
    assert [line["evidence"].get("number") for line in registry.ledger() if line["event"] == "promoted"] == [None, 1]
    assert "void" not in events(registry)


def test_a_trial_is_void_when_another_becomes_champion_meanwhile(registry):
    registry.promote(publish(registry, OTHER))
    publish(registry, TRUTH)
    keeper = gatekeeper(registry)
    run(keeper, until=lambda: "trial" in events(registry))
    registry.promote(publish(registry, OTHER, challenger=False))
    run(keeper, LOG[:300], until=lambda: "void" in events(registry))
    assert line(registry, "void")["number"] == 1
    assert "refused" not in events(registry)


@pytest.mark.parametrize(("forced", "nan"), [(OTHER, False), (OTHER, True)])
def test_a_bad_champion_forced_in_by_hand_is_rolled_back_and_the_learner_told(registry, forced, nan):
    good = publish(registry, TRUTH)
    registry.promote(good)
    bad = publish(registry, forced, nan=nan, challenger=False)
    registry.promote(bad, evidence={"by": "by hand"})
    sent = []
    run(gatekeeper(registry, sent), until=lambda: "restart" in events(registry))
    back = line(registry, "rolled back")
    assert (registry.champion().version, back["instead_of"], back["evidence"]["decision"]) == (good, bad, "roll back")
    assert sent == [Restart(good, f"{bad} was rolled back to {good}")]


def watched(registry, log, forced_at, sent=None):
    """The ledger's watch of a bad version that is promoted by hand when this much of the log is read, and the gatekeepers."""
    registry.promote(publish(registry, TRUTH))
    keepers = [gatekeeper(registry, sent)]
    run(keepers[0], log[:forced_at])
    registry.promote(publish(registry, OTHER, challenger=False), evidence={"by": "by hand"})
    keepers[0].look()
    while keepers[-1].behind:
        keepers.append(gatekeeper(registry, sent))
        run(keepers[-1], log[:forced_at])
    return line(registry, "watch"), keepers


def test_a_champion_forced_in_by_hand_is_judged_by_what_chance_showed_before(registry):
    opened, keepers = watched(registry, LOG, 1800)
    assert (opened["from_offset"], len(keepers), keepers[0].behind) == (0, 2, True)
    assert events(registry)[-2:] == ["rolled back", "restart"]  # without one more record
    assert line(registry, "rolled back")["evidence"]["offset"] < 1800


def test_but_not_by_what_was_before_an_alert(registry):
    alarm = Record("training-examples", 0, 1500, b"", encode(RaiseRate(3.0, 5000, "everything is new")))
    log = [*LOG[:1500], alarm, *(record._replace(offset=record.offset + 1) for record in LOG[1500:])]
    opened, keepers = watched(registry, log, 1800)
    assert (opened["from_offset"], len(keepers)) == (1536, 2)  # the next chunk
    assert events(registry)[-1] == "watch"  # 300 requests show nothing
    run_on(keepers[-1], log[1800:])
    assert "rolled back" in events(registry)


def test_the_winner_of_a_trial_is_watched_from_then_on_only(registry):
    registry.promote(publish(registry, OTHER))
    publish(registry, TRUTH)
    keeper = gatekeeper(registry)
    run(keeper, until=lambda: "watch" in events(registry))
    promoted = next(line for line in registry.ledger() if line.get("generation") == 2 and line["event"] == "promoted")
    assert line(registry, "watch")["from_offset"] >= promoted["evidence"]["offset"]
    assert not keeper.behind


def test_held_weights_are_refused_without_a_trial_and_the_learner_starts_again_once(registry):
    champion = publish(registry, TRUTH)
    registry.promote(champion)
    held = publish(registry, OTHER, held="the loss is not finite")
    sent = []
    for _ in range(3):
        run(gatekeeper(registry, sent), LOG[:100])
    refused = line(registry, "refused")
    assert (refused["challenger"], refused["why"]) == (held, "held by the guard: the loss is not finite")
    assert [command.version for command in sent] == [champion]


def test_challengers_are_tried_one_after_another_and_never_twice(registry):
    registry.promote(publish(registry, TRUTH))
    sent, published = [], count()

    def feed_challengers():
        if registry.challenger() in {line["challenger"] for line in registry.ledger() if line["event"] == "refused"} | {None}:
            publish(registry, OTHER, nan=True, learned_until=NOW - 1 + next(published))
        return bool(sent)

    run(gatekeeper(registry, sent), until=feed_challengers)
    tried = [line["challenger"] for line in registry.ledger() if line["event"] == "trial"]
    assert len(tried) == len(set(tried)) == 3
    assert all(line["why"].startswith("not finite") for line in registry.ledger() if line["event"] == "refused")
    assert [command.why for command in sent] == ["3 refusals in a row"]


def test_it_follows_a_real_log_and_answers_into_it(registry, broker):
    topic = Topic("gatekeeper-follows", partitions=1)
    ensure_topics(broker, 1, [topic])
    champion = publish(registry, TRUTH)
    registry.promote(champion)
    publish(registry, OTHER, held="the weights exploded")
    with Sender(broker) as sender:
        for example in requests(CHUNK * 2):
            sender.send(topic, "1", example)
        sender.send_raw(topic.name, 0, b"", b"not JSON")
        sender.flush()

        def send(command):
            sender.send(topic, "gatekeeper", command)
            sender.flush()

        records = follow_topic(broker, topic, 0, seconds=0.5)
        follow(Gatekeeper(registry, "T", LIMIT, send), records, lambda: None, once=True)
        records.close()
    values = [record.value for record in _all(broker, topic)]
    assert json.loads(values[-1])["version"] == champion


def _all(broker, topic):
    for record in follow_topic(broker, topic, 0, seconds=0.5):
        if record is None:
            return
        yield record


def test_an_alert_ends_the_trial_and_the_next_challenger_has_learned_from_what_came_after(registry):
    registry.promote(publish(registry, OTHER))
    before = publish(registry, TRUTH, steps_since_parent=100)
    alarm = Record("training-examples", 0, 640, b"", encode(RaiseRate(3.0, 5000, "everything is new")))
    log = [*LOG[:640], alarm, *(record._replace(offset=record.offset + 1) for record in LOG[640:2000])]
    keeper = gatekeeper(registry)
    run(keeper, log[:900])
    assert "gave up" in events(registry)
    assert line(registry, "gave up")["challenger"] == before
    assert line(registry, "gave up")["why"] == "the world has changed: everything is new"
    early = publish(registry, TRUTH, steps_since_parent=100, position={"topic_id": "T", "partition": 0, "offset": 900})
    run_on(keeper, log[900:1800])
    assert early not in history.tried(registry.ledger())
    late = publish(registry, TRUTH, steps_since_parent=100, position={"topic_id": "T", "partition": 0, "offset": 1700})
    run_on(keeper, log[1800:1900])
    assert late in history.tried(registry.ledger())


def test_a_version_that_another_made_is_tried_before_the_learners(registry):
    registry.promote(publish(registry, OTHER))
    trained_anew = publish(registry, TRUTH, created_by="offline/bootstrap.py")
    publish(registry, TRUTH)
    run(gatekeeper(registry), LOG[:100])
    assert line(registry, "trial")["challenger"] == trained_anew


def test_a_learner_that_has_hardly_begun_is_not_tried(registry):
    registry.promote(publish(registry, OTHER))
    publish(registry, TRUTH, steps_since_parent=3)
    run(gatekeeper(registry), LOG[:100])
    assert "trial" not in events(registry)


def run_on(keeper, records):
    """More records for the same gatekeeper."""
    for record in records:
        keeper.see(record)
        if record.offset % 10 == 0:
            keeper.look()
    keeper.look()
