"""Who gets which kind of feed: learned, popular or random, by a stable hash of the user's id."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from feed.models.heads import Heads
from feed.objective import Objective
from feed.ranking.types import LEARNED, POPULAR, RANDOM
from feed.repeats import Repeats
from feed.settings import Settings


@dataclass(frozen=True)
class Policy:
    """What the settings say about feeds; see `feed.settings` for each field. `repeats` None: as each version says of itself."""

    feed_size: int = 50
    popular_share: float = 0.05
    random_share: float = 0.05
    explore_every: int = 10
    arm_salt: str = "feedloop"
    objective: Objective = field(default_factory=Objective)
    popularity_correction: float = 0.0
    repeats: Repeats | None = None

    def ranked_by(self, heads: Heads) -> str:
        """What a version with these heads orders a feed by, for people to read."""
        by = str(self.objective.among(heads)) or "logit"
        return f"{by} - {self.popularity_correction:g} log popularity" if self.popularity_correction else by

    def repeats_of(self, manifest: Mapping[str, Any]) -> Repeats:
        """When items may come again in feeds of the version with this manifest. Raises `BadModel`."""
        return Repeats.of_version(manifest) if self.repeats is None else self.repeats

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The policy in these settings."""
        return cls(
            settings.feed_size, settings.popular_share, settings.random_share, settings.explore_every, settings.arm_salt,
            Objective.parse(settings.objective), settings.popularity_correction,
            Repeats.parse(settings.repeats) if settings.repeats.strip() else None,
        )  # fmt: skip


def arm_of(user_id: str, policy: Policy | Settings) -> str:
    """The user's arm; a user stays in it as long as salt and shares stay.

    u = first 8 bytes of sha256(arm_salt:user id) / 2^64; popular if u < popular share, random if u < popular + random share.
    """
    hashed = hashlib.sha256(f"{policy.arm_salt}:{user_id}".encode()).digest()
    u = int.from_bytes(hashed[:8], "big") / 2**64
    if u < policy.popular_share:
        return POPULAR
    if u < policy.popular_share + policy.random_share:
        return RANDOM
    return LEARNED
