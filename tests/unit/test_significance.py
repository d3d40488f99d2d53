"""Chance: against printed tables, against slow sums, and against dice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.significance import MANY, chi_square_tail, least_p_value, spread_p_value

# Upper percentage points: M. Abramowitz, I. Stegun, Handbook of Mathematical Functions, table 26.8.
TABLE = [
    (1, 0.05, 3.84146),
    (1, 0.001, 10.828),
    (2, 0.05, 5.99147),
    (2, 0.001, 13.816),
    (3, 0.05, 7.81473),
    (3, 0.01, 11.3449),
    (3, 0.001, 16.266),
    (4, 0.01, 13.2767),
    (5, 0.05, 11.0705),
    (7, 0.001, 24.322),
    (8, 0.5, 7.34412),
    (10, 0.05, 18.3070),
    (15, 0.01, 30.5779),
    (30, 0.05, 43.7729),
    (100, 0.05, 124.342),
    (100, 0.001, 149.449),
]


def shares(*weights: float) -> npt.NDArray[np.float64]:
    return np.array(weights, np.float64) / sum(weights)


def multinomial(spread: Sequence[int], probabilities: Sequence[float]) -> float:
    ways = math.factorial(sum(spread))
    chance = 1.0
    for count, probability in zip(spread, probabilities, strict=True):
        ways //= math.factorial(count)
        chance *= probability**count
    return ways * chance


def slow_p_value(spread: Sequence[int], probabilities: Sequence[float]) -> float:
    """All spreads of as many units, one by one."""
    units = sum(spread)

    def pearson(counts: Sequence[int]) -> float:
        return sum((n - units * p) ** 2 / (units * p) for n, p in zip(counts, probabilities, strict=True))

    every = itertools.product(range(units + 1), repeat=len(spread))
    seen = pearson(spread)
    return sum(multinomial(c, probabilities) for c in every if sum(c) == units and pearson(c) >= seen - 1e-9)


@pytest.mark.parametrize(("freedom", "tail", "x"), TABLE)
def test_chi_square_is_that_of_the_tables(freedom: int, tail: float, x: float) -> None:
    assert chi_square_tail(x, freedom) == pytest.approx(tail, rel=5e-4)


@pytest.mark.parametrize("freedom", [1, 2, 7, 64, 1022, 1023])
def test_chi_square_neither_overflows_nor_leaves_0_to_1(freedom: int) -> None:
    xs = [-1.0, 0.0, 1e-300, 0.1, freedom, 3 * freedom, 1e4, 1e9, 1e300]
    tails = [chi_square_tail(x, freedom) for x in xs]
    assert tails == sorted(tails, reverse=True)
    assert tails[0] == 1
    assert tails[-1] == 0
    assert 0.3 < chi_square_tail(freedom, freedom) < 0.55


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.data())
def test_few_units_are_judged_by_all_spreads_that_there_are(weights: list[int], data: st.DataObject) -> None:
    spread = data.draw(st.lists(st.integers(0, 3), min_size=len(weights), max_size=len(weights)).filter(any))
    part = shares(*weights)
    found = spread_p_value(np.array(spread), part, sum(spread))
    assert found == pytest.approx(slow_p_value(spread, part.tolist()), rel=1e-9)


def test_all_pages_on_one_node() -> None:
    for nodes, pages in ((2, 8), (4, 5), (8, 3)):
        spread = np.array([pages] + [0] * (nodes - 1))
        expected = nodes * nodes**-pages
        assert spread_p_value(spread, shares(*[1] * nodes), pages) == pytest.approx(expected)
        assert least_p_value(shares(*[1] * nodes), pages) == pytest.approx(expected)


def test_the_least_p_value_is_that_of_the_rarest_node() -> None:
    assert least_p_value(shares(3, 1), 2) == pytest.approx(1 / 16)
    assert least_p_value(np.array([0, 0.75, 0.25]), 2) == pytest.approx(1 / 16)


def test_between_few_and_many_the_p_value_is_never_below_the_chance_of_it() -> None:
    """Two nodes of which one is rare, so that the chance of every spread is a binomial one: p <= a with chance <= a."""
    rare, units = 1 / 3000, 30_000  # 10 expected
    log = [math.lgamma(units + 1) - math.lgamma(n + 1) - math.lgamma(units - n + 1) for n in range(81)]
    chances = [math.exp(log[n] + n * math.log(rare) + (units - n) * math.log1p(-rare)) for n in range(81)]
    found = [spread_p_value(np.array([units - n, n]), np.array([1 - rare, rare]), units) for n in range(81)]
    for bound in found:
        assert sum(chance for chance, p in zip(chances, found, strict=True) if p <= bound) <= bound * (1 + 1e-6)
    assert found[10] == 1
    assert found[0] == pytest.approx(4 * chances[0])
    assert found[40] < 1e-10


@pytest.mark.parametrize("weights", [[1, 1], [1] * 4, [1] * 8, [3, 1], [10, 1, 1, 1], [4, 3, 2, 1], [1] * 16])
def test_honest_dice_are_seldom_called_loaded(weights: list[int]) -> None:
    """At 1 %, 4,000 throws each. Allowed are 1.1 % (the chi-square distribution is not exact) and three standard
    deviations, 0.5 %; the seed is fixed, so this either holds or does not."""
    part = shares(*weights)
    throws, generator = 4000, np.random.default_rng(6)
    for units in (4, 12, 40, int(MANY / part.min()) + 1, int(4 * MANY / part.min())):
        spreads = generator.multinomial(units, part, size=throws)
        rate = sum(spread_p_value(spread, part, units) < 0.01 for spread in spreads) / throws
        print(f"{weights} {units}: {rate:.2%} at 1 %")
        assert rate <= 0.011 + 3 * math.sqrt(0.011 * 0.989 / throws)


def test_a_loaded_die_is_found_out() -> None:
    spread = np.array([6200, 1266, 1267, 1267])
    assert spread_p_value(spread, shares(1, 1, 1, 1), 10_000) < 1e-300
    assert spread_p_value(spread, shares(1, 1, 1, 1), 40) < 1e-4
    assert spread_p_value(spread, shares(1, 1, 1, 1), 8) > 0.05


def test_huge_pages_weigh_as_units_and_not_as_pages() -> None:
    even = shares(1, 1, 1, 1)
    spread = 512 * np.array([4, 2, 2, 2])
    assert spread_p_value(spread, even, 10) == pytest.approx(spread_p_value(np.array([4, 2, 2, 2]), even, 10))
    assert spread_p_value(spread, even, 10) > 0.5
    assert spread_p_value(spread, even, 5120) < 1e-100


def test_nodes_without_a_share() -> None:
    part = np.array([0.5, 0, 0.5])
    assert spread_p_value(np.array([5, 0, 5]), part, 10) == 1
    assert spread_p_value(np.array([5, 1, 5]), part, 11) == 0
    assert spread_p_value(np.array([0, 0, 0]), part, 0) == 1
    assert spread_p_value(np.array([7, 0, 0]), np.array([1.0, 0, 0]), 7) == 1


@given(
    st.lists(st.integers(1, 255), min_size=2, max_size=8),
    st.lists(st.integers(0, 10**6), min_size=8, max_size=8),
    st.floats(0, 1),
)
def test_any_spread_has_a_p_value(weights: list[int], pages: list[int], part: float) -> None:
    spread = np.array(pages[: len(weights)])
    found = spread_p_value(spread, shares(*weights), max(1.0, part * int(spread.sum())))
    assert 0 <= found <= 1
