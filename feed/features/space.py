"""From states to model inputs: scales and vocabularies, fitted once, stored with the weights, identified by a fingerprint.

Raw numbers pass through sign(x) log(1 + |x|) and are standardised; tokens become rows of a vocabulary, where row 0 stands for
everything unknown; bags keep weights beside their rows. Users and items share the vocabularies of categories, creators, tags
and items, so that an affinity and what it is an affinity to meet in one embedding table. A learner's vocabularies grow (see
`feed.learning.growth`); each state of them is a space of its own, with the same scales.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from msgspec import Struct

from feed.catalogue import Item
from feed.errors import BadModel
from feed.events import MOST_ATTRIBUTES
from feed.features import items as item_features
from feed.features import user as user_features
from feed.features.frozen import BAGS, ItemFeatures, UserFeatures, freeze_user
from feed.features.inputs import Inputs, InputSpec
from feed.features.items import ItemTable
from feed.features.user import PROFILE, UserState

FORMAT = 5  # raise when the meaning of any feature changes: old weights are then refused
VOCABULARY_BOUND = 50_000
ITEM_EVIDENCE = 5  # positives an item needs before it has a row of its own
VOCABULARY_OF_BAG = {
    "categories": "category", "creators": "creator", "tags": "tag", "recent": "item",
    "lately_categories": "category", "lately_tags": "tag",
}  # fmt: skip
TAGS_OF_ITEM = 8
HOUR_ANGLE = 2 * np.pi / 24
SEGMENTS = (0, 1, 10)  # positives remembered of a user from which on the user is in segment 0, 1, 2


class _Definition(Struct, frozen=True):
    """What is stored: everything that decides how a state becomes numbers."""

    format: int
    vocabularies: dict[str, tuple[str, ...]]
    user_numeric: tuple[str, ...]
    user_categorical: tuple[tuple[str, str], ...]
    item_numeric: tuple[str, ...]
    item_categorical: tuple[tuple[str, str], ...]
    user_mean: tuple[float, ...] = ()
    user_scale: tuple[float, ...] = ()
    item_mean: tuple[float, ...] = ()
    item_scale: tuple[float, ...] = ()


class FeatureSpace:
    """How states become `Inputs`.

    `user_spec`, `item_spec` name the columns; `sizes` gives each vocabulary's number of rows, row 0 (unknown) included;
    `fingerprint` is the sha256 of the definition: weights fit one fingerprint only.
    """

    def __init__(self, definition: _Definition) -> None:
        if definition.format != FORMAT:
            raise BadModel(f"features of format {definition.format}, this code has format {FORMAT}")
        self._definition = definition
        self._index = {
            name: {token: i for i, token in enumerate(tokens, 1)} for name, tokens in definition.vocabularies.items()
        }
        self.sizes = {name: len(tokens) + 1 for name, tokens in definition.vocabularies.items()}
        self.user_spec = InputSpec(definition.user_numeric, definition.user_categorical, tuple(VOCABULARY_OF_BAG.items()))
        self.item_spec = InputSpec(definition.item_numeric, definition.item_categorical, (("tags", "tag"),))
        self._static: WeakKeyDictionary[ItemTable, tuple[int, int, Inputs]] = WeakKeyDictionary()

    @classmethod
    def fit(cls, users: Sequence[UserState], table: ItemTable, now: float, item_positives: Mapping[str, int]) -> Self:
        """Vocabularies and scales from these users and items as of `now`; `item_positives`: positives by item id."""
        items = [table.by_id[item_id] for item_id in table.ids if item_id in table.by_id]
        user_attributes = _attributes([state["profile"] for state in users], PROFILE)
        item_attributes = _attributes([item.attributes for item in items], ())
        vocabularies = {
            "category": _vocabulary(item.category for item in items),
            "creator": _vocabulary(item.creator_id for item in items),
            "tag": _vocabulary(tag for item in items for tag in item.tags),
            "item": _vocabulary(i for i, n in sorted(item_positives.items()) for _ in range(n) if n >= ITEM_EVIDENCE),
            "device": _vocabulary(state["context"].get("device") for state in users),
        }
        for name in (*PROFILE, *user_attributes[0]):
            vocabularies[f"user.{name}"] = _vocabulary(_token(state["profile"].get(name)) for state in users)
        for name in item_attributes[0]:
            vocabularies[f"item.{name}"] = _vocabulary(_token(item.attributes.get(name)) for item in items)
        definition = _Definition(
            FORMAT,
            vocabularies,
            (*user_features.NUMERIC, "hour_sin", "hour_cos", *user_attributes[1]),
            (*((name, f"user.{name}") for name in (*PROFILE, *user_attributes[0])), ("device", "device")),
            (*item_features.TOWER, *item_attributes[1]),
            (
                ("category", "category"), ("creator", "creator"), ("item", "item"),
                *((name, f"item.{name}") for name in item_attributes[0]),
            ),
        )  # fmt: skip
        raw = cls(definition)
        user_mean, user_scale = _scale(raw.user_inputs(users, now).numeric)
        item_mean, item_scale = _scale(raw.item_inputs(table, None, now).numeric)
        return cls(
            msgspec.structs.replace(
                definition, user_mean=user_mean, user_scale=user_scale, item_mean=item_mean, item_scale=item_scale
            )
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex; worked out when first asked for, since a space that grows is seldom stored."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def row(self, vocabulary: str, token: str) -> int:
        """Of this token; 0: unknown."""
        return self._index[vocabulary].get(token, 0)

    def token(self, vocabulary: str, row: int) -> str | None:
        """Which one has this row; None: none, or it is row 0."""
        tokens = self._definition.vocabularies[vocabulary]
        return tokens[row - 1] if 0 < row <= len(tokens) else None

    def grown(self, entered: Mapping[str, Mapping[str, int]]) -> Self:
        """The space in which these tokens, by vocabulary, have these rows: of other tokens, or the next ones after the last.

        All other tokens keep their rows, and all columns their scales, so weights of this space fit but for the rows entered.
        """
        vocabularies = dict(self._definition.vocabularies)
        for name, rows in entered.items():
            tokens = [*vocabularies[name], *(token for token, row in rows.items() if row >= self.sizes[name])]
            for token, row in rows.items():
                tokens[row - 1] = token
            vocabularies[name] = tuple(tokens)
        return type(self)(msgspec.structs.replace(self._definition, vocabularies=vocabularies))

    def to_json(self) -> bytes:
        """The definition as JSON; equal definitions give equal bytes."""
        return msgspec.json.encode(self._definition)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises `BadModel` when the bytes are not a definition of this format."""
        try:
            return cls(msgspec.json.decode(data, type=_Definition))
        except msgspec.DecodeError as error:
            raise BadModel(f"not a feature definition: {error}") from error

    def user_inputs(self, states: Sequence[UserState], now: float) -> Inputs:
        """Inputs of these users as of `now` (seconds since 1970)."""
        return self.frozen_users([freeze_user(state, now) for state in states])

    def frozen_users(self, users: Sequence[UserFeatures]) -> Inputs:
        """Inputs of users as they were frozen."""
        definition = self._definition
        n = len(users)
        extra = definition.user_numeric[len(user_features.NUMERIC) + 2 :]
        rows = [
            [*user.numeric, *_hour(user.context.get("hour")), *(_number(user.profile.get(name)) for name in extra)]
            for user in users
        ]
        numeric = np.array(rows, np.float64).reshape(n, len(definition.user_numeric))
        categorical = np.array(
            [
                [
                    self._index[vocabulary].get(
                        _token((user.context if vocabulary == "device" else user.profile).get(name)) or "", 0
                    )
                    for name, vocabulary in definition.user_categorical
                ]
                for user in users
            ],
            np.int64,
        ).reshape(n, len(definition.user_categorical))
        bag_ids, bag_weights = {}, {}
        for name, vocabulary in VOCABULARY_OF_BAG.items():
            bag_ids[name], bag_weights[name] = _bag([user.bags[name] for user in users], self._index[vocabulary], BAGS[name])
        positives = np.array([len(user.bags["recent"]) for user in users], np.int64)
        segment = np.searchsorted(SEGMENTS, positives, side="right") - 1
        return Inputs(
            _standardised(numeric, definition.user_mean, definition.user_scale), categorical, bag_ids, bag_weights, segment,
            np.zeros((n, 0), np.float32),
        )  # fmt: skip

    def item_inputs(self, table: ItemTable, rows: np.ndarray | None, now: float) -> Inputs:
        """Inputs of the items in these rows (None: all) as of `now`."""
        cached = self._static.get(table)
        if cached is None or cached[:2] != (table.content_version, len(table)):
            content = self._content([table.item(row) for row in range(len(table))])
            cached = self._static[table] = (table.content_version, len(table), content)
        static = cached[2] if rows is None else cached[2].take(rows)
        return self._items(table.numeric(now, rows), static)

    def frozen_items(self, items: Sequence[ItemFeatures]) -> Inputs:
        """Inputs of items as they were frozen."""
        numeric = np.array([item.numeric for item in items], np.float64).reshape(len(items), len(item_features.NUMERIC))
        return self._items(numeric, self._content(items))

    def _items(self, numeric: np.ndarray, content: Inputs) -> Inputs:
        definition = self._definition
        read = np.concatenate([numeric[:, item_features.TOWER_COLUMNS], content.numeric], axis=1)
        return Inputs(
            _standardised(read, definition.item_mean, definition.item_scale),
            content.categorical, content.bag_ids, content.bag_weights, content.segment, item_features.prior(numeric),
        )  # fmt: skip

    def _content(self, items: Sequence[Item | ItemFeatures]) -> Inputs:
        """What does not change between two upserts; `numeric` holds the attributes only."""
        definition = self._definition
        extra = definition.item_numeric[len(item_features.TOWER) :]
        numeric = np.array([[_number(item.attributes.get(name)) for name in extra] for item in items], np.float64)
        own = {"category": "category", "creator": "creator_id", "item": "item_id"}
        categorical = [
            [
                self._index[vocabulary].get(
                    _token(getattr(item, own[vocabulary]) if vocabulary in own else item.attributes.get(name)) or "", 0
                )
                for name, vocabulary in definition.item_categorical
            ]
            for item in items
        ]
        tags = [[(tag, 1.0 / len(item.tags) ** 0.5) for tag in item.tags[:TAGS_OF_ITEM]] for item in items]
        ids, weights = _bag(tags, self._index["tag"], TAGS_OF_ITEM)
        return Inputs(
            numeric.reshape(len(items), len(extra)),
            np.array(categorical, np.int64).reshape(len(items), len(definition.item_categorical)),
            {"tags": ids}, {"tags": weights}, np.zeros(len(items), np.int64), np.zeros((len(items), 0), np.float32),
        )  # fmt: skip


