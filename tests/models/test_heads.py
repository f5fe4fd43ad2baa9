import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from feed import kinds
from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, Click, Comment, Hide, Impression, Like, Share, Shown, View, adopt, utc
from feed.features.near import SAID, Nearby, columns
from feed.models import heads
from feed.models.heads import Head
from feed.models.pairs import Log, pairs_of
from feed.models.two_tower import NEAR, OF_LOGIT, OF_PRIOR, WIDTH
from feed.objective import TASKS

START = 1_700_000_000.0
CLICK, COMMENT, HIDE = TASKS.index("click"), TASKS.index("comment"), TASKS.index("hide")


def rows(n, seed=0):
    """u * v of n rows, as wide as a trained model's."""
    return np.random.default_rng(seed).normal(0, 0.15, (n, WIDTH))


def chances(z, a, w, b):
    return 1 / (1 + np.exp(-(z @ (a * OF_LOGIT.numpy() + w) + b)))


def followed(seed, **p):
    """bool (n, tasks): each task by its chances (n,), tasks not named never."""
    n = len(next(iter(p.values())))
    draw = np.random.default_rng(seed)
    return np.stack([draw.random(n) < p.get(task, np.zeros(n)) for task in TASKS], axis=1)


def test_a_head_is_calibrated_on_rows_it_has_not_seen_and_beats_the_base_rate():
    z, later, w = rows(20_000), rows(20_000, 1), np.zeros(WIDTH)
    w[:4] = 2.0
    found = heads.fit(z, followed(2, click=chances(z, 0.8, w, -1.5), comment=chances(z, 0.8, 0 * w, -4.5)))
    labels = followed(3, click=chances(later, 0.8, w, -1.5), comment=chances(later, 0.8, 0 * w, -4.5))
    for task, k in (("click", CLICK), ("comment", COMMENT)):
        p, y = heads.predicted(found[task], later), labels[:, k]
        for tenth in np.array_split(np.argsort(p), 10):
            assert p[tenth].mean() == pytest.approx(y[tenth].mean(), abs=4 * (p[tenth].mean() / len(tenth)) ** 0.5)
    figures = heads.figures(found, labels, later, labels)["click"]
    p = heads.predicted(found["click"], later)
    assert figures["log_loss"] == pytest.approx(log_loss(labels[:, CLICK], p))
    assert figures["log_loss"] < figures["log_loss_of_base_rate"] - 0.02
    assert (figures["predicted"], figures["followed"]) == pytest.approx((p.mean(), labels[:, CLICK].mean()))


def test_the_penalised_likelihood_has_no_slope_at_what_was_found():
    z = rows(500)
    y = followed(1, click=chances(z, 1.0, np.zeros(WIDTH), -1.0))
    head = heads.fit(z, y)["click"]
    a, w, b = torch.tensor(head.a), head.w.clone(), torch.tensor(head.b)
    for t in (a, w, b):
        t.requires_grad_()
    z32, s = torch.from_numpy(z).float(), torch.from_numpy(z[:, OF_LOGIT.bool().numpy()].sum(axis=1)).float()
    logits = a * s + z32 @ w + b
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y[:, CLICK]).float(), reduction="sum")
    unit = np.full(WIDTH, z[:, OF_LOGIT.bool().numpy()].var(axis=0).mean(), np.float32)
    unit[OF_PRIOR] = z[:, OF_PRIOR].var(axis=0).mean()
    ridge = heads.RIDGE * (torch.from_numpy(unit) * w**2).sum() + heads.RIDGE_LOGIT * float(s.var(correction=0)) * a**2
    (loss + ridge / 2).backward()
    for t in (a, w, b):
        assert t.grad.abs().max() < 2e-2, "of a loss of some 250"
    assert float(torch.sigmoid(logits.detach()).mean()) == pytest.approx(y[:, CLICK].mean(), abs=1e-4)


@pytest.mark.parametrize("mean", [2.0, -2.0])
def test_logits_that_hardly_differ_leave_the_base_rate(mean):
    z = np.random.default_rng(4).normal(mean / WIDTH, 0.01 / 8, (4_000, WIDTH))
    labels = followed(5, click=np.full(4_000, 0.18), hide=np.full(4_000, 0.009))
    for task, head in heads.fit(z, labels).items():
        share = labels[:, TASKS.index(task)].mean()
        assert heads.predicted(head, z).mean() == pytest.approx(share, rel=1e-3)


