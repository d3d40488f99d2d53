"""Figures and sentences for people."""

from __future__ import annotations

import numpy as np
import pytest

from tracer.model import why


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1e-9, "less than 0.1 %"),
        (0.001, "0.1 %"),
        (0.02, "2 %"),
        (0.0234, "2.3 %"),
        (0.0999, "10 %"),
        (0.625, "62 %"),
        (0.99, "99 %"),
        (0.994, "99.4 %"),
        (0.99999, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_a_share_is_neither_nothing_nor_all_by_rounding(share: float, text: str) -> None:
    assert why.percent(share) == text


@pytest.mark.parametrize(
    ("p_value", "text"),
    [
        (0.0, "no chance does that"),
        (1e-40, "chance alone does that less than once in a million"),
        (9e-4, "chance alone does that less than once in 1,000"),
        (1e-3, "chance alone does that less than once in 100"),
        (0.05, "chance alone does that about once in 20"),
        (0.31, "chance alone does that in 31 % of all cases"),
        (1.0, "chance alone does that in 100 % of all cases"),
    ],
)
def test_how_often_chance_does_it(p_value: float, text: str) -> None:
    assert why.rare(p_value) == text


def test_the_node_with_most_beyond_its_share_is_named() -> None:
    shares = np.array([0.7, 0.1, 0.2])
    assert why.skewed(np.array([60, 30, 10]), shares, (0, 4, 9), 0.0) == (
        "30 % on node 4 where 10 % were promised; no chance does that"
    )


def test_one_of_anything_is_singular() -> None:
    assert why.counted(1, "page") == "1 page"
    assert why.counted(12_000, "page") == "12,000 pages"
    assert why.named([2]) == "node 2"
    assert why.named([0, 1, 3]) == "nodes 0-1,3"
    assert why.too_small(1, 1, 4, 1) == (
        "1 page is too few to tell a skew from chance on 4 nodes; 1 page lies elsewhere than by its address"
    )
    assert why.too_small_turn(1, 6, 0) == "1 page cannot show the weights, which come round after 6 pages"


def test_as_promised_says_how_near_it_is() -> None:
    assert why.fits(3, 100, 0.9, 0.001, 0) == (
        "3 % of the pages are beyond the share of their node; chance alone does that in 90 % of all cases"
    )
    assert why.fits(3, 1000, 1e-9, 0.001, 2) == (
        "0.3 % of the pages are beyond the share of their node, which is within the tolerance, "
        "although 2 pages lie elsewhere than by their address"
    )