def _attributes(profiles: Sequence[Mapping[str, Any]], named: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Further columns: (categorical ones, numeric ones), by name; a column with any text or whole number is categorical."""
    categorical: set[str] = set()
    numeric: set[str] = set()
    found: Counter[str] = Counter()
    for profile in profiles:
        for name, value in profile.items():
            if name not in named:
                found[name] += 1
                (numeric if isinstance(value, float) else categorical).add(name)
    kept = set(sorted(found, key=lambda name: (-found[name], name))[:MOST_ATTRIBUTES])
    return tuple(sorted(categorical & kept)), tuple(sorted((numeric - categorical) & kept))


def _vocabulary(tokens: Iterable[str | None]) -> tuple[str, ...]:
    counted = Counter(token for token in tokens if token is not None)
    kept = sorted(counted, key=lambda token: (-counted[token], token))[:VOCABULARY_BOUND]
    return tuple(sorted(kept))


def _token(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _hour(hour: object) -> tuple[float, float]:
    if not isinstance(hour, int | float):
        return 0.0, 0.0
    return float(np.sin(hour * HOUR_ANGLE)), float(np.cos(hour * HOUR_ANGLE))


def _bag(
    weighted: Sequence[Sequence[tuple[str, float]]], index: Mapping[str, int], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, weights), each (n, length); tokens outside the vocabulary are left out."""
    ids, weights = np.zeros((len(weighted), length), np.int64), np.zeros((len(weighted), length), np.float32)
    for row, pairs in enumerate(weighted):
        known = [(index[token], weight) for token, weight in pairs if token in index]
        if known:
            ids[row, : len(known)], weights[row, : len(known)] = zip(*known, strict=True)
    return ids, weights


def _squashed(numeric: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(numeric) * np.log1p(np.abs(numeric)))


def _scale(numeric: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not len(numeric):
        return (0.0,) * numeric.shape[1], (1.0,) * numeric.shape[1]
    spread = numeric.std(axis=0)
    return tuple(numeric.mean(axis=0).tolist()), tuple(np.where(spread > 1e-6, spread, 1.0).tolist())


def _standardised(numeric: np.ndarray, mean: Sequence[float], scale: Sequence[float]) -> np.ndarray:
    """float32; clipped at five standard deviations, so that no single value can dominate; unscaled while fitting."""
    values = _squashed(numeric)
    if mean:
        values = np.clip((values - np.array(mean)) / np.array(scale), -5, 5)
    return values.astype(np.float32)
