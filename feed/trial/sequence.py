"""A mean that may be looked at after every request: a normal-mixture confidence sequence, clustered by user.

With x_1, x_2, ... one difference a request, S_u and n_u the sum and number of user u's, G users and m the mean,

    V = G / (G - 1) * sum over u of (S_u - n_u m)^2,    u(V) = sqrt(2 (V + rho) log(sqrt((V + rho) / rho) / (2 alpha) + 1))

the sum of x exceeds u(V) at any time with probability alpha at most, if the differences are zero in the mean. The boundary is
Robbins' normal mixture, one-sided; V stands for the variance that it is stated for, so it holds for many requests of many
users, which is why it may not speak before `Clustered.ready`. `benchmarks/trials.py` measures what it is for these data.

References: Robbins 1970, Ann. Math. Statist. 41(5); Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", eq. 14; Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform central limit
theory and asymptotic confidence sequences", Ann. Statist. 52(6).
"""

from math import log, sqrt

REQUESTS, USERS = 500, 50  # the sequence is silent before: their variance must be known
TUNED = 4000  # requests at which the boundary is as narrow as it can be: within 5 % of that from 1,000 to 20,000


class Clustered:
    """Sums over users, updated in constant time a request; memory: two numbers a user."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0
        self._of_user: dict[str, tuple[float, int]] = {}
        self._ss = self._sn = 0.0
        self._nn = 0

    def add(self, user: str, x: float) -> None:
        """One more request of this user."""
        s, n = self._of_user.get(user, (0.0, 0))
        self._of_user[user] = (s + x, n + 1)
        self._ss += x * (2 * s + x)
        self._sn += s + x * n + x
        self._nn += 2 * n + 1
        self.n += 1
        self.total += x

    @property
    def users(self) -> int:
        """How many users."""
        return len(self._of_user)

    @property
    def ready(self) -> bool:
        """Enough requests of enough users for their variance to be known."""
        return self.n >= REQUESTS and self.users >= USERS

    @property
    def mean(self) -> float:
        """Of all requests; 0 without any."""
        return self.total / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """V: of the sum, robust to whatever a user's requests have in common; 0 for fewer than two users."""
        if self.users < 2:
            return 0.0
        m = self.mean
        return max(0.0, self._ss - 2 * m * self._sn + m * m * self._nn) * self.users / (self.users - 1)

    @property
    def error(self) -> float:
        """Standard error of the mean, clustered by user."""
        return sqrt(self.variance) / self.n if self.n else 0.0


def rho_of(variance: float, alpha: float) -> float:
    """The rho whose boundary at level `alpha` is narrowest about where V = `variance` (Howard et al. 2021, section 3.5)."""
    spread = 2 * log(1 / alpha)
    return variance / (spread + log(1 + spread))


def boundary(variance: float, rho: float, alpha: float) -> float:
    """u(V) for V = `variance` >= 0; infinite without a `rho` > 0."""
    if rho <= 0:
        return float("inf")
    return sqrt(2 * (variance + rho) * log(sqrt((variance + rho) / rho) / (2 * alpha) + 1))
