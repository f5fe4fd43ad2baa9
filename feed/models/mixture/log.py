"""A log and its catalogue as the mixture reads them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Rows(Protocol):
    """n events in the order of time."""

    @property
    def user(self) -> np.ndarray:
        """int (n,): codes of users."""

    @property
    def item(self) -> np.ndarray:
        """int (n,): codes of items."""

    @property
    def at(self) -> np.ndarray:
        """float64 (n,): seconds since 1970."""

    @property
    def shown(self) -> np.ndarray:
        """bool (n,): an impression, not an engagement."""

    @property
    def positive(self) -> np.ndarray:
        """bool (n,): what makes an event positive."""

    @property
    def first(self) -> np.ndarray:
        """bool (n,): here an event begins that is to be ranked, because it is positive and the user had not seen the item."""


class Catalogue(Protocol):
    """What is known beforehand: codes from 0, 0 = none."""

    @property
    def n_items(self) -> int:
        """Items there are, n."""

    @property
    def created(self) -> np.ndarray:
        """float64 (n,): seconds since 1970, -inf where unknown."""

    @property
    def category(self) -> np.ndarray | None:
        """int (n,), None where the log has none."""

    @property
    def creator(self) -> np.ndarray | None:
        """int (n,), None where the log has none."""

    @property
    def tags(self) -> Sequence[Sequence[int]]:
        """Codes, by item."""

    @property
    def user_features(self) -> np.ndarray:
        """int (users, f)."""
