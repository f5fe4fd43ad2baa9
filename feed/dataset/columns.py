"""One parser for each kind of column: from whatever parquet or csv gave to one form, or `BadData` naming row and value.

What a column may hold is what the wire takes: the bounds are those of `feed.events` and `feed.catalogue`.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
from pandas.api import types

from feed.catalogue import MOST_TAGS, TITLE_LENGTH
from feed.dataset import attributes
from feed.errors import BadData
from feed.events import (
    EARLIEST,
    ID_LENGTH,
    KINDS,
    LARGEST_NUMBER,
    LARGEST_WHOLE,
    LEAST_PROPENSITY,
    TEXT_LENGTH,
    unknown_kind,
)

Parse = Callable[["Where", pd.Series], pd.Series]
SHOWN_LENGTH = 60  # characters of a value in a message
NO_TEXT = "is neither text nor a whole number: convert it to text, or leave it out"
NO_TAGS = 'is no list of text or whole numbers: write a|b, or a JSON list like ["a", "b"]'
AS_NUMBER = "is no number: write it like 1200 or 0.25, or leave it empty"
AS_TIME = "write the time as ISO 8601 (2025-01-31T12:00:00Z)"
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBER = re.compile(rf"\s*{NUMBER}\s*")
_WHOLE = re.compile(r"\s*-?(?:0|[1-9][0-9]*)\s*")
_DIGITS = re.compile(r"\s*[0-9]+(?:\.[0-9]*)?\s*")
_LEADING_ZERO = re.compile(r"\s*[+-]?0[0-9]+\s*")
_GROUPED = re.compile(r"\s*[+-]?[0-9]{1,3}(?:\.[0-9]{3})+\s*")  # 1.200 for 1200
# 1,5  1,200.5  1.200,5  1 200: which of them is meant, their writer knows
_UNCLEAR = re.compile(
    r"\s*[+-]?(?:[0-9]+,[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]+)?"
    r"|[0-9]{1,3}(?:[ '\u2019\u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?)\s*"
)
_UNKNOWN = object()


@dataclass(frozen=True)
class Where:
    """A column, for messages."""

    table: str
    column: str

    def refuse(self, given: pd.Series, bad: Any, why: str) -> None:
        """Raise `BadData` if any row is bad (a boolean mask), naming the first row, its value and how many there are."""
        mask = np.asarray(bad, bool)
        if mask.any():
            row = int(mask.argmax())
            shown = _shown(given.iloc[row])
            more = f" ({mask.sum()} such rows)" if mask.sum() > 1 else ""
            raise BadData(f"{self.table} row {row + 1}: {self.column}{shown} {why}{more}")

    def refuse_type(self, given: pd.Series, wanted: str) -> BadData:
        """The error for a column whose whole type is wrong."""
        return BadData(f"{self.table}: column {self.column} is of type {given.dtype}; {wanted}")


def missing(values: pd.Series) -> pd.Series:
    """Where nothing is given: null, NaN or an empty text."""
    if values.dtype == object:
        return pd.Series([_absent(value) for value in values], values.index, dtype=bool)
    return values.isna() | (values == "") if types.is_string_dtype(values) else values.isna()


def text_up_to(most: int, wanted: str = "") -> Parse:
    """Text of 1 to `most` characters."""

    def parse(where: Where, given: pd.Series) -> pd.Series:
        values = _texts(where, given)
        where.refuse(given, values.str.len() > most, f"is longer than {most} characters{wanted or ': shorten it'}")
        return values

    return parse


text = text_up_to(TEXT_LENGTH)
title = text_up_to(TITLE_LENGTH)
ids = text_up_to(ID_LENGTH, ": take a shorter id")


def kinds(where: Where, given: pd.Series) -> pd.Series:
    """Kinds of events."""
    values = _texts(where, given)
    wrong = values.notna() & ~values.isin(list(KINDS))
    if wrong.any():
        where.refuse(given, wrong, unknown_kind(str(values[wrong].iloc[0])))
    return values


def times(where: Where, given: pd.Series) -> pd.Series:
    """UTC to the microsecond; a time without offset is taken as UTC. ISO 8601 as text."""
    values = _plain(given)
    empty = missing(values)
    if types.is_numeric_dtype(values):
        where.refuse(given, ~empty, f"is a number: {AS_TIME} or as a timestamp")
        return pd.Series(pd.NaT, values.index, dtype="datetime64[us, UTC]")
    if values.dtype == object or types.is_string_dtype(values):
        where.refuse(given, ~empty & values.map(_is_number).astype(bool), f"is a number: {AS_TIME}")
        values = values.where(values.map(lambda value: isinstance(value, str | dt.date)).astype(bool), None)
    elif not types.is_datetime64_any_dtype(values):
        raise where.refuse_type(given, f"{AS_TIME} or as a timestamp")
    parsed = pd.to_datetime(values.mask(empty), format="ISO8601", utc=True, errors="coerce")
    where.refuse(given, parsed.isna() & ~empty, f"is no time: {AS_TIME.replace('the time', 'it')}")
    where.refuse(given, ~parsed.dt.year.between(1, 9999) & ~empty, "is not in the years 1 to 9999 of UTC: correct it")
    return parsed.dt.as_unit("us")


def times_since_1970(where: Where, given: pd.Series) -> pd.Series:
    """Times that an event can have."""
    values = times(where, given)
    where.refuse(given, values < pd.Timestamp(EARLIEST), "is before 1970")
    return values


def numbers(where: Where, given: pd.Series) -> pd.Series:
    """float64 of at most `LARGEST_NUMBER`, missing as NaN."""
    values = _plain(given)
    empty = missing(values)
    if types.is_bool_dtype(values) or not (_is_text(values) or types.is_numeric_dtype(values)):
        raise where.refuse_type(given, "numbers are needed")
    if not types.is_numeric_dtype(values):
        as_text = [None if absent else str(value) for value, absent in zip(values, empty, strict=True)]
        where.refuse(given, [value is not None and not _NUMBER.fullmatch(value) for value in as_text], AS_NUMBER)
        values = pd.Series([np.nan if value is None else float(value) for value in as_text], dtype="float64")
    parsed = pd.Series(values.to_numpy(dtype="float64", na_value=np.nan), name=given.name)
    where.refuse(given, np.isinf(parsed), "is not finite")
    where.refuse(given, parsed.abs() > LARGEST_NUMBER, f"is beyond {LARGEST_NUMBER:g}: take another unit, or leave it out")
    return parsed


def flags(where: Where, given: pd.Series) -> pd.Series:
    """`boolean`, from booleans or the texts true and false."""
    values = _plain(given)
    empty = missing(values)
    as_text = values.astype("str").str.strip().str.lower().mask(empty)
    where.refuse(
        given, ~empty & ~as_text.isin(["true", "false"]), "is neither true nor false: write one of them, or leave it empty"
    )
    return as_text.map({"true": True, "false": False}).astype("boolean")


def probabilities(where: Where, given: pd.Series) -> pd.Series:
    """float64 from `LEAST_PROPENSITY` to 1."""
    values = numbers(where, given)
    where.refuse(given, (values <= 0) | (values > 1), "is no propensity: probabilities in (0, 1] are needed")
    where.refuse(given, values < LEAST_PROPENSITY, f"is less than {LEAST_PROPENSITY:g}: write that, or leave it empty")
    return values


def whole(least: int, most: int) -> Parse:
    """Int64 from `least` to `most`."""

    def parse(where: Where, given: pd.Series) -> pd.Series:
        values = numbers(where, given)
        if _is_text(given):
            grouped = [isinstance(value, str) and _GROUPED.fullmatch(value) is not None for value in given]
            where.refuse(given, grouped, "is not a whole number: write it without points, like 1200")
        where.refuse(given, values < least, "is negative" if least == 0 else f"is less than {least}")
        where.refuse(given, values > most, f"is more than {most}")
        where.refuse(given, values.notna() & (values % 1 != 0), "is not a whole number")
        return values.astype("Int64")

    return parse


def tags(where: Where, given: pd.Series) -> pd.Series:
    """Tuples of text, from lists, from `a|b` or from a JSON list; a row without any is missing.

    Numbers become text, as in any text; empty and repeated tags are left out.
    """
    values = _plain(given)
    split = pd.Series([_split(value) for value in values], index=values.index, dtype=object)
    where.refuse(given, split.isna(), NO_TAGS)
    where.refuse(given, split.map(len) > MOST_TAGS, f"has more than {MOST_TAGS} tags: keep those that matter")
    long = split.map(lambda value: any(len(tag) > TEXT_LENGTH for tag in value)).astype(bool)
    where.refuse(given, long, f"has a tag of more than {TEXT_LENGTH} characters: shorten it")
    return split.where(split.map(len) > 0, None)


def joined_tags(value: Sequence[str]) -> str:
    """Tags in one text that `tags` reads as them: `a|b`, or a JSON list where that would be read as something else."""
    plain = "|".join(value)
    return plain if _split(plain) == tuple(value) else msgspec.json.encode(value).decode()


def attribute(where: Where, given: pd.Series) -> pd.Series:
    """A further column: whole numbers and text are categorical (`Int64`, `str`), floats numeric (`float64`)."""
    values = _plain(given)
    if _all_are(values, Decimal) and all(_absent(value) or value.as_tuple().exponent >= 0 for value in values):
        values = pd.Series([None if _absent(value) else int(value) for value in values], values.index, dtype=object)
    if types.is_float_dtype(values) or _all_are(values, float, Decimal):
        return numbers(where, given)
    if types.is_integer_dtype(values) or _all_are(values, int, np.integer):
        beyond = values.map(lambda value: not _absent(value) and abs(int(value)) > LARGEST_WHOLE).astype(bool)
        where.refuse(given, beyond, "is beyond 2^53: write it as text, or leave the column out")
        return values.astype("Int64")
    if not (types.is_bool_dtype(values) or _is_text(values)):
        raise where.refuse_type(given, "features are text, whole numbers or floats: convert it, or leave it out")
    return text_up_to(TEXT_LENGTH, ": shorten it, or leave the column out")(where, given)


def objects(where: Where, given: pd.Series) -> pd.Series:
    """JSON objects of attributes (see `feed.dataset.attributes`) as text in one form; an empty one is missing."""
    values = _texts(where, given)
    parsed: list[str | None] = []
    for row, value in enumerate(values):
        try:
            parsed.append(None if _absent(value) else attributes.normal(value))
        except ValueError as error:
            remedy = 'write one like {"plan": "free"}, or give the column another name'
            where.refuse(given, np.arange(len(given)) == row, f"is no JSON object of attributes: {error}; {remedy}")
    return pd.Series(parsed, dtype="str")


Reading = Literal["whole", "number", "text", "unclear"]


def reading(present: Iterable[str]) -> Reading:
    """What the values of a further column of a csv file, which knows no types, read as; "unclear": see `inferred`."""
    values = list(present)
    if not values:
        return "text"
    if all(map(_WHOLE.fullmatch, values)):
        return "whole" if all(abs(int(value)) <= LARGEST_WHOLE for value in values) else "text"
    if all(map(_NUMBER.fullmatch, values)):
        return "text" if any(map(_LEADING_ZERO.fullmatch, values)) else "number"
    return "unclear" if all(_UNCLEAR.fullmatch(v) or _NUMBER.fullmatch(v) for v in values) else "text"


def inferred(where: Where, as_text: pd.Series) -> pd.Series:
    """A further column of a csv file: `Int64` or `float64` if all of it reads so, else text as it is.

    Raises `BadData` for one of nothing but numbers with a comma or with spaces, of which the meaning is not known.
    """
    values = [None if _absent(value) else value for value in as_text]
    read = reading(value for value in values if value is not None)
    if read == "unclear":
        odd = [value is not None and not _NUMBER.fullmatch(value) for value in values]
        remedy = "write numbers like 1200 or 0.25, text with a letter in it, or leave the column out"
        where.refuse(as_text, odd, f"can be read as more than one number: {remedy}")
    if read == "whole":
        return pd.Series([None if value is None else int(value) for value in values], as_text.index, "Int64")
    if read == "number":
        return pd.Series([np.nan if value is None else float(value) for value in values], as_text.index, "float64")
    return as_text


def _texts(where: Where, given: pd.Series) -> pd.Series:
    """Text; whole numbers become text without a decimal point, also where a missing value made the column float."""
    values = _plain(given)
    if types.is_bool_dtype(values):
        values = values.map({True: "true", False: "false"})
    elif types.is_float_dtype(values):
        numbers = values.astype("float64")
        strange = numbers.notna() & ((numbers % 1 != 0) | ~np.isfinite(numbers))
        where.refuse(given, strange, NO_TEXT)
        values = pd.Series([None if _absent(number) else str(int(number)) for number in numbers], values.index)
    elif values.dtype == object:
        converted = [_text(value) for value in values]
        where.refuse(given, [value is _UNKNOWN for value in converted], NO_TEXT)
        values = pd.Series(converted, values.index, dtype=object)
    elif not (types.is_integer_dtype(values) or types.is_string_dtype(values)):
        raise where.refuse_type(given, "text or whole numbers are needed")
    as_text = values.astype("str")
    return as_text.mask(missing(as_text))


def _text(value: Any) -> Any:
    """A value as text, None if it is missing, `_UNKNOWN` if it is neither text nor a whole number."""
    if _absent(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating | Decimal) and np.isfinite(float(value)) and value == int(value):
        return str(int(value))
    return _UNKNOWN


def _split(value: Any) -> tuple[str, ...] | None:
    if _absent(value):
        return ()
    if isinstance(value, str):
        value = _listed(value) if value.startswith("[") and value.endswith("]") else value.split("|")
    elif not isinstance(value, list | tuple | np.ndarray):
        value = [value]
    if value is None:
        return None
    texts = [_text(tag) for tag in value]
    return None if _UNKNOWN in texts else tuple(dict.fromkeys(tag for tag in texts if tag))


def _listed(value: str) -> list[Any] | None:
    try:
        return msgspec.json.decode(value, type=list[Any])
    except msgspec.DecodeError:
        return None


def _plain(values: pd.Series) -> pd.Series:
    """Without categories, and not in Arrow's or sparse arrays."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype if len(values.cat.categories) else object)
    if isinstance(values.dtype, pd.ArrowDtype | pd.SparseDtype):
        values = pd.Series(values.to_list(), values.index, dtype=object)
    return values


def _absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value
    return value is None or value is pd.NA or value is pd.NaT or (
        isinstance(value, float | np.floating | Decimal) and value != value
    )  # fmt: skip


def _is_text(values: pd.Series) -> bool:
    """Text, or Python objects of any type."""
    return bool(values.dtype == object or types.is_string_dtype(values))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _DIGITS.fullmatch(value) is not None
    return isinstance(value, int | float | np.number | Decimal)


def _all_are(values: pd.Series, *kinds: type) -> bool:
    """Whether these are Python objects of these types (none of them a bool), and missing ones."""
    if values.dtype != object:
        return False
    present = [value for value in values if not _absent(value)]
    return bool(present) and all(isinstance(value, kinds) and not isinstance(value, bool) for value in present)


def _shown(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    if _absent(value):
        return ""
    shown = repr(value)
    return f" {shown}" if len(shown) <= SHOWN_LENGTH else f" {shown[:SHOWN_LENGTH]}… ({len(shown):,} characters)"
