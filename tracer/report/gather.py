"""Reads a recording once, some rows at a time, into a `History`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.model.accumulate import HUGE_PAGES, PLACING
from tracer.model.events import Kind
from tracer.model.policy import DEFAULT, Policy, Spelling
from tracer.record.schema import node_column
from tracer.record.words import policy_from
from tracer.report.history import Area, Doubts, FlowSum, History, Target
from tracer.report.rulings import rulings
from tracer.report.steps import ENDED, UNMAPPED, Columns, Moment, StepRows, Steps
from tracer.report.table import Rows

if TYPE_CHECKING:
    from tracer.record.recording import Recording

__all__ = ["COLUMNS", "gather"]

Int64s = npt.NDArray[np.int64]

COLUMNS = 480
"""Stretches of time that a picture shows."""
_ROWS_AT_ONCE = 150_000
_FIRST_SAMPLES = 60
_PAGE_KB = 4
_NOTHING_KNOWN = Area("", "anon", "", DEFAULT, DEFAULT.text(), _PAGE_KB)

_EVENTS = ("machine", "ended", "target", "vma", "unmapped", "region")
_WANTED = (
    *(
        "time",
        "event",
        "key",
        "pid",
        "ns_pid",
        "comm",
        "hooks",
        "reader",
        "spelling",
        "start",
        "end",
        "perms",
        "kind",
        "name",
        "huge",
    ),
    *("page_kb", "policy", "policy_mode", "policy_flags", "policy_nodes", "settling", "unexplained", "lost", "drift"),
    *("oldest_read_s", "cpu_ns", "untraced", "flows", "faults"),
)


def gather(
    recording: Recording,
    first: int = 0,
    last: int | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> History:
    """Of samples `first` to `last`, which is included. NumatraceError where there are none.

    What happened before the sample `first` is left out, unless it is that of the recording.
    """
    last = len(recording) - 1 if last is None else last
    if not len(recording) or last < first:
        raise NumatraceError("there is no sample to report of", "choose another recording, or another stretch of time")
    gatherer = _Gatherer(recording, first, last)
    if first:
        gatherer.begin(recording, first)
    at, step = first + bool(first), _FIRST_SAMPLES
    while at <= last:
        until = min(at + step - 1, last)
        count = gatherer.read(recording, at, until)
        progress("reading the recording", until - first, last - first + 1)
        step = max(1, min(8 * step, step * _ROWS_AT_ONCE // max(count, 1)))
        at = until + 1
    history = gatherer.finished()
    history.rulings = rulings(recording, first, last, history, progress)
    return history


def _columns(recording: Recording, first: int, last: int) -> Columns:
    """The last sample is believed for as long as most are: for the usual time between two."""
    times = recording.times[first : last + 1].astype("datetime64[us]").astype(np.int64)
    gaps = np.diff(times)
    usual = int(np.median(gaps)) if len(gaps) else round(recording.info.every_s * 1e6)
    return Columns(int(times[0]), int(times[-1]) + max(usual, 1000), COLUMNS)


@dataclass(slots=True)
class _Chunk:
    """Some rows, in order, as arrays. n of them.

    event: index into `_EVENTS`; key: whether of a key frame; process: index; sample: index, from
    the first sample of the report on; column, part: as `Columns.place` says; ordinal: counts all rows of the report.
    pages: int64[n, nodes]. ends: which rows tell of the end of a target.
    """

    rows: Rows
    event: Int64s
    key: npt.NDArray[np.bool_]
    process: Int64s
    sample: Int64s
    column: Int64s
    part: npt.NDArray[np.float64]
    ordinal: Int64s
    start: Int64s
    end: Int64s
    page_kb: Int64s
    pages: Int64s
    ends: Int64s

    def are(self, *events: str) -> npt.NDArray[np.bool_]:
        """Which rows are of these events."""
        mask: npt.NDArray[np.bool_] = np.isin(self.event, [_EVENTS.index(event) for event in events])
        return mask

    def pieces(self) -> list[slice]:
        """Stretches of rows, each of which begins with a key frame or has none, and has ends of targets only last."""
        frame = np.flatnonzero(self.key & np.append(True, np.diff(self.sample) != 0))
        # The last end of each sample: those before it are of other targets.
        ends = self.ends[np.append(np.diff(self.sample[self.ends]) != 0, True)] + 1 if len(self.ends) else self.ends
        cuts = np.unique(np.concatenate([frame, ends, [0, len(self.event)]])).tolist()
        return [slice(first, last) for first, last in pairwise(cuts)]

    def ends_in(self, piece: slice) -> list[int]:
        """Rows of the targets that ended there."""
        first, last = np.searchsorted(self.ends, [piece.start, piece.stop])
        rows: list[int] = self.ends[first:last].tolist()
        return rows

    def begins_frame(self, at: int) -> bool:
        """Whether a key frame begins with this row."""
        return bool(self.key[at]) and (at == 0 or self.sample[at] != self.sample[at - 1])

    def frame(self, at: int) -> slice:
        """All rows of the sample that begins there."""
        return slice(at, int(np.searchsorted(self.sample, self.sample[at], "right")))

    def moment(self, at: int) -> Moment:
        """When it was."""
        return Moment(int(self.ordinal[at]), int(self.sample[at]), int(self.column[at]), float(self.part[at]))


class _Gatherer:
    """Takes rows in order, and keeps what adds up."""

    def __init__(self, recording: Recording, first: int, last: int) -> None:
        times = recording.times[first : last + 1].astype("datetime64[us]")
        nodes, count = recording.node_ids, len(times)
        self._info = replace(recording.info, node_ids=nodes)
        self._rows_before = 0
        self._process_of: dict[int, int] = {}
        self._flows: dict[tuple[int, int, str], list[int]] = {}
        self._areas: dict[int, Area] = {}
        self._policies: dict[tuple[int, int, str, str], Policy] = {}
        self._huge: dict[int, tuple[int, int, int, int]] = {}
        self._settling, self._unexplained = np.zeros((2, count), np.int64)
        self._history = History(
            recording.info,
            nodes,
            times,
            _columns(recording, first, last),
            np.zeros((count, len(nodes)), np.int64),
            Doubts(np.zeros(count, np.int64)),
            Steps(len(nodes)),
            Steps(len(nodes)) if recording.info.regions else None,
        )

    def begin(self, recording: Recording, first: int) -> None:
        """The state at the first sample, without what happened before it."""
        from tracer.record.rows import RowMaker

        batch = RowMaker(self._info).batch(recording.at(first))
        table = type(batch.schema.empty_table()).from_batches([batch])
        self._take(self._chunk(Rows(table)), happened=False)

    def read(self, recording: Recording, first: int, last: int) -> int:
        """Take the rows of these samples. Returns how many there were."""
        wanted = [*_WANTED, *map(node_column, self._history.node_ids)]
        chunk = self._chunk(Rows(recording.rows(*_EVENTS, columns=wanted, first=first, last=last)))
        if len(chunk.rows):
            self._take(chunk, happened=True)
        return len(chunk.rows)

    def _chunk(self, rows: Rows) -> _Chunk:
        history, times = self._history, rows.times()
        sample = np.clip(np.searchsorted(history.times, times, "right") - 1, 0, None)
        column, part = history.columns.place(times.astype(np.int64))
        words, inverse = np.unique(rows.words("event").astype(str), return_inverse=True)
        event = np.array([_EVENTS.index(word) for word in words], np.int64)[inverse.reshape(-1)]
        ordinal = np.arange(self._rows_before, self._rows_before + len(rows), dtype=np.int64)
        self._rows_before += len(rows)
        page_kb = rows.numbers("page_kb")
        pages = np.stack([rows.numbers(node_column(node)) for node in history.node_ids], axis=1)
        start, end = rows.numbers("start"), rows.numbers("end")
        process = self._processes(rows.numbers("pid"), event != _EVENTS.index("machine"))
        key = rows.flags("key")
        ends = np.flatnonzero(event == _EVENTS.index("ended"))
        return _Chunk(rows, event, key, process, sample, column, part, ordinal, start, end, page_kb, pages, ends)

    def _processes(self, pids: Int64s, theirs: npt.NDArray[np.bool_]) -> Int64s:
        """The index of each; 0 also where a row is not of a process."""
        processes = np.zeros(len(pids), np.int64)
        unique, inverse = np.unique(pids[theirs], return_inverse=True)
        known = []
        for pid in unique.tolist():
            if pid not in self._process_of:
                self._process_of[pid] = len(self._history.targets)
                self._history.targets.append(Target(pid))
            known.append(self._process_of[pid])
        processes[theirs] = np.array(known, np.int64)[inverse.reshape(-1)]
        return processes

    # --- counts ---

    def _take(self, chunk: _Chunk, happened: bool) -> None:
        history = self._history
        vma = np.flatnonzero(chunk.are("vma", "unmapped"))
        keys = np.full(len(chunk.rows), -1, np.int64)
        keys[vma] = history.steps.keys(chunk.process[vma], chunk.start[vma], chunk.ordinal[vma])
        self._describe(chunk, keys)
        history.first_rows += int((chunk.sample == 0).sum())
        rows = self._step_rows(chunk, keys, chunk.end, chunk.page_kb)
        spans = self._spans(chunk)
        for piece in chunk.pieces():
            self._take_piece(chunk, piece, rows, history.steps, history.sums)
            if spans is not None and history.spans is not None:
                self._take_piece(chunk, piece, spans, history.spans, None)
            self._note_ends(chunk, piece)
        self._targets(chunk)
        self._doubts(chunk)
        if happened:
            self._add_flows(chunk, keys)
            self._add_faults(chunk, keys)

    @staticmethod
    def _step_rows(chunk: _Chunk, keys: Int64s, end: Int64s, page_kb: Int64s) -> StepRows:
        gone = np.where(chunk.are("unmapped"), UNMAPPED, 0)
        kib = chunk.pages * np.where(page_kb > 0, page_kb, _PAGE_KB)[:, None]
        return StepRows(keys, chunk.ordinal, chunk.sample, end, chunk.column, chunk.part, kib, gone)

    def _spans(self, chunk: _Chunk) -> StepRows | None:
        """Rows of regions. Where they end nobody has to know yet."""
        if self._history.spans is None:
            return None
        mask = chunk.are("region")
        at = np.flatnonzero(mask)
        keys = np.full(len(chunk.rows), -1, np.int64)
        keys[at] = self._history.spans.keys(chunk.process[at], chunk.start[at], chunk.ordinal[at])
        page_kb = np.full(len(chunk.rows), _PAGE_KB, np.int64)
        for process, start, end, kib in self._huge.values():
            page_kb[mask & (chunk.process == process) & (chunk.start >= start) & (chunk.start < end)] = kib
        return self._step_rows(chunk, keys, np.zeros(len(chunk.rows), np.int64), page_kb)

    def _take_piece(self, chunk: _Chunk, piece: slice, all_rows: StepRows, steps: Steps, sums: Int64s | None) -> None:
        if chunk.begins_frame(piece.start):
            # What a key frame leaves out is no more: it went since the sample before.
            frame = chunk.frame(piece.start)
            missing = np.setdiff1d(steps.present(), all_rows.key[frame])
            lives = np.isin(
                steps.process[missing], chunk.process[frame][chunk.event[frame] != _EVENTS.index("machine")]
            )
            steps.close(missing[lives], chunk.moment(piece.start), UNMAPPED, sums)
            steps.close(missing[~lives], chunk.moment(piece.start), ENDED, sums)
            for process in np.unique(steps.process[missing[~lives]]).tolist():
                self._history.targets[process].ended_at = int(chunk.ordinal[piece.start])
        rows = all_rows.ordered(np.arange(piece.start, piece.stop))
        steps.take(rows.ordered(np.flatnonzero(rows.key >= 0)), sums)
        for at in chunk.ends_in(piece):
            steps.close(steps.present(int(chunk.process[at])), chunk.moment(at), ENDED, sums)

    def _note_ends(self, chunk: _Chunk, piece: slice) -> None:
        """Ends come last in a piece, so what lives there is older."""
        targets, events = self._history.targets, chunk.event[piece]
        for process in np.unique(chunk.process[piece][events == _EVENTS.index("target")]).tolist():
            targets[process].ended_at = -1
        for at in chunk.ends_in(piece):
            targets[int(chunk.process[at])].ended_at = int(chunk.ordinal[at])

    # --- what they are ---

    def _describe(self, chunk: _Chunk, keys: Int64s) -> None:
        """What the VMAs are that have rows, as the last row of each says."""
        rows = np.flatnonzero(chunk.are("vma"))
        unique, last = np.unique(keys[rows][::-1], return_index=True)
        at = rows[::-1][last]
        texts = [chunk.rows.words(name)[at] for name in ("name", "kind", "perms", "policy", "policy_nodes", "spelling")]
        numbers = [chunk.rows.numbers(name)[at].tolist() for name in ("policy_mode", "policy_flags", "page_kb")]
        for key, name, kind, perms, policy, nodes, spelling, mode, flags, page_kb in zip(
            unique.tolist(), *texts, *numbers, strict=True
        ):
            what = self._policy(mode, flags, nodes, policy, spelling or self._info.spelling)
            self._areas[key] = Area(name, kind, perms, what, policy, page_kb or _PAGE_KB)
        huge = chunk.rows.flags("huge")[at] & (chunk.page_kb[at] > _PAGE_KB)
        for key, row in zip(unique[huge].tolist(), at[huge].tolist(), strict=True):
            where = int(chunk.process[row]), int(chunk.start[row]), int(chunk.end[row])
            self._huge[key] = (*where, int(chunk.page_kb[row]))

    def _policy(self, mode: int, flags: int, nodes: str, text: str, spelling: str) -> Policy:
        what = (mode, flags, nodes, text)
        if what not in self._policies:
            try:
                self._policies[what] = policy_from(mode, flags, nodes, text, Spelling(spelling))
            except ValueError:
                self._policies[what] = Policy.parse(text)
        return self._policies[what]

    def _targets(self, chunk: _Chunk) -> None:
        rows = np.flatnonzero(chunk.are("target", "ended"))
        unique, last = np.unique(chunk.process[rows][::-1], return_index=True)
        at = rows[::-1][last]
        texts = [chunk.rows.words(name)[at] for name in ("comm", "hooks", "reader")]
        numbers = [chunk.rows.numbers(name)[at].tolist() for name in ("ns_pid", "drift")]
        for process, comm, hooks, reader, ns_pid, drift in zip(unique.tolist(), *texts, *numbers, strict=True):
            target = self._history.targets[process]
            target.comm, target.hooks, target.reader, target.ns_pid, target.drift = comm, hooks, reader, ns_pid, drift

    def _doubts(self, chunk: _Chunk) -> None:
        doubts, rows = self._history.doubts, chunk.rows
        np.add.at(doubts.refresh_ns, chunk.sample, rows.numbers("cpu_ns"))
        np.add.at(self._settling, chunk.sample, rows.numbers("settling"))
        np.add.at(self._unexplained, chunk.sample, rows.numbers("unexplained"))
        # Of all targets together, and since the session began: not a sum.
        doubts.lost = max(doubts.lost, int(rows.numbers("lost").max(initial=0)))
        doubts.untraced = max(doubts.untraced, int(rows.numbers("untraced").max(initial=0)))
        doubts.oldest_read_s = max(doubts.oldest_read_s, float(rows.seconds("oldest_read_s").max(initial=0.0)))

    # --- what happened ---

    def _add_flows(self, chunk: _Chunk, keys: Int64s) -> None:
        row, flow = chunk.rows.lists("flows")
        if not len(row):
            return
        words, reason = np.unique(flow["reason"].astype(str), return_inverse=True)
        reason = reason.reshape(-1)
        kib = flow["pages"] * np.where(chunk.page_kb[row] > 0, chunk.page_kb[row], _PAGE_KB)
        counts = (flow["pages"], flow["failed"], kib)
        machine = chunk.are("machine")[row]
        for (number,), sums in _grouped([reason[machine]], [count[machine] for count in counts[:2]]):
            before = self._history.machine.get(words[number], (0, 0))
            self._history.machine[str(words[number])] = (before[0] + sums[0], before[1] + sums[1])
        own = ~machine
        by = [flow["source"][own], flow["destination"][own], reason[own]]
        for (source, destination, number), sums in _grouped(by, [count[own] for count in counts]):
            kept = self._flows.setdefault((source, destination, str(words[number])), [0, 0, 0])
            kept[:] = [old + new for old, new in zip(kept, sums, strict=True)]
        own &= (keys[row] >= 0) & (flow["source"] != flow["destination"])
        by = [keys[row][own], flow["source"][own], flow["destination"][own]]
        for where, (more,) in _grouped(by, [kib[own]]):
            key, source, destination = where
            moved = self._history.moved
            moved[key, source, destination] = moved.get((key, source, destination), 0) + more

    def _add_faults(self, chunk: _Chunk, keys: Int64s) -> None:
        row, fault = chunk.rows.lists("faults")
        if not len(row):
            return
        words, which = np.unique(fault["kind"].astype(str), return_inverse=True)
        kinds = [Kind[word.upper()] for word in words]
        kind = np.array([int(kind) for kind in kinds], np.int64)[which.reshape(-1)]
        history, count = self._history, fault["count"]
        for (number,), (more,) in _grouped([kind], [count]):
            history.faults[Kind(number)] = history.faults.get(Kind(number), 0) + more
        page_kb = np.where(chunk.page_kb[row] > 0, chunk.page_kb[row], _PAGE_KB)
        hugetlb = chunk.rows.flags("huge")[row]
        kib = count * page_kb * np.where((kind == Kind.HUGE) & ~hugetlb, HUGE_PAGES, 1)
        placing = np.isin(kind, [int(kind) for kind in PLACING]) & (fault["page_node"] >= 0)
        by = [fault["cpu_node"][placing], fault["page_node"][placing]]
        for (cpu_node, page_node), (more,) in _grouped(by, [kib[placing]]):
            history.touch[cpu_node, page_node] = history.touch.get((cpu_node, page_node), 0) + more
        known = keys[row] >= 0
        for (key,), (more,) in _grouped([keys[row][known]], [count[known]]):
            history.touched[key] = history.touched.get(key, 0) + more

    def finished(self) -> History:
        """All that was taken."""
        history, doubts = self._history, self._history.doubts
        history.areas = [self._areas.get(key, _NOTHING_KNOWN) for key in range(len(history.steps))]
        history.flows = [FlowSum(*where, *sums) for where, sums in self._flows.items()]
        doubts.drift = sum(target.drift for target in history.targets)
        doubts.settling, doubts.settling_samples = int(self._settling.max()), int((self._settling > 0).sum())
        doubts.unexplained = int(self._unexplained.max())
        doubts.unexplained_samples = int((self._unexplained > 0).sum())
        np.cumsum(history.sums, axis=0, out=history.sums)
        return history


def _grouped(by: Sequence[Int64s], values: Sequence[Int64s]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Sums of the values where all of `by` are the same."""
    if not len(by[0]):
        return
    order = np.lexsort(by)
    keys = [column[order] for column in by]
    new = np.ones(len(order), np.bool_)
    new[1:] = np.any([column[1:] != column[:-1] for column in keys], axis=0)
    begin = np.flatnonzero(new)
    sums = [np.add.reduceat(column[order], begin).tolist() for column in values]
    yield from zip(zip(*(column[begin].tolist() for column in keys), strict=True), zip(*sums, strict=True), strict=True)
