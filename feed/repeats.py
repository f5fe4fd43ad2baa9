"""When an item may be shown again to who took it: one rule, from the setting FEED_REPEATS or from the version that serves.

    never                      what was taken does not come back
    always                     it may stand in the next feed
    24h                        it may from 24 hours after it was last taken
    groceries=3d, music=0      by category; all others as the part without a name says, and without one never

To take is a positive (click, like, ...). What was hidden never comes back, and what was only viewed does not under any rule.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from feed.errors import BadModel, BadSetting

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST = 3650 * UNITS["d"]
EXAMPLE = "FEED_REPEATS=never, always, 24h or groceries=3d,music=0"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])", re.ASCII)


@dataclass(frozen=True)
class Repeats:
    """`after`: seconds from the last time an item was taken until it may be shown again, inf = never; `categories`: those of
    which this is not true, each with its own seconds, in order of their names."""

    after: float = math.inf
    categories: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rule in a setting; parts are separated by commas. Raises `BadSetting` naming the offender."""
        found: dict[str | None, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.rpartition("=")
            category = name.strip() if equals else None
            if category == "":
                raise BadSetting(f"FEED_REPEATS: {part!r} names no category before the =: {EXAMPLE}")
            if category in found:
                what = "two rules for all categories" if category is None else f"category {category!r} twice"
                raise BadSetting(f"FEED_REPEATS={text!r} has {what}: leave one out")
            found[category] = _seconds(part, value.strip())
        if not found:
            raise BadSetting(f"FEED_REPEATS={text!r} has no rule: {EXAMPLE}; leave it empty to follow the version that serves")
        after = found.pop(None, math.inf)
        named = {name: seconds for name, seconds in found.items() if name is not None and seconds != after}
        return cls(after, tuple(sorted(named.items())))

    @classmethod
    def of_version(cls, manifest: Mapping[str, Any]) -> Self:
        """The rule that a version was trained for; never, if its manifest has none. Raises `BadModel` for what is no rule."""
        try:
            return cls.parse(manifest.get("repeats", {}).get("rule", "never"))
        except (AttributeError, BadSetting) as error:
            raise BadModel(
                f"the manifest's `repeats` says {manifest.get('repeats')!r}, which is no rule: train anew with "
                "`python offline/bootstrap.py`"
            ) from error

    @property
    def ever(self) -> bool:
        """Whether anything may come again."""
        return math.isfinite(self.after) or any(math.isfinite(seconds) for _, seconds in self.categories)

    def seconds(self, category: str | None) -> float:
        """From the last time an item of this category was taken until it may be shown again."""
        return dict(self.categories).get(category, self.after) if category is not None and self.categories else self.after

    def __str__(self) -> str:
        """As `parse` reads it."""
        return ", ".join([_words(self.after), *(f"{name}={_words(seconds)}" for name, seconds in self.categories)])


NEVER, ALWAYS = Repeats(), Repeats(0.0)


def _seconds(part: str, value: str) -> float:
    if value in ("never", "always", "0"):
        return math.inf if value == "never" else 0.0
    duration = _DURATION.fullmatch(value)
    if duration is None:
        why = "has no unit" if re.fullmatch(r"[\d.]+", value, re.ASCII) else f"says {value!r}"
        raise BadSetting(f"FEED_REPEATS: {part!r} {why}; write never, always, or a time like 90m, 24h or 3d: {EXAMPLE}")
    seconds = float(duration[1]) * UNITS[duration[2]]
    if seconds > LONGEST:
        raise BadSetting(f"FEED_REPEATS: {part!r} is more than 3,650 days: write never")
    return seconds


def _words(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "never"
    if not seconds:
        return "always"
    unit, length = next((unit, length) for unit, length in reversed(UNITS.items()) if seconds % length == 0 or unit == "s")
    return f"{seconds / length:.12g}{unit}"
