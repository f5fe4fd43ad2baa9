"""The grammar of the wire, read from the types themselves: JSON messages within every bound, and messages one step beyond one.

`within(type)` makes values that the type takes, its bounds among them more often than chance would have them. `beyond(type)`
makes values that differ from such a one in a single place, which is just outside its bound, of another type, or missing.
"""

import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Union

from hypothesis import strategies as st
from msgspec import inspect

from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, Impression
from feed.wire import LARGEST_MESSAGE

ODD = (
    "",
    "0",
    "-1",
    "007",
    "1.0",
    "nan",
    "null",
    "a=b;c:1",
    "{x}",
    "\n",
    "\x00",
    "\u2028",
    "'\"\\",
    "é",
    "日本",
    "🙂" * 9,
    " a ",
    "__proto__",
)
PLAIN = ("a", "b", "c", "d", "e")
NOT_TEXT: list[Any] = [True, 1.5, [], {}, ["x"], {"x": 1}]
NOT_NUMBERS: list[Any] = ["1", True, [], {}, [1]]
FAR = 10**400


TYPES: dict[str, Any] = {
    "interactions": Union[(Impression, *ENGAGEMENTS.values())],
    "items": Item,
    "users": User,
}  # by topic, what apps may send


def within(kind: Any) -> st.SearchStrategy[Any]:
    """JSON values that this type takes."""
    return _within(inspect.type_info(kind))


@st.composite
def beyond(draw: st.DrawFn, kind: Any) -> Any:
    """JSON values that this type does not take, wrong in one place."""
    return draw(wrong_in_one_place(kind, draw(within(kind))))


@st.composite
def wrong_in_one_place(draw: st.DrawFn, kind: Any, message: dict[str, Any]) -> Any:
    """A message that the type takes, made wrong in one place; `message` itself is changed."""
    set_wrong, wrong = draw(st.sampled_from(list(_places(inspect.type_info(kind), message))))
    set_wrong(draw(wrong))
    return message


def _within(info: Any) -> st.SearchStrategy[Any]:
    match info:
        case inspect.UnionType():
            return st.one_of([_within(one) for one in info.types])
        case inspect.StructType():
            return _struct(info)
        case inspect.StrType():
            return _text(info.min_length or 0, info.max_length or 300)
        case inspect.IntType():
            least, most = _ends(info)
            return st.sampled_from([least, most, max(least, 0), min(most, 1)]) | st.integers(least, most)
        case inspect.FloatType():
            least, most = _ends(info)
            return st.sampled_from([least, most, min(most, 0.5), 1.0]) | st.floats(least, most)
        case inspect.DictType():
            pairs = st.dictionaries(_within(info.key_type), _within(info.value_type), max_size=4)
            full = {str(n): n for n in range(info.max_length or 0)}
            return pairs | st.just(full) if full and _takes_whole(info.value_type) else pairs
        case inspect.VarTupleType():
            least, most = info.min_length or 0, info.max_length or 8
            item = _within(info.item_type)
            return st.lists(item, min_size=least, max_size=least + 4) | item.map(lambda one: [one] * _fitting(one, most))
        case inspect.DateTimeType():
            return TIMES
        case inspect.BoolType():
            return st.booleans()
        case inspect.LiteralType():
            return st.sampled_from(list(info.values))
        case inspect.NoneType():
            return st.none()
    raise TypeError(f"the wire has a type that the grammar does not know: {info}")


CLOCKS = st.datetimes(datetime(1971, 1, 1), datetime(2025, 12, 31))
OFFSETS = st.sampled_from(["Z", "+00:00", "+05:30", "-08:00", "+14:00", "-12:00"])
TIMES = st.sampled_from(
    ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000001Z", "2024-02-29T23:59:59.999999-12:00"]
) | st.builds(lambda clock, offset: clock.isoformat() + offset, CLOCKS, OFFSETS)
NOT_TIMES = ["", "yesterday", "2025-01-01", "2025-01-01T00:00:00", 1.7e9, 1, True, [], "0001-01-01T00:00:00+00:01",
             "9999-12-31T23:59:59-00:01", "10000-01-01T00:00:00Z", "2025-13-01T00:00:00Z", "2025-01-01T24:61:00Z"]  # fmt: skip


@st.composite
def _struct(draw: st.DrawFn, info: inspect.StructType) -> dict[str, Any]:
    message = {info.tag_field: info.tag} if info.tag_field else {}
    for field in info.fields:
        if field.required or draw(st.booleans()):
            message[field.encode_name] = draw(_within(field.type))
    if draw(st.integers(0, 9)) == 0:  # unknown fields are ignored
        message[draw(st.sampled_from(["extra", "x" * 3000, ""]))] = draw(
            st.sampled_from([None, FAR, [[[[]]]], {"a": {"b": 1}}, "x" * 9000])
        )
    return message


