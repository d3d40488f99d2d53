"""What the screen about flows says, as lines: matrices of nodes, reasons, the whole machine, and the VMAs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer.live.figures import count_text, fit, fit_end, rate_text, safe
from tracer.live.history import History
from tracer.live.matrix import Numbers, matrix, wanted_width
from tracer.live.sheet import Ink, Line, beside, plain
from tracer.model.accumulate import FlowRow, FlowSums, Place
from tracer.model.placement import FlowMatrix, flow_matrix

__all__ = ["Flowing", "Moved", "flowing", "flows_page"]

_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Moved:
    """Pages of one VMA: that moved since the last sample, and in all; and that failed to in all."""

    place: Place
    now: int
    total: int
    failed: int

    @property
    def key(self) -> _Key:
        """PID, and start of the VMA or -1."""
        return self.place.pid, self.place.vma.start if self.place.vma else -1


@dataclass(frozen=True, slots=True)
class Flowing:
    """What is known of flows. counted: whether anybody counts them. targets: how many live.

    reason: only this one is in the matrices and `vmas`; None for all. in_all: whether `vmas` are in the order of what
    moved in all. now: since the last sample, `seconds` ago. total: in `total_s`. machine: by reason, pages that the
    whole machine migrated since the last sample, and failed to; None where that is not known.
    """

    counted: bool
    targets: int
    reason: str | None
    in_all: bool
    now: FlowMatrix
    seconds: float
    total: FlowMatrix
    total_s: float
    vmas: Sequence[Moved]
    machine: dict[str, tuple[int, int]] | None


def flowing(history: History, reason: str | None, in_all: bool) -> Flowing:
    """What the history knows up to the sample that it shows."""
    sample = history.current
    sums = FlowSums()
    for shot in (*sample.ended, *sample.snapshots):
        sums.add(shot)
    now, total = sums.rows(), history.flows.rows()
    machine = None
    if sample.migrated is not None and sample.failed is not None:
        counts = zip(sample.migrated.tolist(), sample.failed.tolist(), strict=True)
        machine = dict(zip(sample.reasons, counts, strict=True))
    return Flowing(
        counted=bool(total) or any(shot.flows is not None for shot in (*sample.snapshots, *sample.ended)),
        targets=len(sample.snapshots),
        reason=reason,
        in_all=in_all,
        now=flow_matrix(now, sample.node_ids, reason),
        seconds=history.seconds,
        total=flow_matrix(total, sample.node_ids, reason),
        total_s=history.summed_s,
        vmas=_vmas(now, total, reason, in_all),
        machine=machine,
    )


def _vmas(now: list[FlowRow], total: list[FlowRow], reason: str | None, in_all: bool) -> list[Moved]:
    places: dict[_Key, Place] = {}
    sums: dict[_Key, list[int]] = {}
    for rows, which in ((total, 1), (now, 0)):
        for row in rows:
            if reason in (None, row.reason):
                key = row.place.pid, row.place.vma.start if row.place.vma else -1
                places[key] = row.place
                its = sums.setdefault(key, [0, 0, 0])
                its[which] += row.pages
                its[2] += row.failed if which else 0
    moved = [Moved(places[key], *its) for key, its in sums.items()]

    def weight(vma: Moved) -> tuple[int, int, int, _Key]:
        first, then = (vma.total, vma.now) if in_all else (vma.now, vma.total)
        return -first, -then, -vma.failed, vma.key

    return sorted(moved, key=weight)


def flows_page(known: Flowing, chosen: _Key | None, width: int, height: int, ink: Ink) -> list[Line]:
    """At most `height` lines of `width` cells. chosen: the VMA that is marked."""
    targets = f"{known.targets} target{'' if known.targets == 1 else 's'}"
    why = f", only {safe(known.reason)}" if known.reason is not None else ""
    lines: list[Line] = [[plain(fit(f"pages that moved, of {targets}{why}", width), ink.bold)]]
    if not known.counted:
        return [*lines, [plain(fit("flows are not counted here", width), ink.warning)], *_machine(known, width, ink)]
    reasons = _reasons(known, width, ink)
    room = max(0, height - 1 - len(reasons))
    wanted = max(len(known.total.nodes), len(known.now.nodes)) + 2
    lines += _matrices(known, width, min(wanted, max(3, room // 2)), ink)
    lines += reasons
    return [*lines, *_vma_lines(known, chosen, width, height - len(lines), ink)][:height]


# -- matrices -----------------------------------------------------------------------------------------------------


def _matrices(known: Flowing, width: int, height: int, ink: Ink) -> list[Line]:
    """Both beside each other where there is room, otherwise the one that is wanted."""
    per_s = known.now.pages / known.seconds if known.seconds else np.zeros(known.now.pages.shape)
    half = (width - 2) // 2
    wide = max(
        wanted_width(_CORNER, known.now.nodes, per_s, rate_text),
        wanted_width(_CORNER, known.total.nodes, known.total.pages),
    )
    if wide > half:
        return _total(known, width, height, ink) if known.in_all else _now(known, per_s, width, height, ink)
    left, right = _now(known, per_s, half, height, ink), _total(known, half, height, ink)
    return beside(left, right, half + 2)


_CORNER = "from\\to"


def _now(known: Flowing, per_s: Numbers, width: int, height: int, ink: Ink) -> list[Line]:
    title: Line = [plain(fit("now, pages/s", width), ink.dim if known.in_all else ink.bold)]
    return [title, *matrix(_CORNER, known.now.nodes, known.now.nodes, per_s, (width, height - 1), ink, rate_text)]


def _total(known: Flowing, width: int, height: int, ink: Ink) -> list[Line]:
    text = f"in all {known.total_s:.0f} s, pages"
    title: Line = [plain(fit(text, width), ink.bold if known.in_all else ink.dim)]
    total = known.total
    return [title, *matrix(_CORNER, total.nodes, total.nodes, total.pages, (width, height - 1), ink)]


# -- reasons ------------------------------------------------------------------------------------------------------


def _reasons(known: Flowing, width: int, ink: Ink) -> list[Line]:
    """A line for each reason that is known to have moved pages of targets or, just now, of anybody."""
    machine = known.machine or {}
    reasons = [*known.total.reasons, *(why for why, counts in machine.items() if any(counts))]
    head = f"{'reason':18}{'now/s':>7}{'in all':>10}{'failed':>9}{'machine/s':>11}{'ours':>8}"
    lines: list[Line] = [[plain(fit(head, width), ink.dim)]]
    for why in dict.fromkeys(reasons):
        moved, _ = known.now.reasons.get(why, (0, 0))
        total, failed = known.total.reasons.get(why, (0, 0))
        text = f"{fit(safe(why), 18)}{_rate(moved, known):>7}{count_text(total):>10}{count_text(failed):>9}"
        if known.machine is not None:
            migrated, _ = machine.get(why, (0, 0))
            text += f"{_rate(migrated, known):>11}{moved / migrated if migrated else 0:>8.0%}"
        lines.append([plain(fit(text, width), ink.bold if why == known.reason else ink.none)])
    return [*lines, *_machine(known, width, ink)]


def _machine(known: Flowing, width: int, ink: Ink) -> list[Line]:
    if known.machine is None:
        return [[plain(fit("the whole machine: not known here", width), ink.dim)]]
    migrated, failed = (sum(counts[at] for counts in known.machine.values()) for at in (0, 1))
    moved = sum(pages for pages, _ in known.now.reasons.values())
    share = f", {moved / migrated:.0%} of it ours" if migrated else ""
    text = f"the whole machine now: {count_text(migrated)} pages migrated, {count_text(failed)} failed{share}"
    return [[plain(fit(text, width), ink.dim)]]


def _rate(pages: int, known: Flowing) -> str:
    return rate_text(pages / known.seconds) if known.seconds else ""


# -- VMAs ---------------------------------------------------------------------------------------------------------


def _vma_lines(known: Flowing, chosen: _Key | None, width: int, height: int, ink: Ink) -> list[Line]:
    """As many as there is room for, so that the chosen one is among them."""
    if height <= 0:
        return []
    if not known.vmas:
        return [[plain(fit("no page has moved", width))]]
    head = f"{'now/s':>6}{'in all':>9}{'failed':>8} {'PID':>7} {'VMA':14}{'name':9}"
    heading = fit(head, max(0, width - 10)) + fit(f"{len(known.vmas):>5} VMAs", min(10, width))
    keys = [vma.key for vma in known.vmas]
    at = keys.index(chosen) if chosen in keys else 0
    room = height - 1
    first = max(0, min(at - room // 2, len(keys) - room))
    lines: list[Line] = [[plain(fit(heading, width), ink.dim)]]
    for vma in known.vmas[first : first + room]:
        lines.append([plain(_vma_line(vma, known, width), ink.key if vma.key == chosen else ink.none)])
    return lines


def _vma_line(moved: Moved, known: Flowing, width: int) -> str:
    place = moved.place
    text = f"{_rate(moved.now, known):>6}{count_text(moved.total):>9}{count_text(moved.failed):>8} {place.pid:>7} "
    if place.vma is None:
        return fit(text + "(not mapped any more)", width)
    text += f"{place.vma.start:<13x} "
    return fit(text + fit_end(safe(place.vma.path), max(0, width - len(text))), width)
