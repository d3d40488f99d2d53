"""How often chance alone gives a spread at least as uneven as one that was seen. Pure; `math` and numpy only.

The model of chance is multinomial: independent units, each on a node with the probability that is its share. Pages of
one allocation lie together, so a huge page is one unit; where sizes are mixed, the effective number of units is
(sum of sizes)^2 / sum of sizes^2 (L. Kish, Survey Sampling, 1965, section 8.2).

The statistic is Pearson's. Its chi-square distribution is too short-tailed where few units are expected of a node (the
usual bound of 5 is W. G. Cochran's, Biometrics 10, 1954, and meant for 5 %, not for 0.1 %), and a tool that cries wolf
over small areas is of no use. So few units are enumerated, and between few and many it is the most deviant node alone
that is judged, by its binomial distribution and with Bonferroni's correction, which errs on the careful side.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["MANY", "chi_square_tail", "least_p_value", "spread_p_value"]

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

MANY = 50
"""Units expected of the node with the least share from which on the chi-square distribution is used: with weights of
10, 1, 1 and 1 it then calls 1.0 in 1,000 honest spreads uneven at 0.1 %, with 25 it would be 1.5 (60,000 throws)."""
_ENUMERABLE = 20_000
"""Spreads that are enumerated at most: 33 units over 4 nodes, 10 over 8."""
_SAME = 1e-9


def chi_square_tail(x: float, freedom: int) -> float:
    """Probability that a chi-square variable of `freedom` (>= 1) degrees exceeds `x`.

    Closed forms for whole degrees: M. Abramowitz, I. Stegun, Handbook of Mathematical Functions, 26.4.4 (odd) and
    26.4.5 (even). Terms are taken by their logarithms, so that neither 1,023 degrees nor a huge `x` overflow.
    """
    if x <= 0:
        return 1.0
    half, odd = x / 2, freedom % 2
    powers = [number + odd / 2 for number in range(freedom // 2)]
    log_half = math.log(half)
    terms = [math.exp(power * log_half - math.lgamma(power + 1) - half) for power in powers]
    return min(1.0, math.fsum([math.erfc(math.sqrt(half)) if odd else 0.0, *terms]))


def spread_p_value(pages: Int64s, shares: Float64s, units: float) -> float:
    """How often `units` independent units give a spread that is at least as uneven as that of `pages`, 0 to 1.

    pages: per node, int64. shares: of the same shape, summing to 1. units: effective number, at most the number of
    pages; rounded down. A node without a share is only to be here without pages: with some the result is 0, because
    no chance puts any there. 1 where there is nothing to judge: no page, or one node.
    """
    total = int(pages.sum())
    if not total or pages[shares <= 0].any():
        return 0.0 if total else 1.0
    part = shares > 0
    observed, shares = pages[part] / total, shares[part]
    if len(shares) < 2:
        return 1.0
    count = max(1, math.floor(units + _SAME))
    statistic = count * float(((observed - shares) ** 2 / shares).sum())
    if math.comb(count + len(shares) - 1, count) <= _ENUMERABLE:
        return _enumerated(statistic, _key(shares), count)
    if count * float(shares.min()) >= MANY:
        return chi_square_tail(statistic, len(shares) - 1)
    return _most_deviant(observed, shares, count)


def least_p_value(shares: Float64s, units: float) -> float:
    """The p-value of the most uneven spread of all: everything on the node with the least share. Where even this is
    not significant, no spread of so few units can be."""
    most = np.zeros(len(shares), np.int64)
    most[np.argmin(np.where(shares > 0, shares, 2.0))] = 1
    return spread_p_value(most, shares, units)


def _key(shares: Float64s) -> tuple[float, ...]:
    """Shares as they come from different orders of nodes are one key; the distribution is the same for all."""
    return tuple(sorted(round(share, 12) for share in shares.tolist()))


def _enumerated(statistic: float, shares: tuple[float, ...], units: int) -> float:
    statistics, tails = _distribution(shares, units)
    at = int(np.searchsorted(statistics[:-1], statistic * (1 - _SAME) - _SAME))
    return float(tails[at]) if at else 1.0


@lru_cache(maxsize=512)
def _distribution(shares: tuple[float, ...], units: int) -> tuple[Float64s, Float64s]:
    """Pearson's statistic of every possible spread, ascending, and the probability of each and all after it."""
    left, logs, sums = np.array([units]), np.array([math.lgamma(units + 1)]), np.zeros(1)
    log_factorial = np.array([math.lgamma(number + 1) for number in range(units + 1)])
    for share in shares[:-1]:
        here = np.repeat(np.arange(len(left)), left + 1)
        first = np.cumsum(left + 1) - (left + 1)
        taken = np.arange(len(here)) - first[here]
        logs = logs[here] + taken * math.log(share) - log_factorial[taken]
        sums = sums[here] + (taken - units * share) ** 2 / (units * share)
        left = left[here] - taken
    logs = logs + left * math.log(shares[-1]) - log_factorial[left]
    sums = sums + (left - units * shares[-1]) ** 2 / (units * shares[-1])
    order = np.argsort(sums, kind="stable")
    tails = np.minimum(np.cumsum(np.exp(logs[order])[::-1])[::-1], 1.0)
    return sums[order], tails


def _most_deviant(observed: Float64s, shares: Float64s, units: int) -> float:
    """Bonferroni's bound over all nodes and both sides."""
    least = 1.0
    for seen, share in zip(observed.tolist(), shares.tolist(), strict=True):
        least = min(least, _binomial_tail(units, share, seen * units))
    return min(1.0, 2 * len(shares) * least)


def _binomial_tail(units: int, share: float, seen: float) -> float:
    """Probability that of `units` at least `seen` (at most, where it is below what is expected) are on a node. A count
    that is no whole number, because units are not of one size, is rounded towards what is expected."""
    above = seen >= units * share
    count = math.floor(seen + _SAME) if above else math.ceil(seen - _SAME)
    if (count > units * share) is not above or count == units * share:
        return 1.0
    odds = share / (1 - share)
    log_first = math.lgamma(units + 1) - math.lgamma(count + 1) - math.lgamma(units - count + 1)
    log_first += count * math.log(share) + (units - count) * math.log1p(-share)
    total, term = 0.0, 1.0
    while term > total * 1e-16 and 0 <= count <= units:
        total += term
        if above:
            term *= (units - count) / (count + 1) * odds
            count += 1
        else:
            term *= count / ((units - count + 1) * odds)
            count -= 1
    return min(1.0, math.exp(log_first) * total)
