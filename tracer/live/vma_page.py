"""What the screen about one VMA says, as lines: facts, policy and shares, the verdict on them, the strip of regions,
flows, first touch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from tracer.live.figures import bytes_text, count_text, fit, fit_end, rate_text, safe
from tracer.live.history import Unit
from tracer.live.matrix import matrix, node_text
from tracer.live.shares import Shares, share_lines
from tracer.live.sheet import Ink, Line, beside, plain
from tracer.live.strip import Frame, View, Window, draw
from tracer.live.subject import Found
from tracer.live.why import cut, short_lines, usable_words, why_lines
from tracer.model.accumulate import FlowRow
from tracer.model.placement import Expectation, FirstTouch, expectation
from tracer.model.verdict import Finding
from tracer.render.shares import meaning

__all__ = ["Facts", "Page", "page", "why_page"]

_SIDE_BY_SIDE = 76
"""From this width on, flows and first touch stand next to each other."""
_FLOWS_WIDTH = 44
_LEAST_STRIP = 4
"""Lines of the strip that a long verdict leaves it, with what stands around it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the VMA. gone: why it is not there any more, or empty.

    now, total: flows since the last sample, which is `seconds` ago, and in `total_s`; None if they are not counted.
    touch: first touches in `total_s`; None if page faults are not counted. finding: the verdict on it; None where
    there is none.
    """

    found: Found
    gone: str
    now: list[FlowRow] | None
    seconds: float
    total: list[FlowRow]
    total_s: float
    touch: FirstTouch | None
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Lines, and the frame in which the strip stands among them."""

    lines: list[Line]
    frame: Frame


