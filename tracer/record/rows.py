"""From samples to the rows of a recording: only what changed, and everything again in each key frame.

The order of rows and their meaning are in docs/recording.md. What was written of a target is remembered by the very
objects that its snapshot had: snapshots share them as long as nothing changes, so an unchanged target costs little
more than its one row.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.model.policies import Policies, Pressure
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.record.batch import ENDED, TARGET, Rows
from tracer.record.changes import Written, changes, detail_rows, region_changes
from tracer.record.grouped import Grouped
from tracer.record.policy_rows import head_values, pressure_is_news, pressure_values, thread_values
from tracer.record.schema import DETAILS, Info, arrow_schema, node_column
from tracer.record.words import text_and_raw

__all__ = ["RowMaker"]

Int64s = npt.NDArray[np.int64]

KEY_US = 60_000_000
"""Time between two key frames..."""
KEY_VMAS = 10_000
"""... for each so many VMAs, so that they stay a small part of a recording."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RowMaker:
    """Makes the rows of one recording, sample by sample."""

    def __init__(self, info: Info) -> None:
        self._schema = arrow_schema(info)
        self._node_ids = info.node_ids
        self._policies = info.policies
        self._written: dict[int, Written] = {}
        self._time = -1
        self._key_time: int | None = None
        self._untraced = 0
        self._counted = False

    def key_frame_next(self) -> None:
        """The next batch repeats everything, as at the start of a file."""
        self._key_time = None

    def batch(self, sample: Sample) -> Any:
        """The `pyarrow.RecordBatch` with the rows of this sample, at least one.

        Times ascend: where the clock was set back, a sample is written one microsecond after the one before.
        ValueError when the sample has other nodes than the recording.
        """
        if sample.node_ids != self._node_ids:
            raise ValueError(f"a sample of nodes {sample.node_ids} in a recording of nodes {self._node_ids}")
        self._time = max((sample.time - _EPOCH) // timedelta(microseconds=1), self._time + 1)
        key = self._key_due(sample)
        if key:
            self._written.clear()
            self._key_time = self._time
        rows = Rows(self._node_ids, self._policies)
        self._machine(rows, sample, key)
        for snapshot in sample.ended:
            self._target(rows, snapshot, ended=True)
            self._written.pop(snapshot.pid, None)
        for snapshot in sample.snapshots:
            self._target(rows, snapshot, ended=False)
        return rows.batch(self._schema, self._time, key)

    def _key_due(self, sample: Sample) -> bool:
        if self._key_time is None:
            return True
        vmas = sum(len(snapshot.vmas) for snapshot in sample.snapshots)
        return self._time - self._key_time >= KEY_US * max(1, vmas // KEY_VMAS)

    def _machine(self, rows: Rows, sample: Sample, key: bool) -> None:
        flows = _machine_flows(sample)
        counted = flows is not None
        says = flows or sample.untraced != self._untraced or counted != self._counted or not sample.snapshots
        if says or key:
            self._untraced, self._counted = sample.untraced, counted
            rows.head(TARGET, {"event": "machine", "untraced": sample.untraced, "flows": flows})

    def _target(self, rows: Rows, snapshot: Snapshot, ended: bool) -> None:
        rows.next_target(snapshot)
        known = self._written.get(snapshot.pid)
        details = detail_rows(snapshot)
        policies = snapshot.policies if self._policies else None
        flows = Grouped.flows(snapshot.flows, len(snapshot.vmas))
        faults = Grouped.faults(snapshot.faults, len(snapshot.vmas))
        starts, changed, gone = changes(known, snapshot, details, policies)
        rows.gone(*gone)
        rows.vmas(np.flatnonzero(changed | flows.happened | faults.happened), details, flows, faults, policies)
        counted = self._regions(rows, snapshot, known)
        head = _head(snapshot, self._node_ids, details)
        head.update(
            event="ended" if ended else "target", regions=counted, flows=flows.elsewhere, faults=faults.elsewhere
        )
        pressure = _policies_in(head, snapshot, policies, known)
        rows.head(ENDED if ended else TARGET, head)
        self._written[snapshot.pid] = Written(
            snapshot.vmas,
            starts,
            snapshot.pages,
            details,
            snapshot.spelling,
            snapshot.regions,
            policies,
            pressure,
        )

    def _regions(self, rows: Rows, snapshot: Snapshot, known: Written | None) -> int | None:
        """Write the spans that changed; gives the number of all."""
        regions = snapshot.regions
        if regions is None:
            return None
        before = known.regions if known is not None else None
        if regions is not before:
            rows.regions(*region_changes(before, regions))
        return int(np.any(regions.pages, axis=1).sum())


def _policies_in(
    head: dict[str, Any], snapshot: Snapshot, policies: Policies | None, known: Written | None
) -> Pressure | None:
    """Put into a target's own row what it says of policies; gives the pressure that the rows have said by then."""
    if policies is None:
        return None
    head.update(head_values(policies, snapshot))
    before = known.policies if known is not None and known.spelling is snapshot.spelling else None
    if before is None or before.threads != policies.threads:
        head["threads"] = thread_values(policies.threads, snapshot.spelling)
    said = known.pressure if known is not None else None
    if not pressure_is_news(policies.pressure, said):
        return said
    head["pressure"] = pressure_values(policies.pressure, snapshot.node_ids)
    return policies.pressure


def _machine_flows(sample: Sample) -> list[dict[str, Any]] | None:
    """None where the machine's migrations are not counted; an empty list where there were none."""
    if sample.migrated is None or sample.failed is None:
        return None
    counts = zip(sample.reasons, sample.migrated.tolist(), sample.failed.tolist(), strict=True)
    return [
        {"source": -1, "destination": -1, "reason": reason, "pages": pages, "failed": failed}
        for reason, pages, failed in counts
        if pages or failed
    ]


def _head(snapshot: Snapshot, node_ids: tuple[int, ...], details: Int64s | None) -> dict[str, Any]:
    """What a target's own row says; flows, faults and regions are added by the caller."""
    comm, raw = text_and_raw(snapshot.comm)
    totals = snapshot.pages.sum(axis=0).tolist()
    trust, refresh = snapshot.trust, snapshot.refresh
    head = {
        "pid": snapshot.pid,
        "ns_pid": snapshot.namespace_pid,
        "comm": comm,
        "comm_raw": raw,
        "hooks": snapshot.hooks,
        "reader": snapshot.reader,
        "spelling": snapshot.spelling.value,
        "pages": sum(totals),
        "settling": trust.settling,
        "unexplained": trust.unexplained,
        "lost": trust.lost,
        "drift": trust.drift,
        "oldest_read_s": trust.oldest_read_s,
        "regions_read": refresh.regions_read,
        "cpu_ns": refresh.cpu_ns,
    }
    head.update((node_column(node), total) for node, total in zip(node_ids, totals, strict=True))
    if details is not None:
        sums = details.sum(axis=0)
        highest = DETAILS.index("mapmax")
        sums[highest] = details[:, highest].max(initial=0)
        head.update(zip(DETAILS, sums.tolist(), strict=True))
    return head
