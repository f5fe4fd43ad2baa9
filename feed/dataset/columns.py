"""One parser for each kind of column: from whatever parquet or csv gave to one form, or `BadData` naming row and value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from feed.errors import BadData

ID_BOUND = 128  # characters
TAGS_BOUND = 64
WHOLE = r"-?(?:0|[1-9]\d*)"  # so that 007 stays text
AS_NUMBER = "is no number: write it like 1200 or 0.25, or leave it empty"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


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
            value = given.iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            shown = "" if missing(pd.Series([value], dtype=object)).iloc[0] else f" {value!r}"
            more = f" ({mask.sum()} such rows)" if mask.sum() > 1 else ""
            raise BadData(f"{self.table} row {row + 1}: {self.column}{shown} {why}{more}")

    def refuse_type(self, given: pd.Series, wanted: str) -> BadData:
        """The error for a column whose whole type is wrong."""
        return BadData(f"{self.table}: column {self.column} is of type {given.dtype}; {wanted}")


def missing(values: pd.Series) -> pd.Series:
    """Where nothing is given: null, NaN or an empty text."""
    return values.isna() | (values == "") if values.dtype == object or types.is_string_dtype(values) else values.isna()


def text(where: Where, given: pd.Series) -> pd.Series:
    """Text; whole numbers become text without a decimal point, also where a missing value made the column float."""
    values = _plain(given)
    if types.is_bool_dtype(values):
        values = values.map({True: "true", False: "false"})
    elif types.is_float_dtype(values):
        numbers = values.astype("float64")
        where.refuse(
            given, numbers.notna() & ((numbers % 1 != 0) | ~np.isfinite(numbers)), "is neither text nor a whole number"
        )
        values = numbers.astype("Int64")
    elif values.dtype == object:
        usable = values.map(lambda value: isinstance(value, str | int | np.integer) and not isinstance(value, bool))
        where.refuse(given, ~missing(values) & ~usable.astype(bool), "is neither text nor a whole number")
    elif not (types.is_integer_dtype(values) or types.is_string_dtype(values)):
        raise where.refuse_type(given, "text or whole numbers are needed")
    as_text = values.astype("str")
    return as_text.mask(missing(as_text))


def ids(where: Where, given: pd.Series) -> pd.Series:
    """Text of 1 to `ID_BOUND` characters."""
    values = text(where, given)
    where.refuse(given, values.str.len() > ID_BOUND, f"is longer than {ID_BOUND} characters")
    return values


def one_of(known: Sequence[str]) -> Callable[[Where, pd.Series], pd.Series]:
    """Text that is one of `known`."""

    def parse(where: Where, given: pd.Series) -> pd.Series:
        values = text(where, given)
        wrong = values.notna() & ~values.isin(list(known))
        if wrong.any():
            near = get_close_matches(str(values[wrong].iloc[0]).strip().lower(), known, 1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            where.refuse(given, wrong, f"is none of {', '.join(known)}{hint}")
        return values

    return parse


def times(where: Where, given: pd.Series) -> pd.Series:
    """UTC to the microsecond; a time without offset is taken as UTC. ISO 8601 as text."""
    values = _plain(given)
    if types.is_numeric_dtype(values) and values.notna().any():
        where.refuse(given, values.notna(), "is a number: write the time as ISO 8601 (2025-01-31T12:00:00Z) or as a timestamp")
    empty = missing(values)
    if types.is_string_dtype(values):
        digits = values.str.fullmatch(r"\s*\d+(?:\.\d*)?\s*").fillna(False).astype(bool)
        where.refuse(given, digits, "is a number: write the time as ISO 8601 (2025-01-31T12:00:00Z)")
    parsed = pd.to_datetime(values.mask(empty), format="ISO8601", utc=True, errors="coerce")
    where.refuse(given, parsed.isna() & ~empty, "is no time: write it as ISO 8601 (2025-01-31T12:00:00Z)")
    return parsed.dt.as_unit("us")


def times_since_1970(where: Where, given: pd.Series) -> pd.Series:
    """Times that an event can have."""
    values = times(where, given)
    where.refuse(given, values < pd.Timestamp(0, tz="UTC"), "is before 1970")
    return values


def numbers(where: Where, given: pd.Series) -> pd.Series:
    """float64, missing as NaN."""
    values = _plain(given)
    empty = missing(values)
    if types.is_bool_dtype(values):
        raise where.refuse_type(given, "numbers are needed")
    if not types.is_numeric_dtype(values):
        as_text = values.astype("str").mask(empty)
        where.refuse(given, ~empty & ~as_text.str.fullmatch(rf"\s*{NUMBER}\s*").fillna(False).astype(bool), AS_NUMBER)
        values = as_text
    parsed = pd.Series(values.to_numpy(dtype="float64", na_value=np.nan), name=given.name)
    where.refuse(given, np.isinf(parsed), "is not finite")
    return parsed


finite = numbers


def flags(where: Where, given: pd.Series) -> pd.Series:
    """`boolean`, from booleans or the texts true and false."""
    values = _plain(given)
    empty = missing(values)
    as_text = values.astype("str").str.strip().str.lower().mask(empty)
    where.refuse(given, ~empty & ~as_text.isin(["true", "false"]), "is neither true nor false")
    return as_text.map({"true": True, "false": False}).astype("boolean")


def probabilities(where: Where, given: pd.Series) -> pd.Series:
    """float64 in (0, 1]."""
    values = numbers(where, given)
    where.refuse(given, (values <= 0) | (values > 1), "is no propensity: probabilities in (0, 1] are needed")
    return values


def whole(least: int, most: int) -> Callable[[Where, pd.Series], pd.Series]:
    """Int64 from `least` to `most`."""

    def parse(where: Where, given: pd.Series) -> pd.Series:
        values = numbers(where, given)
        where.refuse(given, values < least, "is negative" if least == 0 else f"is less than {least}")
        where.refuse(given, values > most, f"is more than {most}")
        where.refuse(given, values.notna() & (values % 1 != 0), "is not a whole number")
        return values.astype("Int64")

    return parse


def tags(where: Where, given: pd.Series) -> pd.Series:
    """Tuples of text, from lists or from `a|b`; empty and repeated tags are left out, a row without any is missing."""
    values = _plain(given)
    split = pd.Series([_split(value) for value in values], index=values.index, dtype=object)
    where.refuse(given, split.map(lambda value: value is None), "is neither a list of text nor a text like a|b")
    where.refuse(given, split.map(len) > TAGS_BOUND, f"has more than {TAGS_BOUND} tags")
    return split.where(split.map(len) > 0, None)


def attribute(where: Where, given: pd.Series) -> pd.Series:
    """A further column: whole numbers and text are categorical (`Int64`, `str`), floats numeric (`float64`)."""
    values = _plain(given)
    if types.is_float_dtype(values):
        return numbers(where, given)
    if types.is_integer_dtype(values):
        return text(where, given) if types.is_unsigned_integer_dtype(values) else values.astype("Int64")
    if not (types.is_bool_dtype(values) or types.is_string_dtype(values) or values.dtype == object):
        raise where.refuse_type(given, "features are text, whole numbers or floats: convert it, or leave it out")
    return text(where, given)


def inferred(as_text: pd.Series) -> pd.Series:
    """A further column of a csv file, which knows no types: `Int64` or `float64` if all of it reads so, else text as it is."""
    present = as_text.dropna()
    if len(present) and present.str.fullmatch(WHOLE).all():
        whole = [int(value) for value in present]
        fits = min(whole) >= -(2**63) and max(whole) < 2**63
        return pd.Series(whole, present.index, "Int64").reindex(as_text.index) if fits else as_text
    if len(present) and present.str.fullmatch(NUMBER).all() and not present.str.fullmatch(r"[+-]?0\d+").any():
        return pd.Series(as_text.to_numpy(dtype="float64", na_value=np.nan), name=as_text.name)
    return as_text


def _plain(values: pd.Series) -> pd.Series:
    """Without categories."""
    return values.astype(values.cat.categories.dtype) if isinstance(values.dtype, pd.CategoricalDtype) else values


def _split(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = value.split("|")
    elif value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return ()
    elif not isinstance(value, list | tuple | np.ndarray) or not all(isinstance(tag, str) for tag in value):
        return None
    return tuple(dict.fromkeys(tag for tag in value if tag))
