"""The watchdog fires on what stands still, and only on that."""

import pytest
from faust.types import TP

from feed.io.kafka import Log
from stream_processors.watchdog import Judge, View

A, B = TP("a", 0), TP("a", 1)
SECONDS = 15.0


def view(assigned=(A, B), done=None, following=None, progress=None, blocked_by=None):
    return View(frozenset(assigned), done or {}, following or {}, progress or {}, blocked_by)


def judged(states, step=5.0):
    """What the judge says at last, when it looks each `step` seconds."""
    judge = Judge(SECONDS)
    said = None
    for n, (logs, seen) in enumerate(states):
        said = judge.stalled(n * step, logs, seen)
    return said


def test_an_idle_worker_is_left_alone_whether_or_not_it_has_ever_committed():
    logs = {A: Log(0, 500, 500), B: Log(0, 0, None)}
    assert judged([(logs, view())] * 20) is None


def test_an_end_that_is_named_too_early_is_no_lag():
    logs = {A: Log(0, 1, 334), B: Log(0, 1, None)}  # as the embedded broker names it: one batch of 334 records
    assert judged([(logs, view(done={B: 334}, following={B: 334}))] * 20) is None


def test_a_log_whose_records_have_all_expired_is_no_lag():
    assert judged([({A: Log(50, 50, None)}, view())] * 20) is None


def test_a_partition_that_is_not_fetched_is_named():
    logs = {A: Log(0, 100, 100), B: Log(0, 100, 40)}
    assert judged([(logs, view())] * 3) is None
    assert judged([(logs, view())] * 4) == "a/1 has stood at 40 of 100 for 15 s: not fetched"


def test_a_partition_that_moves_is_left_alone_however_far_behind():
    assert judged([({A: Log(0, 10**6, n)}, view()) for n in range(50)]) is None
    assert judged([({A: Log(0, 10**6, 0)}, view(done={A: n}, following={A: n + 5})) for n in range(50)]) is None


def test_a_batch_that_waits_its_turn_is_left_alone_while_its_agent_gets_on():
    logs = {A: Log(0, 100, 0)}
    waiting = [(logs, view(done={A: 0}, following={A: 50}, progress={"a": n // 2})) for n in range(20)]
    assert judged(waiting) is None
    stuck = [(logs, view(done={A: 0}, following={A: 50}, progress={"a": 10}))] * 5
    assert judged(stuck[:3]) is None
    assert "its agent is stuck" in judged(stuck)


def test_a_partition_behind_another_topics_full_queue_waits_for_that_agent():
    logs = {A: Log(0, 100, 0)}
    assert judged([(logs, view(progress={"b": n}, blocked_by="b")) for n in range(20)]) is None
    assert judged([(logs, view(progress={"b": 3}, blocked_by="b"))] * 4) is not None


@pytest.mark.parametrize(("committed", "stalls"), [(100, False), (40, True)])
def test_a_worker_without_partitions_ends_when_nobody_does_the_work(committed, stalls):
    said = judged([({A: Log(0, 100, committed)}, view(assigned=()))] * 4)
    assert (said is not None) == stalls
    if stalls:
        assert "no partitions are assigned" in said


def test_other_members_partitions_are_none_of_its_business():
    assert judged([({A: Log(0, 100, 100), B: Log(0, 100, 0)}, view(assigned=[A]))] * 20) is None


def test_after_an_outage_everything_has_its_time_again():
    judge, logs = Judge(SECONDS), {A: Log(0, 100, 0)}
    assert judge.stalled(0.0, logs, view()) is None
    judge.forget()
    assert judge.stalled(20.0, logs, view()) is None
    assert judge.stalled(35.0, logs, view()) is not None
