"""What a person does with a shown feed: pure functions of the world, the moment and a random generator.

    P(click at place k) = examine(k) * CEILING / (1 + exp(-appeal))
    examine(k) = 0.95 / sqrt(1 + k)
    appeal = BASE + category + sum of tags + creator + <latent, latent> + quality
             + 0.8 * 2^(-age / 4 days) + context(category, device, hour) - 0.1 * min(tired(category), 6) - 4 [has consumed it]
    tired(c) = sum over looks at c of 2^(-time since / 1 hour)

All in logits. References: Richardson et al. 2007 and Craswell et al. 2008 for the position-based examination model.
"""

from dataclasses import dataclass

import numpy as np

from producers.names import DEVICE_NAMES, DEVICES
from producers.world import DAY, World

HOUR = 3600.0
CEILING = 0.5  # nobody opens everything they look at
BASE = -2.3
FRESHNESS, FRESH_HALF_LIFE = 0.8, 4 * DAY
TIRED, TIRED_BOUND, TIRED_HALF_LIFE = 0.1, 6.0, 1 * HOUR
CONSUMED = 4.0
DAYPART = 0.3
LONGEST_LOOK = 180.0  # seconds
NEUTRAL = 0.3  # satisfaction of a person of whom nothing is known
SHARPNESS = 1.6  # s, of the day's rhythm
DAY_MEAN = float(np.i0(SHARPNESS))
RETURN = 1.5  # log of how much more often a fully satisfied person comes than a fully dissatisfied one


@dataclass(frozen=True)
class Moment:
    """When and on what: seconds since 1970, local hour in [0, 24), device."""

    at: float
    hour: float
    device: str


@dataclass(frozen=True)
class Reaction:
    """What a person did at each place of a feed: bool (k,) each; `dwell` float64 (k,) seconds, 0 where they did not look."""

    looked: np.ndarray
    clicked: np.ndarray
    liked: np.ndarray
    shared: np.ndarray
    commented: np.ndarray
    hidden: np.ndarray
    dwell: np.ndarray

    @property
    def reward(self) -> float:
        """How good it was, in [0, 1]: clicks, likes, shares and comments less two for each hide; three are full marks."""
        good = self.clicked.sum() + self.liked.sum() + self.shared.sum() + self.commented.sum()
        return float(np.clip((good - 2 * self.hidden.sum()) / 3, 0, 1))


def moment(world: World, user: int, at: float, draw: np.random.Generator) -> Moment:
    """The circumstances in which this user comes at `at`."""
    shares = DEVICES.get(world.users[user].platform or "", DEVICES["web"])
    device = draw.choice(list(shares), p=list(shares.values()))
    return Moment(at, local_hour(at, world.offset[user]), str(device))


def local_hour(at: float, offset: float | np.ndarray) -> float:
    """Hour of the day in [0, 24), `offset` hours ahead of UTC."""
    return float((at / HOUR + offset) % 24)


def examine(k: int) -> np.ndarray:
    """float64 (k,): the probability of looking at each of the first k places."""
    return np.asarray(0.95 / np.sqrt(1.0 + np.arange(k)))


def taste(world: World, user: int, rows: np.ndarray) -> np.ndarray:
    """float64 (rows,): the user's lasting opinion of these items, in logits."""
    own = world.tastes[user]
    return np.asarray(
        own.category[world.category[rows]]
        + own.tag[world.tags[rows]].sum(axis=1)
        + own.creator[world.creator[rows]]
        + world.latent[rows] @ own.latent
    )


def appeal(world: World, user: int, rows: np.ndarray, when: Moment, tired: np.ndarray) -> np.ndarray:
    """float64 (rows,), logits; `tired` float64 (categories + 1,) is how much of each category the user has just looked at."""
    age = np.maximum(when.at - world.created[rows], 0.0)
    fresh = FRESHNESS * np.exp2(-age / FRESH_HALF_LIFE)
    daypart = DAYPART * np.cos((when.hour - world.category_hour) * 2 * np.pi / 24)
    daypart[0] = 0.0
    of_category = daypart + world.category_device[DEVICE_NAMES.index(when.device)] - TIRED * np.minimum(tired, TIRED_BOUND)
    return np.asarray(BASE + taste(world, user, rows) + world.quality[rows] + fresh + of_category[world.category[rows]])


def click_probability(logits: np.ndarray) -> np.ndarray:
    """The probability that somebody who looks at it clicks."""
    return np.asarray(CEILING / (1.0 + np.exp(-logits)))


def react(p: np.ndarray, opinion: np.ndarray, draw: np.random.Generator) -> Reaction:
    """What happens to the items of a feed, best place first.

    `p` float64 (k,) click probabilities given a look, `opinion` float64 (k,) the taste alone: it decides who hides.
    """
    k = len(p)
    chance = draw.random((6, k))
    looked = chance[0] < examine(k)
    clicked = looked & (chance[1] < p)
    good = p / CEILING
    glance = draw.lognormal(0.6 + 0.8 * good, 0.5)  # seconds
    reading = draw.lognormal(2.6 + good, 0.6)
    return Reaction(
        looked=looked,
        clicked=clicked,
        liked=clicked & (chance[2] < 0.1 + 0.4 * good),
        shared=clicked & (chance[3] < 0.02 + 0.08 * good),
        commented=clicked & (chance[4] < 0.03 + 0.05 * good),
        hidden=looked & ~clicked & (chance[5] < 0.05 / (1.0 + np.exp(2 * (opinion + 1)))),
        dwell=np.where(looked, np.minimum(glance + np.where(clicked, reading, 0.0), LONGEST_LOOK), 0.0),
    )


def rhythm(hour: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """How likely people come at their local `hour`, 1 on average over the day: exp(s cos(hours from peak)) / I_0(s)."""
    return np.asarray(np.exp(SHARPNESS * np.cos((hour - peak) * 2 * np.pi / 24)) / DAY_MEAN)


def pull(satisfaction: np.ndarray) -> np.ndarray:
    """How much sooner people come back, by their satisfaction in [0, 1]: exp(RETURN * (satisfaction - NEUTRAL))."""
    return np.asarray(np.exp(RETURN * (satisfaction - NEUTRAL)))


def goes_on(reward: float) -> float:
    """The probability that a visit goes on with another request."""
    return 0.3 + 0.4 * reward
