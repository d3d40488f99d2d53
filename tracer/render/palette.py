"""Colours, letters and hatches of nodes: the same in the live view, in reports and in plots.

The eight first colours are those of Okabe and Ito (Color Universal Design, 2008) with a violet in place of their
black, which a dark terminal swallows. Their order puts far apart what stands side by side most often: the first four
nodes, and neighbours, which differ in lightness as well. Every pair can be told apart with each of the three colour
vision deficiencies (tests/unit/test_palette.py computes it). What is drawn never rests on colour alone: letters and
hatches say the same. Pure: nothing here knows where it is drawn.
"""

from __future__ import annotations

__all__ = [
    "COLOURS",
    "EMPTY",
    "HATCHES",
    "LOST",
    "MIXED",
    "PATTERNS",
    "contrast_text",
    "node_colour",
    "node_hatch",
    "node_letter",
]

COLOURS = ("#0072b2", "#e69f00", "#7818f0", "#56b4e9", "#d55e00", "#cc79a7", "#f0e442", "#009e73")
"""Blue, orange, violet, sky blue, vermillion, reddish purple, yellow, bluish green."""

MIXED = "#c8c8c8"
"""Where several nodes share a place and none has the majority."""

EMPTY = "#6e6e6e"
"""Where no page is."""

LOST = "#a00020"
"""Where nothing is known: events were lost, or nobody looked."""

PATTERNS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""One character per node, for where there is no colour."""

HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "||", "++", "**")
"""Hatches of matplotlib. They are ten and not eight, so that a colour with its hatch returns only after 40 nodes."""

_MOST = 0.55
"""How far a derived colour goes towards white or black, at most: hue must remain."""


def node_colour(index: int) -> str:
    """`#rrggbb` of a node. index: the node's id, so that it has one colour in every output; ValueError below 0.

    From the ninth node on the eight colours return, lighter and darker in turn, first by large steps and then by ever
    smaller ones, so that the 1,024 nodes which Linux can have are all different, though not all to the eye.
    """
    if index < 0:
        raise ValueError(f"no node has the id {index}")
    turn, place = divmod(index, len(COLOURS))
    if turn == 0:
        return COLOURS[place]
    step, darker = divmod(turn - 1, 2)
    return _towards(COLOURS[place], 0 if darker else 255, _MOST * _spread(step + 1))


def node_letter(index: int) -> str:
    """One character for a node: its id up to 9, then letters. They return after 62 nodes. ValueError below 0."""
    if index < 0:
        raise ValueError(f"no node has the id {index}")
    return PATTERNS[index % len(PATTERNS)]


def node_hatch(index: int) -> str:
    """The hatch of matplotlib for a node. ValueError below 0."""
    if index < 0:
        raise ValueError(f"no node has the id {index}")
    return HATCHES[index % len(HATCHES)]


def contrast_text(colour: str) -> str:
    """Black or white, whichever reads better on `colour` (`#rrggbb`): the higher contrast ratio of WCAG 2.1."""
    luminance = _luminance(colour)
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#ffffff"


def _spread(count: int) -> float:
    """The van der Corput sequence of base 2 (1/2, 1/4, 3/4, 1/8, ...): each new value lies in the widest gap left."""
    value, digit = 0.0, 0.5
    while count:
        count, bit = divmod(count, 2)
        value += digit * bit
        digit /= 2
    return value


def _channels(colour: str) -> tuple[int, int, int]:
    number = int(colour.removeprefix("#"), 16)
    return number >> 16, number >> 8 & 255, number & 255


def _towards(colour: str, end: int, part: float) -> str:
    red, green, blue = (round(channel + (end - channel) * part) for channel in _channels(colour))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1, 0 to 1, from sRGB."""
    linear = [
        channel / 255 / 12.92 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4
        for channel in _channels(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
