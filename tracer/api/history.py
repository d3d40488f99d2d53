"""What the samples of a live session have told, in columns that only grow: totals, flows, faults, changes of policies
and trust."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tracer.api import frames, policy_frames
from tracer.model.events import Faults, Flows, Kind
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot

__all__ = ["History"]

_PAGE_KB = 4
_KINDS = {int(kind): kind.name.lower() for kind in Kind}


class Log:
    """Rows of a schema that begins with `time`, several or none per sample."""

    def __init__(self, schema: frames.Schema) -> None:
        self._schema = schema
        self._columns: dict[str, Any] = {name: _column(kind) for name, kind in schema.items() if name != "time"}
        self._ends = array("q", [0])

    def extend(self, columns: Mapping[str, Iterable[Any]]) -> None:
        """Rows of the sample that is under way: every column but `time`."""
        for name, values in columns.items():
            self._columns[name].extend(values)

    def end_sample(self) -> None:
        """All rows of a sample are there."""
        self._ends.append(len(self._columns["pid"]))

    def frame(self, times: npt.NDArray[np.datetime64], first: int, last: int) -> pd.DataFrame:
        """The rows of the samples from first to last, both included; none where last is before first."""
        last = max(last, first - 1)
        begin, end = self._ends[first], self._ends[last + 1]
        columns = {name: values[begin:end] for name, values in self._columns.items()}
        columns["time"] = np.repeat(times[first : last + 1], np.diff(self._ends[first : last + 2]))
        return frames.frame(self._schema, columns)


def _column(kind: str) -> Any:
    """Numbers in 8 bytes each: a storm of faults is long."""
    codes = {"int64": "q", "float64": "d"}
    return array(codes[kind]) if kind in codes else []


class History:
    """Grows by `add`, once per sample. node_ids: ids of the nodes with memory, of all samples, ascending."""

    def __init__(self) -> None:
        self.flows = Log(frames.FLOWS)
        self.faults = Log(frames.FAULTS)
        self.policy_changes = Log(policy_frames.POLICY_CHANGES)
        self.trust = Log(frames.TRUST)
        self._times = array("q")
        self._totals: list[tuple[tuple[int, ...], tuple[int, ...], npt.NDArray[np.int64]]] = []
        self.node_ids: tuple[int, ...] = ()

    def add(self, sample: Sample) -> None:
        """The ended targets first, as in a recording: a process that called exec goes on under the same PID."""
        for shot in (*sample.ended, *sample.snapshots):
            if shot.flows is not None and len(shot.flows.vma):
                self.flows.extend(_flow_columns(shot, shot.flows))
            if shot.faults is not None and len(shot.faults.vma):
                self.faults.extend(_fault_columns(shot, shot.faults))
            if shot.policies is not None and shot.policies.changes:
                self.policy_changes.extend(policy_frames.change_columns(shot, shot.policies.changes))
        for shot in sample.snapshots:
            self.trust.extend(_trust_columns(shot, sample.untraced))
        for log in (self.flows, self.faults, self.policy_changes, self.trust):
            log.end_sample()
        if sample.node_ids != self.node_ids:
            self.node_ids = tuple(sorted({*self.node_ids, *sample.node_ids}))
        pages = [shot.pages.sum(axis=0) for shot in sample.snapshots]
        self._totals.append(
            (
                sample.node_ids,
                tuple(shot.pid for shot in sample.snapshots),
                np.array(pages, np.int64).reshape(len(pages), len(sample.node_ids)),
            )
        )
        # Times ascend, as in a recording, also where the clock was set back.
        now = int(frames.microseconds(sample.time).astype(np.int64))
        self._times.append(max(now, self._times[-1] + 1) if self._times else now)

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """datetime64[us], UTC, one per sample."""
        return np.array(self._times, np.int64).astype("datetime64[us]")

    def totals(self) -> npt.NDArray[np.int64]:
        """Pages by node over all live targets: int64 of shape (samples, nodes)."""
        pages = np.zeros((len(self._totals), len(self.node_ids)), np.int64)
        for row, (node_ids, _, counts) in enumerate(self._totals):
            pages[row, np.searchsorted(self.node_ids, node_ids)] = counts.sum(axis=0)
        return pages

    def totals_by_pid(self) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Time, PID and pages by node of every live target of every sample; pages: int64 of shape (rows, nodes)."""
        rows = [len(pids) for _, pids, _ in self._totals]
        pids = np.array([pid for _, pids, _ in self._totals for pid in pids], np.int64)
        pages = np.zeros((len(pids), len(self.node_ids)), np.int64)
        at = 0
        for node_ids, _, counts in self._totals:
            pages[at : at + len(counts), np.searchsorted(self.node_ids, node_ids)] = counts
            at += len(counts)
        return np.repeat(self.times, rows), pids, pages


def _flow_columns(shot: Snapshot, flows: Flows) -> dict[str, Any]:
    pages = flows.pages.tolist()
    page_kb = [shot.vmas[row].page_kb if row >= 0 else _PAGE_KB for row in flows.vma.tolist()]
    return _where(shot, flows.vma) | {
        "source": flows.source.tolist(),
        "destination": flows.destination.tolist(),
        "reason": [flows.reasons[reason] for reason in flows.reason.tolist()],
        "pages": pages,
        "failed": flows.failed.tolist(),
        "bytes": [count * kb << 10 for count, kb in zip(pages, page_kb, strict=True)],
    }


def _fault_columns(shot: Snapshot, faults: Faults) -> dict[str, Any]:
    return _where(shot, faults.vma) | {
        "cpu_node": faults.cpu_node.tolist(),
        "page_node": faults.page_node.tolist(),
        "kind": [_KINDS[kind] for kind in faults.kind.tolist()],
        "thread": faults.thread.tolist(),
        "count": faults.count.tolist(),
    }


def _where(shot: Snapshot, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Process and VMA of each row."""
    nowhere = frames.NOWHERE
    return {
        "pid": [shot.pid] * len(rows),
        "start": [frames.address(shot.vmas[row].start) if row >= 0 else nowhere for row in rows.tolist()],
        "end": [frames.address(shot.vmas[row].end) if row >= 0 else nowhere for row in rows.tolist()],
        "name": [frames.text(shot.vmas[row].path) if row >= 0 else "" for row in rows.tolist()],
    }


def _trust_columns(shot: Snapshot, untraced: int) -> dict[str, Any]:
    trust, refresh = shot.trust, shot.refresh
    return {
        "pid": [shot.pid],
        "comm": [frames.text(shot.comm)],
        "hooks": [shot.hooks],
        "reader": [shot.reader],
        "settling": [trust.settling],
        "unexplained": [trust.unexplained],
        "lost": [trust.lost],
        "drift": [trust.drift],
        "oldest_read_s": [trust.oldest_read_s],
        "regions_read": [refresh.regions_read],
        "cpu_ns": [refresh.cpu_ns],
        "untraced": [untraced],
    }