def _fitting(one: Any, most: int) -> int:
    """How many of these a record has room for, at most `most`."""
    return max(1, min(most, LARGEST_MESSAGE // 4 // len(json.dumps(one))))


def _text(least: int, most: int) -> st.SearchStrategy[str]:
    fitting = [text for text in ODD if least <= len(text) <= most]
    longest = st.sampled_from(["x", "é", "🙂", "\x01"]).map(lambda one: one * most)
    return st.one_of(
        st.sampled_from(PLAIN),
        st.sampled_from(fitting),
        longest,
        st.text(st.characters(codec="utf-8"), min_size=least, max_size=min(most, 20)),
    )


def _ends(info: Any) -> tuple[Any, Any]:
    least = math.nextafter(info.gt, math.inf) if info.gt is not None else info.ge
    most = math.nextafter(info.lt, -math.inf) if info.lt is not None else info.le
    if least is None or most is None:
        raise TypeError(f"the wire has a number without a bound: {info}")
    return least, most


def _takes_whole(info: Any) -> bool:
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    return any(isinstance(one, inspect.IntType) for one in types)


def _places(info: Any, message: Any) -> Iterator[tuple[Callable[[Any], None], st.SearchStrategy[Any]]]:
    """Of the struct `info` that `message` is: how to put something in each place, and what is wrong there."""
    if isinstance(info, inspect.UnionType):
        info = next(one for one in info.types if message.get(one.tag_field) == one.tag)
    if info.tag_field:
        yield _putter(message, info.tag_field), st.sampled_from(["", "liked", 1, None, [], "Like"])
    for field in info.fields:
        name = field.encode_name
        if field.required:
            yield (lambda _, name=name: message.pop(name)), st.none()
        yield _putter(message, name), _wrong(field.type)
        value = message.get(name)
        types = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        for one in types:
            if isinstance(one, inspect.StructType) and isinstance(value, dict):
                yield from _places(one, value)
            if isinstance(one, inspect.TupleType) and isinstance(value, list):
                for place, item in enumerate(one.item_types):
                    yield _putter(value, place), _wrong(item)
            if isinstance(one, inspect.VarTupleType) and isinstance(value, list) and value:
                first = len(value) // 2
                value[first] = dict(value[first]) if isinstance(value[first], dict) else value[first]
                if isinstance(one.item_type, inspect.StructType):
                    yield from _places(one.item_type, value[first])
                else:
                    yield _putter(value, first), _wrong(one.item_type)


def _putter(target: Any, place: Any) -> Callable[[Any], None]:
    return lambda value: target.__setitem__(place, value)


def _wrong(info: Any) -> st.SearchStrategy[Any]:
    """Values that no member of the type takes."""
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    wrong: list[Any] = [] if any(isinstance(one, inspect.NoneType) for one in types) else [None]
    for one in types:
        wrong += _just_beyond(one)
    return st.sampled_from([value for value in wrong if not _taken(info, value)])


def _just_beyond(info: Any) -> list[Any]:
    match info:
        case inspect.StrType():
            short = ["" * (info.min_length - 1)] if info.min_length else []
            long = [one * (info.max_length + 1) for one in ("x", "🙂")] if info.max_length else []
            return [*NOT_TEXT, *short, *long]
        case inspect.IntType():
            least, most = _ends(info)
            return [*NOT_NUMBERS, least - 1, most + 1, 2**64, -(2**64), 10**199, FAR, 0.5, 1e300]
        case inspect.FloatType():
            least, most = _ends(info)
            return [
                *NOT_NUMBERS,
                least - max(abs(least), 1e-3) * 1e-3,
                most + max(abs(most), 1e-3) * 1e-3,
                1e300,
                -1e300,
                FAR,
                float("inf"),
                float("nan"),
            ]
        case inspect.DictType():
            many = [{str(n): n for n in range(info.max_length + 1)}] if info.max_length else []
            return [[], "x", 1, *({key: "x"} for key in _just_beyond(info.key_type) if isinstance(key, str)),
                    *({"k": wrong} for wrong in _just_beyond_all(info.value_type)), *many]  # fmt: skip
        case inspect.VarTupleType():
            return [{}, "x", 1, [None], *([[]] if info.min_length else [])]
        case inspect.TupleType():
            return [{}, "x", 1, [], [None] * len(info.item_types)]
        case inspect.DateTimeType():
            return list(NOT_TIMES)
        case inspect.LiteralType():
            return [0, 2, "1", [], 1.5]
        case inspect.BoolType():
            return ["true", "", 0, 1, [], {}]
        case inspect.StructType():
            return ["x", 1, [], True]
    return []


def _just_beyond_all(info: Any) -> list[Any]:
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    return [value for one in types for value in _just_beyond(one) if not _taken(info, value)]


def _taken(info: Any, value: Any) -> bool:
    """Whether another member of the union takes it."""
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    for one in types:
        match one, value:
            case inspect.NoneType(), None:
                return True
            case inspect.StrType(), str() if (one.min_length or 0) <= len(value) <= (one.max_length or 1e9):
                return True
            case inspect.IntType() | inspect.FloatType(), int() | float() if not isinstance(value, bool):
                least, most = _ends(one)
                whole = isinstance(one, inspect.FloatType) or isinstance(value, int) or value.is_integer()
                if whole and least <= value <= most:
                    return True
    return False
