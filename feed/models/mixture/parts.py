"""Which parts of the mixture are there, so that each can be left out and its worth be measured."""

from dataclasses import dataclass

SMALL = 2048  # items up to which every one is a candidate


@dataclass(frozen=True)
class Parts:
    """The columns, `prior`, `covisitation` (with content) and `two_tower`, and what they are made of.

    `mixing`: the columns' weights learn, or stay where they start. `attributes`: what is known beforehand of users and items.
    Of the towers: `history`, the user's pooled positives; `sequence`, a transformer over them in place of the pool; `context`,
    a third tower that reads the moment; `ids`, an item's own embedding and bias in its own tower, not in histories;
    `residual`, the other columns' score as an offset; `replay`, the reservoir of online steps; `small`, items of a catalogue up
    to which every one is a candidate, and `logq`, the correction of a sample beyond. `skipped`: what was shown beside a
    positive and not taken weighs, together, so many times what the whole catalogue weighs in a step of the columns' weights.
    """

    prior: bool = True
    covisitation: bool = True
    two_tower: bool = True
    mixing: bool = True
    attributes: bool = True
    history: bool = True
    sequence: bool = False
    context: bool = False
    ids: bool = True
    residual: bool = True
    replay: bool = True
    logq: bool = True
    small: int = SMALL
    skipped: float = 0.0


WHOLE = Parts()
