"""The guard: lets what is usual pass, refuses what cannot be right, holds when that goes on."""

import math
import random

import msgspec
import pytest

from feed.learning.guard import FIRST, PATIENCE, Guard


def usual(steps: int, seed: int = 0) -> Guard:
    guard, draw = Guard.new(), random.Random(seed)
    for _ in range(steps):
        assert guard.refuses(1.5 * math.exp(draw.gauss(0, 0.1)), 0.8 * math.exp(draw.gauss(0, 0.3))) is None
    return guard


def steady() -> Guard:
    guard = Guard.new()
    for _ in range(100):
        assert guard.refuses(1.5, 0.8) is None
    return guard


@pytest.mark.parametrize("seed", range(5))
def test_two_thousand_usual_steps_pass(seed):
    assert usual(2000, seed).refused_ever == 0


def test_a_slow_change_of_level_passes():
    guard = Guard.new()
    assert all(guard.refuses(0.5 * 1.01**k, 0.5 * 1.01**k) is None for k in range(500))  # 144 times as high in the end


@pytest.mark.parametrize(
    ("loss", "norm", "why"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (1.5, math.nan, "norm is nan"),
        (15.0, 0.8, "the loss is 15, lately it was 1.5"),
        (1.5, 800.0, "norm is 800, lately it was 0.8"),
    ],
)
def test_what_cannot_be_right_is_refused_with_a_reason_and_moves_no_level(loss, norm, why):
    guard = steady()
    before = msgspec.json.encode([guard.loss, guard.norm])
    assert why in str(guard.refuses(loss, norm))
    assert msgspec.json.encode([guard.loss, guard.norm]) == before
    assert guard.refuses(1.5, 0.8) is None
    assert guard.held is None


def test_the_first_steps_set_the_level_but_must_be_numbers():
    guard = Guard.new()
    assert guard.refuses(math.nan, 1.0) == "the loss is nan"
    assert all(guard.refuses(loss, 1.0) is None for loss in [1.0, 50.0] * (FIRST // 2))


def test_as_many_refusals_in_a_row_hold_and_one_fewer_do_not():
    guard = steady()
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            assert guard.refuses(math.nan, 1.0)
        assert guard.held is None
        assert guard.refuses(1.5, 0.8) is None
    for _ in range(PATIENCE):
        assert guard.refuses(1000.0, 1.0)
    assert guard.held == "10 steps refused in a row, the last because the loss is 1e+03, lately it was 1.5"
