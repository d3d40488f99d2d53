"""Figures of matplotlib, and how they get onto a page or into a file. No state is shared: pyplot is not used.

What a page gets is SVG inside HTML: no namespaces, no metadata, no style sheet of its own, and names that are unique
on the page. Its text is real text, so that it can be searched and read aloud, and takes the page's colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["INK", "MUTED", "WIDTH_IN", "clean", "new_figure", "png", "put_text", "svg", "time_axis"]

INK = "#1a1a19"
"""Text. On a page it becomes the colour of the page's text."""
MUTED = "#6b6b69"
"""Axes and what is said beside. On a page it becomes the page's second colour of text."""

WIDTH_IN = 10.5
"""As wide as the page."""
_PNG_DPI = 160
_MOST_PIXELS = 16_000
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "numatrace",
    "svg.image_inline": True,
    "image.composite_image": False,
    "path.simplify": True,
    "timezone": "UTC",
}
# For ticks that are years, months, days, hours, minutes and seconds apart; at a full larger unit; and beside the axis.
_TICKS = ["%Y", "%b", "%d", "%H:%M", "%H:%M", "%H:%M:%S.%f"]
_ROUND = ["", "%Y", "%b", "%b %d", "%H:%M", "%H:%M:%S.%f"]
_DATES = ["", "%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%d", "%Y-%m-%d"]
_PIXELS_PER_POINT = 1.43
"""On a page as wide as it gets: text of 9 points has some 13 pixels."""
_LEAST_PIXELS = 640
"""Below that a picture is scrolled and not made smaller."""
_BARE = {"Date": None, "Creator": None, "Format": None, "Type": None}
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_CHARACTERS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A character that the font lacks: the browser has another font, and a PNG shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@contextmanager
def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Iterator[Figure]:
    """A figure to draw on, in the style of all; what is drawn inside `with` has it."""
    with _style():
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def time_axis(axes: Axes, edges: npt.NDArray[np.datetime64]) -> npt.NDArray[np.float64]:
    """Make x the time from the first edge to the last. Returns the edges in x."""
    x: npt.NDArray[np.float64] = dates.date2num(edges)  # type: ignore[no-untyped-call]
    locator = dates.AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    ticks = dates.ConciseDateFormatter(locator, formats=_TICKS, zero_formats=_ROUND, offset_formats=_DATES)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(ticks)
    axes.set_xlim(float(x[0]), float(x[-1]))
    return x


def clean(text: str) -> str:
    """Without what XML cannot hold."""
    return _CHARACTERS.sub("�", text)


def put_text(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    """Text that is not ours: shown as it is, `$` included."""
    axes.text(x, y, clean(text), parse_math=False, **how)


def png(figure: Figure) -> bytes:
    """The picture as a file, on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _style():
        FigureCanvasAgg(figure)
        dpi = min(_PNG_DPI, _MOST_PIXELS / max(figure.get_size_inches()))
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The picture as an element of HTML.

    name: in front of every id in it. title, description: for those who cannot see it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with _style():
        FigureCanvasSVG(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_BARE)
    root = ElementTree.fromstring(file.getvalue())
    for style in root.findall(".//{*}defs/{*}style/.."):
        for child in style.findall("{*}style"):
            style.remove(child)
    ids = _used_ids(root, name)
    for element in root.iter():
        _clean(element, ids)
    _announce(root, name, title, description)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _used_ids(root: ElementTree.Element, name: str) -> dict[str, str]:
    """Ids that something refers to, and what they become: the same for the same picture, and unique on the page."""
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            used.update(_REFERENCE.findall(value))
            used.update([value[1:]] if key == _LINK and value.startswith("#") else [])
    there = [element.attrib["id"] for element in root.iter() if element.attrib.get("id") in used]
    return {old: f"{name}-{number}" for number, old in enumerate(there, 1)}


def _clean(element: ElementTree.Element, ids: dict[str, str]) -> None:
    """Into HTML's own SVG: no prefixes, own ids, short numbers, the page's colours."""
    element.tag = element.tag.rpartition("}")[2]
    element.tail = None
    attributes = dict(element.attrib)
    element.attrib.clear()
    for key, value in attributes.items():
        if key == "id":
            if value not in ids:
                continue
            value = ids[value]
        elif key == _LINK:
            key, value = "href", f"#{ids[value[1:]]}" if value.startswith("#") else value
        elif key in ("d", "style", "x", "y", "transform", "width", "height", "points"):
            value = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
        value = _REFERENCE.sub(lambda reference: f"url(#{ids[reference[1]]})", value)
        if key == "style":
            value = value.replace(INK, "currentColor").replace(MUTED, "var(--muted)")
        element.attrib[key.rpartition("}")[2]] = value


def _announce(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    box = root.attrib["viewBox"]
    width = float(box.split()[2]) * _PIXELS_PER_POINT
    root.attrib.clear()
    root.attrib["style"] = f"max-width:{width:.0f}px;min-width:{min(width, _LEAST_PIXELS):.0f}px"
    attributes = {"viewBox": box, "class": "plot", "role": "img", "preserveAspectRatio": "xMidYMid meet"}
    root.attrib.update(attributes, **{"id": name, "aria-labelledby": f"{name}-title {name}-desc"})
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = clean(text)
        root.insert(place, element)
