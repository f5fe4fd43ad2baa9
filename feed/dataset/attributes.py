"""Attributes of users, items and contexts that no column can hold as they are: one JSON object a row, in one column.

A further column is an attribute under its own name. A name that could be taken for one of the format's columns, values of
several types under one name, and what a csv file would give back as another type are not written so. JSON keeps them all.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache

import msgspec

from feed.events import Attributes

Values = dict[str, str | int | float]
OF_PANDAS = re.compile(r"__index_level_\d+__|Unnamed: \d+")  # how pandas names an index that has no name, in parquet and csv

_decoder = msgspec.json.Decoder(Attributes)


def write(values: Mapping[str, str | int | float]) -> str | None:
    """The attributes as text, in the order of their names; None if there are none."""
    return msgspec.json.encode(dict(sorted(values.items()))).decode() if values else None


@lru_cache(maxsize=50_000)
def read(text: str) -> Values:
    """The attributes in `text`, within the bounds of the wire; empty texts are missing. Raises `ValueError`."""
    try:
        return {name: value for name, value in _decoder.decode(text).items() if value != ""}
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def normal(text: str) -> str | None:
    """`text` as `write` would have written it. Raises `ValueError`."""
    return write(read(text))


def near(name: str, known: Iterable[str]) -> str | None:
    """The known column that `name` could have been meant to be; None if there is none."""
    matches = get_close_matches(name.lower(), list(known), 1, 0.85)
    return matches[0] if matches else None


def can_be_column(name: str, known: Iterable[str]) -> bool:
    """Whether a column of this name is read back as this attribute, whatever else the table holds."""
    return name.isprintable() and name == name.strip() and not OF_PANDAS.fullmatch(name) and near(name, known) is None
