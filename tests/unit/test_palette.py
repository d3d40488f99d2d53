"""Node colours that people with any colour vision, and with none, can tell apart."""

from __future__ import annotations

import itertools
import string

import numpy as np
import numpy.typing as npt
import pytest

from tracer.render import palette

Floats = npt.NDArray[np.float64]

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes: A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE TVCG 15(6), 2009: the matrices for severity 1.0, which apply to linear RGB.
VISIONS = {
    "ordinary": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# IEC 61966-2-1 (sRGB, white point D65).
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ @ np.ones(3)

# A difference of 2.3 is just noticeable; these are small marks on an unknown background, side by side or not.
TOLD_APART = 15.0
FIRST_FOUR = 24.0


def linear(colour: str) -> Floats:
    rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    """CIE 1976 L*a*b* of linear RGB."""
    ratio = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def difference(one: str, other: str, vision: str) -> float:
    """CIE 1976 Delta-E of two colours as somebody sees them."""
    matrix = VISIONS[vision]
    return float(np.linalg.norm(lab(matrix @ linear(one)) - lab(matrix @ linear(other))))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.1."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISIONS)
def test_the_first_eight_are_told_apart_with_any_colour_vision(vision: str) -> None:
    first = [palette.node_colour(index) for index in range(8)]
    worst = min(difference(one, other, vision) for one, other in itertools.combinations(first, 2))
    assert worst >= TOLD_APART
    worst = min(difference(one, other, vision) for one, other in itertools.combinations(first[:4], 2))
    assert worst >= FIRST_FOUR


@pytest.mark.parametrize("vision", VISIONS)
def test_what_is_of_several_nodes_is_not_taken_for_one_of_them(vision: str) -> None:
    assert min(difference(palette.MIXED, palette.node_colour(index), vision) for index in range(8)) >= TOLD_APART


def test_the_simulation_knows_a_bad_palette() -> None:
    assert difference("#ff0000", "#00a000", "ordinary") > 100
    assert difference("#c04000", "#5a6a00", "protanopia") < TOLD_APART


def test_neighbours_differ_in_lightness() -> None:
    lightness = [lab(linear(palette.node_colour(index)))[0] for index in range(8)]
    steps = [abs(one - other) for one, other in itertools.pairwise(lightness)]
    assert min(steps) > 6
    assert min(steps[:3]) > 20


@pytest.mark.parametrize("ground", ["#000000", "#1e1e1e"])
def test_every_first_colour_shows_on_dark_ground(ground: str) -> None:
    assert min(contrast(palette.node_colour(index), ground) for index in range(8)) >= 2.4


def test_no_first_colour_is_lost_on_white() -> None:
    ratios = [contrast(palette.node_colour(index), "#ffffff") for index in range(8)]
    assert min(ratios) > 1.3
    assert sorted(ratios)[1] > 2


def test_every_possible_node_has_its_own_colour() -> None:
    colours = [palette.node_colour(index) for index in range(1024)]
    assert len(set(colours)) == 1024
    for colour in colours:
        assert len(colour) == 7
        assert set(colour[1:]) <= set(string.hexdigits.lower())
        assert colour not in ("#000000", "#ffffff")


def test_a_colour_that_returns_is_first_lighter_then_darker() -> None:
    first, lighter, darker = (lab(linear(palette.node_colour(index)))[0] for index in (0, 8, 16))
    assert darker < first - 10 < first + 10 < lighter


def test_letters_are_the_ids_of_small_nodes() -> None:
    assert [palette.node_letter(index) for index in (0, 9, 10, 35, 36, 61, 62)] == ["0", "9", "a", "z", "A", "Z", "0"]
    assert len({palette.node_letter(index) for index in range(62)}) == 62


def test_colour_and_hatch_together_repeat_late() -> None:
    pairs = {(index % 8, palette.node_hatch(index)) for index in range(40)}
    assert len(pairs) == 40


def test_text_on_a_colour_is_readable() -> None:
    for index in range(64):
        colour = palette.node_colour(index)
        text = palette.contrast_text(colour)
        assert text in ("#000000", "#ffffff")
        assert contrast(colour, text) >= 4.5
    assert palette.contrast_text("#ffff00") == "#000000"
    assert palette.contrast_text("#000080") == "#ffffff"


def test_there_is_no_negative_node() -> None:
    for function in (palette.node_colour, palette.node_letter, palette.node_hatch):
        with pytest.raises(ValueError, match="-1"):
            function(-1)
