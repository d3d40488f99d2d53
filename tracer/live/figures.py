"""Numbers in few columns, and names of foreign processes as cells that only show."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from tracer.live.history import Unit
from tracer.render.terminal import printable

__all__ = ["amount", "bytes_text", "count_text", "fit", "fit_end", "rate_text", "safe", "signed"]

_STEPS = "KMGTPE"


def count_text(number: float, width: int = 7) -> str:
    """Exact as long as it fits into `width` characters; then `12.3M`, in powers of 1000."""
    text = str(int(number))
    return text if len(text) <= width else _scaled(number, 1000, "")


def bytes_text(number: float) -> str:
    """`512`, `4.0K`, `12.3G`: in powers of 1024, at most six characters."""
    return _scaled(number, 1024, "")


def _scaled(number: float, base: int, unit: str) -> str:
    sign, size = ("-" if number < 0 else ""), abs(number)
    if size < base:
        return f"{sign}{int(size)}{unit}"
    for step in _STEPS:
        size /= base
        if size < base - 0.05 or step == _STEPS[-1]:
            break
    return f"{sign}{size:.1f}{step}{unit}" if size < 99.95 else f"{sign}{size:.0f}{step}{unit}"


def rate_text(per_s: float) -> str:
    """Events per second in at most six characters; empty for none."""
    if per_s <= 0:
        return ""
    if per_s < 9.95:
        return f"{per_s:.1f}" if per_s >= 0.05 else "<0.1"
    return count_text(round(per_s), 5)


def amount(pages: int, kib: int, all_kib: int, unit: Unit) -> str:
    """Some pages in the unit of the user. kib: the same in KiB. all_kib: what is a hundred percent."""
    if unit is Unit.PAGES:
        return count_text(pages)
    if unit is Unit.BYTES:
        return bytes_text(kib * 1024)
    return f"{100 * kib / all_kib:.1f}%" if all_kib else "0.0%"


def signed(text: str) -> str:
    """With a plus, unless there is a minus already."""
    return text if text.startswith("-") else "+" + text


def safe(raw: bytes | str) -> str:
    """Foreign text as one line that a terminal only prints."""
    return printable(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogateescape"))


def fit(text: str, width: int) -> str:
    """Exactly `width` cells: filled up, or cut at the end with an ellipsis. Characters may be two cells wide."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…"


def fit_end(text: str, width: int) -> str:
    """The same, but cut at the front: the end of a path says more than its beginning."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    # Where a wide character would have to be halved there is a blank instead.
    tail = text
    while cell_len(tail) > width - 1:
        tail = tail[1 + (cell_len(tail) - width) // 2 :]
    return set_cell_size("…" + tail, width)
