"""Whatever is better is found out, and nothing else counts as better."""

import copy
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from feed.trial import Comparison, LastSeen, Scorer, judge, judge_return
from tests.trial.people import CHANCE, OTHER, TRUTH, requests

LIMIT = 3000


class Moved(Scorer):
    """The truth's scores, stretched and shifted."""

    def logits(self, *about):
        return 2 * super().logits(*about) + 1

    def catalogue(self, *about):
        return 2 * super().catalogue(*about) + 1


def compare(champion, challenger, examples, limit=LIMIT, decide=judge):
    comparison = Comparison(champion, challenger, alpha=0.01)
    catalogue = LastSeen()
    catalogue.add(requests(100, seed=9), 0)
    for start in range(0, len(examples), 64):
        comparison.see(examples[start : start + 64], catalogue)
        catalogue.add(examples[start : start + 64], start + 64)
        if verdict := decide(comparison, limit):
            return verdict
    return comparison


@pytest.fixture(scope="module")
def promoted():
    return compare(Scorer(OTHER), Scorer(TRUTH), requests(LIMIT))


def broken(trained):
    model = copy.deepcopy(trained.model)
    model.tables[0].data.fill_(float("nan"))
    return replace(trained, model=model)


def test_a_better_challenger_is_promoted_and_the_verdict_says_by_how_much(promoted):
    assert promoted.decision == "promote"
    figures = promoted.figures
    assert figures["difference"]["low"] > 0
    assert figures["log_loss"]["champion"] - figures["log_loss"]["challenger"] == pytest.approx(
        figures["difference"]["mean"], abs=2e-6
    )
    assert figures["auc"]["challenger"] > figures["auc"]["champion"] + 0.1
    assert figures["reciprocal_rank"]["challenger"] > figures["reciprocal_rank"]["champion"]
    assert msgspec.json.decode(msgspec.json.encode(promoted.evidence())) == promoted.evidence()


def test_a_worse_challenger_is_refused_because_it_is_worse():
    verdict = compare(Scorer(TRUTH), Scorer(OTHER), requests(LIMIT))
    assert (verdict.decision, verdict.why[:17]) == ("refuse", "worse by the test")
    assert verdict.figures["difference"]["high"] < 0


def test_a_copy_gets_no_verdict_before_the_limit_and_is_then_given_up():
    assert compare(Scorer(TRUTH), Scorer(TRUTH), requests(1500), limit=1501).outcome is None
    assert compare(Scorer(TRUTH), Scorer(TRUTH), requests(1500), limit=1500).decision == "give up"


def test_an_intercept_and_a_scale_are_no_better_ranking():
    verdict = compare(Scorer(TRUTH), Moved(TRUTH), requests(LIMIT))
    assert (verdict.decision, verdict.why[:17]) == ("refuse", "no better ranking")


def test_scores_that_are_not_finite_are_refused_at_the_first_request():
    verdict = compare(Scorer(TRUTH), Scorer(broken(TRUTH)), requests(100))
    assert (verdict.decision, verdict.why[:10], verdict.figures["requests"]) == ("refuse", "not finite", 1)


@pytest.mark.parametrize("promoted", [broken(TRUTH), OTHER])
def test_a_promoted_version_that_is_broken_or_worse_goes_back(promoted):
    assert compare(Scorer(promoted), Scorer(TRUTH), requests(LIMIT), decide=judge_return).decision == "roll back"


def test_a_promoted_version_that_is_better_stands():
    assert compare(Scorer(TRUTH), Scorer(OTHER), requests(LIMIT), decide=judge_return).decision == "stands"


@pytest.mark.parametrize("source", ["model", "popular", "mixture"])
def test_what_was_chosen_to_be_shown_is_no_evidence(source):
    comparison = compare(Scorer(OTHER), Scorer(TRUTH), requests(1000, source=source), limit=1)
    assert (comparison.requests, comparison.evidence, comparison.outcome) == (1000, 0, None)


def test_of_a_request_only_the_rows_shown_by_chance_count(promoted):
    def beside(example):
        chosen = [msgspec.structs.replace(row, source="model", propensity=1.0, labels={"click": 1}) for row in example.rows]
        return msgspec.structs.replace(example, rows=(*example.rows, *chosen))

    mixed = compare(Scorer(OTHER), Scorer(TRUTH), list(map(beside, requests(LIMIT))))
    for name in ("compared", "clicks", "difference", "auc"):
        assert mixed.figures[name] == promoted.figures[name]


def test_without_impressions_the_rank_of_what_was_engaged_with_decides():
    verdict = compare(Scorer(OTHER), Scorer(TRUTH), requests(LIMIT, organic=True))
    assert (verdict.decision, verdict.figures["figure"]) == ("promote", "reciprocal rank")
    assert compare(Scorer(TRUTH), Scorer(OTHER), requests(LIMIT, organic=True)).decision == "refuse"


def test_when_people_click_at_random_no_model_is_better():
    at_random = requests(2000, chance=np.full_like(CHANCE, 0.08))
    assert compare(Scorer(OTHER), Scorer(TRUTH), at_random, limit=2000).decision == "give up"


def test_a_trial_of_which_nothing_is_to_be_expected_ends_before_the_limit():
    at_random = requests(3000, chance=np.full_like(CHANCE, 0.08))
    verdict = compare(Scorer(OTHER), Scorer(TRUTH), at_random, limit=3200)
    assert (verdict.decision, verdict.why[:51]) == ("give up", "3200 requests with evidence would hardly show anyth")
    assert verdict.figures["difference"]["low"] < 0 < verdict.figures["difference"]["high"]
    assert 1000 <= verdict.figures["with_evidence"] < 3000


def test_a_winner_by_the_test_whose_lists_are_narrow_is_refused(monkeypatch):
    monkeypatch.setattr("feed.trial.verdict.ITEMS", 100.0)
    verdict = compare(Scorer(OTHER), Scorer(TRUTH), requests(LIMIT))
    assert (verdict.decision, verdict.why[:23]) == ("refuse", "guardrail item coverage")


@pytest.mark.parametrize(("errors", "decision"), [(0.9, "promote"), (1.1, "refuse")])
def test_lists_have_too_few_categories_only_if_more_than_a_standard_error_is_missing(promoted, monkeypatch, errors, decision):
    lists = promoted.figures["top_ten"]["challenger"]
    assert lists["error"] > 0
    monkeypatch.setattr("feed.trial.verdict.CATEGORIES", float("inf"))
    monkeypatch.setattr("feed.trial.verdict.ENOUGH", lists["categories"] + errors * lists["error"])
    verdict = compare(Scorer(OTHER), Scorer(TRUTH), requests(LIMIT))
    assert verdict.decision == decision
    assert "guardrail category diversity" in verdict.why or decision == "promote"


def test_the_outcome_is_that_of_the_request_at_which_the_test_speaks_wherever_chunks_end(promoted):
    stopped = promoted.figures["requests"]
    assert compare(Scorer(OTHER), Scorer(TRUTH), requests(LIMIT)[: stopped - 1]).outcome is None
    assert compare(Scorer(OTHER), Scorer(TRUTH), requests(LIMIT)[:stopped]).figures["requests"] == stopped