def page(facts: Facts, view: View, unit: Unit, width: int, height: int, ink: Ink) -> Page:
    """At most `height` lines of `width` cells. The strip gets what the others leave, the others what they need."""
    found = facts.found
    top = _top(facts, unit, width, height, ink)
    room = max(height - len(top), 0)
    below = _happened_height(facts, width)
    others = below + (_LEAST_STRIP if found.snapshot.regions is not None else 1)
    verdict: list[Line] = []
    if facts.finding is not None:
        verdict = short_lines(facts.finding, width, max(room // 2, room - others, 2), ink)
    room = max(room - len(verdict), 0)
    strip_room = max(room - below, room // 2) if found.snapshot.regions is not None else min(room, 1)
    frame = Frame(width, max(1, strip_room - 2))
    strip = _strip(found, view, frame, width, ink)[:strip_room]
    happened = _happened(facts, width, room - len(strip), ink)
    return Page([*top, *verdict, *strip, *happened][:height], frame)


def why_page(facts: Facts, first: int, unit: Unit, width: int, height: int, ink: Ink) -> tuple[list[Line], int]:
    """At most `height` lines about the verdict alone, from line `first` of what is said about it on; and the last line
    that it makes sense to begin with."""
    top = _top(facts, unit, width, height, ink)
    lines: list[Line] = [[plain("no verdict: it has no pages", ink.dim)]]
    if facts.finding is not None:
        lines = why_lines(facts.finding, width, ink)
    room = max(height - len(top), 1)
    last = max(len(lines) - room, 0)
    return [*top, *cut(lines, min(first, last), room, "down", ink)][:height], last


def _top(facts: Facts, unit: Unit, width: int, height: int, ink: Ink) -> list[Line]:
    """What it is, its policy, and what lies on each node."""
    found = facts.found
    expected, differences = expectation(found.vma.policy, found.snapshot.node_ids), None
    if facts.finding is not None:
        finding = facts.finding
        expected = Expectation(finding.promise, finding.usable, finding.shares, expected.whole)
        differences = finding.difference.tolist()
    head = [*_title(facts, width, ink), *_policy(facts, expected, width)]
    room = max(height - len(head), 0)
    shares = Shares(found.vma.policy, expected, found.snapshot.node_ids, found.pages, found.vma.page_kb, differences)
    lines = share_lines(shares, unit, width, min(1 + len(shares.node_ids), max(2, room * 2 // 5)), ink)
    return [*head, *lines]


def _title(facts: Facts, width: int, ink: Ink) -> list[Line]:
    found = facts.found
    vma, shot = found.vma, found.snapshot
    where = f"{vma.start:x}-{vma.end:x} {safe(vma.perms)} "
    lines: list[Line] = [[plain(where, ink.bold), plain(fit_end(safe(vma.path), width - len(where)), ink.bold)]]
    if facts.gone:
        lines.append([plain(fit(f"{facts.gone}: this is how it was last seen", width), ink.warning)])
    inner = shot.namespace_pid or shot.pid
    who = f"PID {shot.pid}" + (f" ({inner} in its namespace)" if inner != shot.pid else "")
    size = f"{bytes_text(vma.end - vma.start)} in pages of {bytes_text(vma.page_kb * 1024)}, {sum(found.pages)} mapped"
    lines.append([plain(f"{who} {safe(shot.comm)}: {size}")])
    return lines


def _policy(facts: Facts, expected: Expectation, width: int) -> list[Line]:
    found, policies = facts.found, facts.found.snapshot.policies
    text = f"policy {safe(found.vma.policy.text(found.snapshot.spelling))}"
    if facts.finding is not None and policies is not None:
        text += f" ({usable_words(facts.finding, policies)})"
    text += ":"
    words = meaning(found.vma.policy, expected)
    if len(text) + 1 + len(words) <= width:
        return [[plain(f"{text} {words}")]]
    return [[plain(text)], [plain("  " + words)]]


# -- the strip ----------------------------------------------------------------------------------------------------


def _strip(found: Found, view: View, frame: Frame, width: int, ink: Ink) -> list[Line]:
    regions, shot = found.snapshot.regions, found.snapshot
    if regions is None:
        why = "without hooks nobody counts by region" if shot.hooks == "none" else "not counted by region here"
        return [[plain(fit(f"regions: {why}", width), ink.dim)]]
    window = view.window(regions, found.vma, frame, ink.colour)
    size = bytes_text(window.cells.size)
    legend = "█ one node ▀ two ▒ several · none" if ink.colour else "00 one node 01 two 0* ** several ·· none"
    label = f"regions: {window.count} cells of {size}"
    return [
        [plain(label), plain(legend.rjust(width - len(label)) if len(label + legend) < width else "", ink.dim)],
        *draw(window, shot.node_ids, ink),
        _at_cursor(window, shot.node_ids, ink),
    ]


def _at_cursor(window: Window, node_ids: tuple[int, ...], ink: Ink) -> Line:
    address = max(window.start, window.cells.base + window.cursor * window.cells.size)
    line: Line = [plain(f"◆ {address:x} (+{bytes_text(address - window.vma_start)}):", ink.bold)]
    counts = window.cells.pages[window.cursor].tolist()
    if not any(counts):
        return [*line, plain(" no page")]
    for node, count in zip(node_ids, counts, strict=True):
        if count:
            line += [plain(f" N{node}", ink.node(node, bold=True)), plain(f"={count}")]
    return line


# -- what happened ------------------------------------------------------------------------------------------------


def _happened_height(facts: Facts, width: int) -> int:
    """Lines that flows and first touch would like to have."""
    flows = 2 + len({_way(row) for row in (*facts.total, *(facts.now or ()))})
    touch = 4 + len(facts.touch.cpu_nodes) if facts.touch is not None else 1
    return max(flows, touch) if width >= _SIDE_BY_SIDE else flows + touch


def _happened(facts: Facts, width: int, height: int, ink: Ink) -> list[Line]:
    if height <= 0:
        return []
    if width >= _SIDE_BY_SIDE:
        flows = _flows(facts, _FLOWS_WIDTH, height, ink)
        return beside(flows, _touch(facts, width - _FLOWS_WIDTH - 2, height, ink), _FLOWS_WIDTH + 2)
    flows = _flows(facts, width, max(1, height // 2), ink)
    return [*flows, *_touch(facts, width, height - len(flows), ink)]


_Way = tuple[int, int, str]


def _way(row: FlowRow) -> _Way:
    return row.source, row.destination, row.reason


def _by_way(rows: Iterable[FlowRow]) -> dict[_Way, list[int]]:
    sums: dict[_Way, list[int]] = {}
    for row in rows:
        its = sums.setdefault(_way(row), [0, 0])
        its[0] += row.pages
        its[1] += row.failed
    return sums


def _flows(facts: Facts, width: int, height: int, ink: Ink) -> list[Line]:
    if facts.now is None:
        return [[plain(fit("flows: not counted here", width), ink.dim)]]
    now, total = _by_way(facts.now), _by_way(facts.total)
    ways = sorted(total, key=lambda way: (-total[way][0], -total[way][1], way))
    title = f"pages moved in {facts.total_s:.0f} s"
    if not ways:
        return [[plain(title + ": none")]]
    reason = max(8, width - 30)
    lines: list[Line] = [
        [plain(f"{title}: {sum(its[0] for its in total.values())}")],
        [plain(fit(f"{'from to':9}{'reason':{reason}}{'now/s':>6}{'in all':>8}{'failed':>7}", width), ink.dim)],
    ]
    room = height - len(lines)
    shown = ways if len(ways) <= room else ways[: max(room - 1, 0)]
    for source, destination, why in shown:
        pages, failed = total[source, destination, why]
        moved, _ = now.get((source, destination, why), (0, 0))
        rate = rate_text(moved / facts.seconds) if facts.seconds else ""
        lines.append(
            [
                plain(fit(node_text(source), 5), ink.node(source, bold=True)),
                plain(fit(node_text(destination), 4), ink.node(destination, bold=True)),
                plain(
                    fit(
                        fit(safe(why), reason) + f"{rate:>6}{count_text(pages):>8}{count_text(failed, 6):>7}", width - 9
                    )
                ),
            ]
        )
    if len(shown) < len(ways):
        lines.append([plain(f"and {len(ways) - len(shown)} more ways", ink.dim)])
    return lines[:height]


def _touch(facts: Facts, width: int, height: int, ink: Ink) -> list[Line]:
    touch = facts.touch
    if touch is None:
        return [[plain(fit("first touch: page faults are not counted here", width), ink.dim)]][:height]
    if not touch.faults:
        return [[plain(fit("first touch: no page fault yet", width))]][:height]
    local = "" if touch.local is None else f", {touch.local:.1%} local"
    lines: list[Line] = [[plain(fit(f"first touch: {count_text(int(touch.pages.sum()))}{local}", width))]]
    if touch.pages.size:
        room = (width, max(2, height - 2))
        lines += matrix("CPU\\page", touch.cpu_nodes, touch.page_nodes, touch.pages, room, ink)
    kinds = ", ".join(f"{kind.name.lower()} {count_text(touch.faults[kind])}" for kind in sorted(touch.faults))
    lines += [[plain(fit(text, width), ink.dim)] for text in textwrap.wrap(f"faults: {kinds}", max(width, 12))]
    return lines[:height]
