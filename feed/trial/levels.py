"""How surely a challenger must be better, when trials never end: LORD++, so that of all promotions at most 5 % are false.

With W0 = alpha / 2, tau_1 < tau_2 < ... the numbers of the trials that ended in a promotion, and gamma_j = j^-1.6 / zeta(1.6):

    alpha_t = W0 gamma_t + (alpha - W0) gamma_{t - tau_1} + alpha * sum over j >= 2 with tau_j < t of gamma_{t - tau_j}

Without a promotion the levels of trials 1, 2, 3, 4, 5 are 0.0109, 0.0036, 0.0019, 0.0012, 0.0008. A promotion earns some back:
right after the first, at trial 1, trial 2 has 0.0145; right after the second, at trial 2, trial 3 has 0.0274.
Refusals are no discoveries and cost nothing beyond the level of their trial.

Reference: Ramdas, Yang, Wainwright and Jordan 2017, "Online control of the false discovery rate with decaying memory".
"""

from collections.abc import Collection

ALPHA = 0.05
START = ALPHA / 2
ZETA = 2.2857656568  # Riemann's zeta at 1.6: gamma sums to one


def level(number: int, promotions: Collection[int]) -> float:
    """The level of trial `number` (from 1), given the numbers of the earlier trials that ended in a promotion."""
    earlier = sorted(tau for tau in promotions if tau < number)
    earned = sum((ALPHA - START if j == 0 else ALPHA) * _gamma(number - tau) for j, tau in enumerate(earlier))
    return START * _gamma(number) + earned


def _gamma(j: int) -> float:
    return float(j**-1.6) / ZETA