def test_the_fewer_events_the_nearer_a_head_is_to_the_logit_and_then_to_its_base_rate():
    z, w = rows(20_000), np.zeros(WIDTH)
    w[:4] = 2.0
    norms, events, spread = [], [], []
    for b in (-1.0, -3.0, -5.0, -8.0):
        y = followed(4, comment=chances(z, 0.8, w, b))
        head = heads.fit(z, y)["comment"]
        norms.append(float(head.w.norm()))
        events.append(int(y.sum()))
        spread.append(np.log(heads.predicted(head, z)).std())
        assert heads.predicted(head, z).mean() == pytest.approx(y[:, COMMENT].mean(), rel=1e-3)
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.1 * norms[0]
    assert events[-1] < 20
    once = followed(5, share=np.ones(len(z)))
    once[1:] = False
    head = heads.fit(z, once)["share"]
    assert np.log(heads.predicted(head, z)).std() < 0.2 * spread[-1], "one event says next to nothing"


def test_what_always_or_never_follows_has_no_head():
    z = rows(100)
    y = followed(0, click=np.ones(100), like=np.full(100, 0.5))
    assert set(heads.fit(z, y)) == {"like"}
    assert heads.fit(z[:0], y[:0]) == {}


def test_a_head_sees_the_same_in_vectors_of_many_users_and_items_as_in_their_products():
    torch.manual_seed(0)
    u, v = torch.randn(3, WIDTH), torch.randn(5, WIDTH)
    head = Head(0.7, torch.randn(WIDTH), -1.0)
    v[:, -NEAR:] = 0
    near = np.random.default_rng(0).random((3, 5, len(SAID))).astype(np.float32)
    pairs = v.expand(3, 5, WIDTH).clone()
    pairs[..., -NEAR:] = torch.from_numpy(columns(near))
    z = (u[:, None] * pairs).double().numpy().reshape(15, WIDTH)
    said = [Nearby(np.arange(5), of_user) for of_user in near]
    np.testing.assert_allclose(
        head.logits(u, v, said).sigmoid().numpy().ravel(), heads.predicted(head, z), rtol=1e-4, atol=1e-6
    )


def event(kind, at, item, **more):
    about = {"event_id": f"{at}{item}{kind.__name__}", "user_id": "u", "occurred_at": utc(START + at)}
    return kind(**about, items=(Shown(item, 0),)) if kind is Impression else kind(**about, item_id=item, **more)


def test_what_followed_is_what_was_done_within_half_an_hour_of_the_first_look():
    events = [
        event(Impression, 0, "a"), event(View, 1, "a", dwell_ms=6000), event(Click, 2, "a"), event(View, 3, "b", dwell_ms=6000),
        event(View, 4, "c"), event(View, 5, "a", dwell_ms=6000), event(Share, 1801, "a"), event(Comment, 1802, "a"),
        event(Hide, 1804, "c"), event(Like, 1805, "c"), event(Like, 1806, "unknown"),
    ]  # fmt: skip
    log = Log([Item(item_id=i) for i in "abc"], [User(user_id="u")], events)
    pairs = pairs_of(log)
    assert [pair.item_id for pair in pairs] == ["a", "b", "c"]
    labels = heads.followed(log, pairs)
    assert [[task for task, y in zip(TASKS, row, strict=True) if y] for row in labels] == [
        ["click", "share", "dwell"],  # the comment came a second too late; two looks of 6 s are one of 12 s
        [],
        ["hide"],
    ]
    assert heads.followed(log, pairs[1:]).tolist() == labels[1:].tolist()


def test_a_kind_of_ones_own_has_a_head_which_stays_when_the_kind_is_named_no_more():
    adopt(kinds.parse("purchase=positive"))
    log = Log([Item(item_id=i) for i in "ab"], [], [event(ENGAGEMENTS["purchase"], 0, "a"), event(View, 1, "b")])
    assert heads.followed(log, pairs_of(log)).tolist() == [[False] * 6 + [True], [False] * 7]
    z, draw = rows(4000), np.random.default_rng(1)
    bought = draw.random((4000, 1)) < chances(z, 1.0, np.zeros(WIDTH), -1.0)[:, None]
    found = heads.fit(z, np.concatenate([np.zeros((4000, 6), bool), bought], axis=1))
    assert list(found) == ["purchase"]
    assert heads.predicted(found["purchase"], z).mean() == pytest.approx(bought.mean(), rel=0.01)
    adopt()
    assert list(heads.from_tensors(heads.to_tensors(found))) == ["purchase"]


def test_heads_are_the_same_after_a_journey_as_tensors_and_others_are_refused_by_name():
    torch.manual_seed(0)
    found = {"hide": Head(-0.5, torch.randn(WIDTH), -3.0), "click": Head(0.5, torch.randn(WIDTH), 1.0)}
    tensors = heads.to_tensors(found)
    again = heads.from_tensors(tensors)
    assert list(again) == ["click", "hide"]
    for task, head in found.items():
        assert (again[task].a, again[task].b, again[task].w.tolist()) == (head.a, head.b, head.w.tolist())
    with pytest.raises(ValueError, match=r"head 'hide' has shapes \(1,\), \(3,\), \(1,\)"):
        heads.from_tensors({**tensors, "hide.w": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"laugh\.a"):
        heads.from_tensors({**tensors, "laugh.a": torch.zeros(1)})
