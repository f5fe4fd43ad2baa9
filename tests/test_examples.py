"""Which records of `training-examples` can be learned from."""

from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from feed import wire
from feed.errors import Unreadable
from feed.examples import Example, SetAside, decode_record
from feed.features.frozen import BAGS, NEAREST
from feed.learning.loss import prepare
from tests.learning import taught

GOOD = taught.example(1)
FIRST = GOOD.rows[0]


def of_user(**changed) -> Example:
    return replace(GOOD, user=replace(GOOD.user, **changed))


def of_first(**changed) -> Example:
    return replace(GOOD, rows=(replace(FIRST, **changed), *GOOD.rows[1:]))


ODD = {
    "length >= 1 - at `$.rows`": replace(GOOD, rows=()),
    "at `$.at`": replace(GOOD, at=1e300),
    "at `$.sequence`": replace(GOOD, sequence=-1),
    "at `$.user.numeric[0]`": of_user(numeric=(1e300, *GOOD.user.numeric[1:])),
    "at `$.user.bags[...][0][1]`": of_user(bags={**GOOD.user.bags, "recent": (("a", 1e3),)}),
    "at `$.user.near[0][1]`": of_user(near=(("a", -1.0, 0.0),)),
    "at `$.rows[0].near[0]`": of_first(near=(1e300, 0.0)),
    "at `$.rows[0].score`": of_first(score=-1e300),
    "at `$.rows[0].position`": of_first(position=10**19),
    "at `$.rows[0].labels[...]`": of_first(labels={"click": -1}),
    "its user has 1 numbers": of_user(numeric=(0.0,)),
    "bags": of_user(bags={}),
    f"'recent': {BAGS['recent']}": of_user(bags={**GOOD.user.bags, "recent": (("a", 1.0),) * (BAGS["recent"] + 1)}),
    f"more than {NEAREST}": of_user(near=tuple((str(k), 1.0, 0.5) for k in range(NEAREST + 1))),
    "hour='noon'": of_user(context={"hour": "noon"}),
    "has 0 numbers": of_first(item=replace(FIRST.item, numeric=())),
    "at `$.rows[0].propensity`": of_first(propensity=0.0),
}


@pytest.mark.parametrize("why", ODD)
def test_an_example_that_no_model_could_read_is_passed_over_and_told_with_its_offset_and_what_ails_it(why):
    value = wire.encode(ODD[why])
    with capture_logs() as said:
        set_aside = SetAside()
        assert set_aside.read(17, value) is None
    assert set_aside.count == 1
    (line,) = said
    assert line["offset"] == 17
    assert why in line["reason"]
    with pytest.raises(Unreadable, match="example 'e1' of source 0"):
        decode_record(value)


def test_an_example_of_before_there_was_co_visitation_can_be_read():
    written = msgspec.to_builtins(GOOD)
    del written["user"]["near"]
    assert all("near" not in row for row in written["rows"])
    assert decode_record(wire.encode(written)) == GOOD


@pytest.mark.parametrize(
    "change",
    [
        lambda: of_user(bags=dict.fromkeys(BAGS, ()), context={}, profile={}),
        lambda: of_first(item=replace(FIRST.item, category=None, creator_id=None, tags=(), attributes={}), propensity=None),
        lambda: replace(GOOD, rows=GOOD.rows[:1], at=0.0),
    ],
)
def test_an_example_of_which_little_is_known_is_one_and_can_be_read_by_a_model(change: Callable[[], Example]):
    example = change()
    assert decode_record(wire.encode(example)) == example
    _, start = taught.world()
    assert prepare(example, start.space) is not None
