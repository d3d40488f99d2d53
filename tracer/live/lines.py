"""One line of the table: a VMA, a process in the tree, or the headings. Called for what is on the screen only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tracer.live.bars import bar
from tracer.live.columns import INDENT, Width
from tracer.live.figures import amount, bytes_text, fit, fit_end, rate_text, safe, signed
from tracer.live.history import Unit
from tracer.live.rows import DESCENDING, Column, Layout, Rows
from tracer.live.verdicts import VERDICT_WORDS
from tracer.model.verdict import Finding, Verdict

__all__ = ["Look", "heading", "process_line", "vma_line"]

_PLAIN = Style()
_BOLD = Style(bold=True)
_DIM = Style(dim=True)
_ALARM_COLOUR = Style(bold=True, color="#ff8080")
_REVERSE = Style(reverse=True)
_REVERSE_BOLD = Style(reverse=True, bold=True)
_LEFT = frozenset({Column.ADDRESS, Column.NAME, Column.POLICY, Column.VERDICT, Column.NODES})


@dataclass(frozen=True, slots=True)
class Look:
    """How lines are drawn. all_kib: a hundred percent. gone: PIDs of targets that have exited."""

    columns: Sequence[Width]
    unit: Unit
    colour: bool
    all_kib: int
    gone: frozenset[int] = frozenset()


def heading(look: Look, layout: Layout) -> Strip:
    """The names of the columns, with an arrow at the one that is sorted by."""
    segments = []
    for column, width in look.columns:
        title = column.value
        if column is Column.PAGES:
            title = {Unit.PAGES: "PAGES", Unit.BYTES: "BYTES", Unit.PERCENT: "SHARE"}[look.unit]
        down = (column in DESCENDING) is not layout.inverted
        text = title[: width - 1] + ("▼" if down else "▲") if column is layout.sort else title
        cell = fit(text, width) if column in _LEFT else fit(text.rjust(width), width)
        segments += [Segment(cell, _REVERSE_BOLD if column is layout.sort else _REVERSE), Segment(" ", _REVERSE)]
    return _strip(segments[:-1], look)


def vma_line(rows: Rows, row: int, look: Look, selected: bool, indented: bool, finding: Finding | None) -> Strip:
    """A VMA. finding: on it, None where there is none."""
    shot_index, index = rows.place(row)
    shot = rows.shots[shot_index]
    vma = shot.vmas[index]
    pages, kib = int(rows.pages[row]), int(rows.kib[row])
    change, page_kb = int(rows.change[row]), int(rows.page_kb[row])
    address = f"{vma.start:012x}"
    texts = {
        Column.PID: str(shot.pid),
        Column.ADDRESS: " " * INDENT + address if indented else address,
        Column.NAME: safe(vma.path),
        Column.POLICY: safe(vma.policy.text(shot.spelling)),
        Column.VERDICT: VERDICT_WORDS[finding.verdict] if finding is not None else "",
        Column.SIZE: bytes_text(int(rows.size[row])),
        Column.PAGES: amount(pages, kib, look.all_kib, look.unit) if pages or look.unit is Unit.PAGES else "0",
        Column.CHANGE: signed(amount(change, change * page_kb, look.all_kib, look.unit)) if change else "",
        Column.FAULTS: _rate(float(rows.faults[row])),
        Column.MOVES: _rate(float(rows.moved[row])),
    }
    said = _verdict_style(finding, look.colour)
    return _line(texts, rows.node_ids, rows.nodes[row].tolist(), look, selected, _PLAIN, said)


def _verdict_style(finding: Finding | None, colour: bool) -> Style:
    """A skewed one is to be seen, what nothing can be said of is not in the way."""
    if finding is None or finding.verdict is Verdict.AS_PROMISED:
        return _PLAIN
    if finding.verdict is not Verdict.SKEWED:
        return _DIM
    return _ALARM_COLOUR if colour else _BOLD


def process_line(rows: Rows, index: int, look: Look, selected: bool, folded: bool) -> Strip:
    """A process in the tree, with the sums of all of its VMAs."""
    shot = rows.shots[index]
    mine = slice(int(rows.begins[index]), int(rows.begins[index + 1]))
    change = int(rows.change[mine].sum())
    kib_change = int((rows.change[mine] * rows.page_kb[mine]).sum())
    name = safe(shot.comm) + (" (exited)" if shot.pid in look.gone else "")
    inner = shot.namespace_pid or shot.pid
    texts = {
        Column.ADDRESS: f"{'+' if folded else '-'} {shot.pid}",
        Column.NAME: name if inner == shot.pid else f"{name} ({inner} in its namespace)",
        Column.POLICY: f"{len(shot.vmas)} VMAs",
        Column.VERDICT: "",
        Column.SIZE: bytes_text(int(rows.size[mine].sum())),
        Column.PAGES: amount(int(rows.pages[mine].sum()), int(rows.kib[mine].sum()), look.all_kib, look.unit),
        Column.CHANGE: signed(amount(change, kib_change, look.all_kib, look.unit)) if change else "",
        Column.FAULTS: _rate(float(rows.faults[mine].sum())),
        Column.MOVES: _rate(float(rows.moved[mine].sum())),
    }
    return _line(texts, rows.node_ids, rows.nodes[mine].sum(axis=0).tolist(), look, selected, _BOLD)


def _rate(per_s: float) -> str:
    return "-" if math.isnan(per_s) else rate_text(per_s)


def _line(
    texts: dict[Column, str],
    node_ids: Sequence[int],
    counts: Sequence[int],
    look: Look,
    selected: bool,
    style: Style,
    said: Style = _PLAIN,
) -> Strip:
    """said: the style of the verdict."""
    if selected:
        style += _REVERSE
    segments: list[Segment] = []
    text = ""
    for column, width in look.columns:
        if column is Column.NODES:
            segments.append(Segment(text, style))
            segments += bar(node_ids, counts, width, look.colour)
            text = " "
        elif column is Column.VERDICT and texts[column]:
            segments += [Segment(text, style), Segment(fit(texts[column], width), style + said)]
            text = " "
        elif column is Column.NAME:
            text += (fit_end if texts[column].startswith("/") else fit)(texts[column], width) + " "
        elif column in _LEFT:
            text += fit(texts[column], width) + " "
        else:
            text += fit(texts[column].rjust(width), width) + " "
    segments.append(Segment(text[:-1], style))
    return _strip(segments, look)


def _strip(segments: list[Segment], look: Look) -> Strip:
    width = sum(width for _, width in look.columns) + len(look.columns) - 1
    return Strip(segments, width)
