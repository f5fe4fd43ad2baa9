"""What is to be done is read off the ledger's lines alone."""

import pytest

from feed.trial import history

FIRST = {"event": "promoted", "version": "v1", "previous": None, "evidence": {"by": "offline/bootstrap.py"}}
FROM = {"topic_id": "T", "from_offset": 640}


def trial(number):
    return {"event": "trial", "number": number, "champion": "v1", "challenger": f"v{number + 1}", "generation": 1, **FROM}


def ended(event, number, why="worse"):
    return {"event": event, "number": number, "challenger": f"v{number + 1}", "why": why}


def promoted(number):
    return {"event": "promoted", "version": f"v{number + 1}", "previous": "v1", "evidence": {"number": number}}


def due(*lines, learners=lambda version: True):
    return history.restart_due([FIRST, *lines], learners)


def test_a_trial_is_open_until_one_line_says_how_it_ended():
    assert history.open_trial([FIRST]) is None
    assert history.open_trial([FIRST, trial(1)]) == trial(1)
    for end in (*(ended(event, 1) for event in ("refused", "gave up", "void")), promoted(1)):
        assert history.open_trial([FIRST, trial(1), end]) is None
        assert history.open_trial([FIRST, trial(1), end, trial(2)]) == trial(2)


def test_who_was_rolled_back_is_not_tried_again():
    assert history.tried([FIRST, {"event": "rolled back", "version": "v1", "instead_of": "v8"}]) == {"v8"}


def test_a_generation_was_made_by_a_trial_or_by_hand():
    lines = [FIRST | {"generation": 1}, promoted(1) | {"generation": 2}]
    assert [history.won_a_trial(lines, generation) for generation in (1, 2, 3)] == [False, True, False]


def test_numbers_and_promotions_are_those_of_trials():
    lines = [FIRST, trial(1), ended("refused", 1), trial(2), promoted(2)]
    assert (history.next_number([FIRST]), history.next_number(lines)) == (1, 3)
    assert history.promotions(lines) == [2]
    assert history.tried([*lines, {"event": "refused", "challenger": "v9", "why": "held"}]) == {"v2", "v3", "v9"}


def test_only_offsets_of_this_log_count():
    assert history.reached([FIRST, trial(1)], "T") == 640
    assert history.reached([FIRST, trial(1)], "another") == 0


def test_three_refusals_in_a_row_and_not_two_restart_the_learner_once():
    three = [ended("refused", n) for n in (1, 2, 3)]
    assert due(*three[:2]) is None
    assert due(*three) == "3 refusals in a row"
    assert due(*three, {"event": "restart"}) is None
    assert due(*three, {"event": "restart"}, *three[:2]) is None


@pytest.mark.parametrize("between", [ended("gave up", 9), promoted(9)])
def test_a_give_up_and_a_promotion_end_the_row_of_refusals(between):
    assert due(ended("refused", 1), ended("refused", 2), between, ended("refused", 3)) is None


def test_held_weights_restart_the_learner_at_once():
    assert "held by the guard" in due(ended("refused", 1, "held by the guard: the loss is not finite"))


def test_anothers_version_as_champion_and_a_roll_back_restart_the_learner():
    assert due(learners=lambda version: False) is None  # the first: the learner began with it
    assert due(promoted(1)) is None
    assert "v2" in due(promoted(1), learners=lambda version: False)
    assert "v3" in due({"event": "rolled back", "version": "v1", "instead_of": "v3"})
