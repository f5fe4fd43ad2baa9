import msgspec

from feed.examples import Row
from feed.trial.catalogue import LOOKBACK, LastSeen
from feed.trial.scoring import Scorer
from tests.trial.people import ALL_ITEMS, NEAR, TRUTH, requests


def held(catalogue):
    return {item_id: catalogue.items[slot] for item_id, slot in catalogue.slot.items()}


def test_an_item_is_as_it_was_shown_last():
    (example,) = requests(1)
    changed = msgspec.structs.replace(example.rows[0].item, numeric=(9.0,) * 9)
    catalogue = LastSeen()
    catalogue.add([example], 1)
    catalogue.add([msgspec.structs.replace(example, rows=(msgspec.structs.replace(example.rows[0], item=changed),))], 2)
    assert held(catalogue)[changed.item_id] == changed
    assert len(catalogue) == 4


def test_it_is_a_function_of_the_last_records_alone():
    examples = requests(30)
    long, short = LastSeen(), LastSeen()
    long.add(examples[:5], 5)
    for catalogue in (long, short):
        catalogue.add(examples[5:], LOOKBACK + 5)
    assert held(long) == held(short)
    assert not any(item is None for item in (held(long)).values())


def test_scores_of_the_catalogue_follow_what_changed_in_it():
    examples = requests(40, rows=30)
    catalogue, scorer = LastSeen(), Scorer(TRUTH)
    catalogue.add(examples[:1], 1)
    scorer.catalogue(examples[:1], catalogue)
    catalogue.add(examples, 2)
    scores = scorer.catalogue(examples[:3], catalogue)
    rows = [Row(item, near=near) for e in examples[:3] for item, near in zip(ALL_ITEMS, NEAR[int(e.user.user_id)], strict=True)]
    fresh = Scorer(TRUTH).logits(examples[:3], rows, [k // 60 for k in range(180)]).reshape(3, 60)
    for k, item in enumerate(ALL_ITEMS):
        assert abs(scores[:, catalogue.slot[item.item_id]] - fresh[:, k]).max() < 1e-5
