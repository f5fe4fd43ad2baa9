"""Kinds of engagement of one's own, read from the setting FEED_KINDS (docs/settings.md, "Kinds of your own").

    purchase=positive,weight=3,consumes;skip=negative;save=positive

`feed.events` holds the table that everything asks; `adopt` there adds what is read here.
"""

import re

from feed.errors import BadSetting
from feed.events import KINDS_OF_ALL, Kind

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
MOST = 16  # each has buckets of its own in every item's counts
LARGEST_WEIGHT = 100.0
# what an item's hash in Redis and a table of weights (FEED_OBJECTIVE) use for something else
TAKEN_NAMES = (*KINDS_OF_ALL, "content", "dwell", "first", "near", "taken", "trimmed")
SIGNS = ("positive", "negative", "neutral")
EXAMPLE = "FEED_KINDS='purchase=positive,weight=3,consumes;skip=negative'"


def parse(text: str) -> tuple[Kind, ...]:
    """`name=trait,trait`, separated by semicolons; empty: none. Raises `BadSetting` naming the offender."""
    found: dict[str, Kind] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, _, traits = (word.strip() for word in part.partition("="))
        if not NAME.fullmatch(name):
            raise BadSetting(
                f"FEED_KINDS: {name!r} in {part!r} is no name: a letter from a to z, then at most 31 letters, digits and _: "
                f"{EXAMPLE}"
            )
        if name in TAKEN_NAMES:
            raise BadSetting(f"FEED_KINDS: {name!r} stands for something else already; taken are {', '.join(TAKEN_NAMES)}")
        if name in found:
            raise BadSetting(f"FEED_KINDS gives {name} twice: leave one out")
        found[name] = _kind(name, [trait.strip() for trait in traits.split(",")])
    if len(found) > MOST:
        raise BadSetting(
            f"FEED_KINDS names {len(found)} kinds, at most {MOST} are possible: map those that say the same to one"
        )
    return tuple(found.values())


def _kind(name: str, traits: list[str]) -> Kind:
    signs = [trait for trait in traits if trait in SIGNS]
    if len(signs) != 1:
        raise BadSetting(f"FEED_KINDS: {name} is to be one of {', '.join(SIGNS)}: {EXAMPLE}")
    weight, consumes = None, False
    for trait in traits:
        if trait == "consumes":
            consumes = True
        elif trait.startswith("weight="):
            weight = _weight(name, trait.removeprefix("weight="))
        elif trait not in SIGNS:
            raise BadSetting(
                f"FEED_KINDS: {trait!r} of {name} is none of {', '.join(SIGNS)}, weight=NUMBER, consumes: {EXAMPLE}"
            )
    if signs == ["neutral"]:
        if weight is not None:
            raise BadSetting(
                f"FEED_KINDS: {name} is neutral, so it has no weight: leave it out, or make it positive or negative"
            )
        return Kind(name, consumes=consumes)
    weight = 1.0 if weight is None else weight
    # as like (2 and 1), share, comment and hide (-3 and -1.5) are weighed
    if signs == ["positive"]:
        return Kind(name, positive=True, weight=weight, lately=min(weight, 1.0), consumes=consumes)
    return Kind(name, negative=True, weight=-weight, lately=-min(weight / 2, 1.5), consumes=consumes)


def _weight(name: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= LARGEST_WEIGHT:
        raise BadSetting(f"FEED_KINDS: weight={number} of {name} is to be a number above 0, at most {LARGEST_WEIGHT:g}")
    return weight
