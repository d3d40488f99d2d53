"""Small recordings for tests: samples in, a parquet file out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.snapshots import REASONS
from tracer.model.events import Faults, Flows
from tracer.model.policies import Misplaced, Policies, Pressure, TaskPolicy
from tracer.model.policy import DEFAULT
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind
from tracer.record.rows import RowMaker
from tracer.record.schema import Info, arrow_schema

__all__ = ["differences", "info_of", "misplaced", "pressure", "spaced", "with_policies", "write_recording"]


def info_of(samples: Sequence[Sample], complete: bool = True) -> Info:
    """What a recorder would say of these samples: everything that any of them carries was asked for."""
    shots = [shot for sample in samples for shot in (*sample.ended, *sample.snapshots)]
    reasons = [sample.reasons for sample in samples] + [shot.flows.reasons for shot in shots if shot.flows is not None]
    reasons += [shot.policies.misplaced.reasons for shot in shots if shot.policies is not None]
    return Info(
        host="testhost",
        kernel="6.12.0-test",
        node_ids=samples[0].node_ids if samples else (0, 1),
        reasons=next((found for found in reasons if found), ()),
        command_line=("numatrace", "record"),
        targets=("42 target",),
        spelling=shots[-1].spelling.value if shots else "named",
        details=any(shot.details is not None for shot in shots),
        flows=any(shot.flows is not None for shot in shots) or any(it.migrated is not None for it in samples),
        faults=any(shot.faults is not None for shot in shots),
        regions=any(shot.regions is not None for shot in shots),
        policies=any(shot.policies is not None for shot in shots),
        started=samples[0].time.isoformat() if samples else "",
        complete=complete,
        ended_by="target exited" if complete else "",
    )


def misplaced(rows: Sequence[Sequence[int]] = (), reasons: tuple[str, ...] = REASONS) -> Misplaced:
    """One row each: row of the VMA, node, expected, cause, index into `reasons` or -1, pages; put in their order."""
    return Misplaced(reasons, *np.array(sorted(map(tuple, rows)), dtype=np.int64).reshape(len(rows), 6).T)


def pressure(rows: Sequence[Sequence[int]]) -> Pressure:
    """One row for each node: foreign, free, low, high."""
    return Pressure(*np.array(rows, dtype=np.int64).reshape(len(rows), 4).T)


def with_policies(shot: Snapshot, elsewhere: Sequence[Sequence[int]] = (), **fields: Any) -> Snapshot:
    """The same with policies. elsewhere: the rows of `misplaced`; fields: as in `Policies`, where they are not these:

    a VMA has the policy that it shows as its own, unless that is the default one; it governs where it is no file;
    every page that is not elsewhere lies where the rule has it; each page was one decision; there is one thread, with
    the default policy; all nodes are allowed, equal and far from full.
    """
    wrong = misplaced(elsewhere)
    own = np.array([vma.policy != DEFAULT for vma in shot.vmas], np.bool_)
    nodes = len(shot.node_ids)
    given: dict[str, Any] = {
        "own": own,
        "governed": np.array([vma.kind is not Kind.FILE for vma in shot.vmas], np.bool_),
        "allowed": shot.node_ids,
        "weights": (1,) * nodes,
        "threads": (TaskPolicy(shot.pid, shot.comm, DEFAULT),),
        "changes": (),
        "rule": np.where(own[:, None], _rule(shot, wrong), 0),
        "units": shot.pages.sum(axis=1).astype(np.float64),
        "huge": np.zeros(len(shot.vmas), np.int64),
        "misplaced": wrong,
        "pressure": pressure([(0, 100_000, 1_000, 2_000)] * nodes),
    }
    return replace(shot, policies=Policies(**given | fields))


def _rule(shot: Snapshot, wrong: Misplaced) -> npt.NDArray[np.int64]:
    """The pages, with those that are elsewhere where they should be; where that is several nodes, on the first."""
    rule = shot.pages.copy()
    np.subtract.at(rule, (wrong.vma, np.searchsorted(shot.node_ids, wrong.node)), wrong.pages)
    np.add.at(rule, (wrong.vma, np.searchsorted(shot.node_ids, wrong.expected)), wrong.pages)
    return rule


def spaced(samples: Iterable[Sample], seconds: float = 1.0) -> list[Sample]:
    """The same samples at times that are that far apart, snapshots included, from that of the first one on."""
    placed: list[Sample] = []
    for index, sample in enumerate(samples):
        time = (placed[0] if placed else sample).time + timedelta(seconds=index * seconds)
        live, ended = (tuple(replace(it, time=time) for it in shots) for shots in (sample.snapshots, sample.ended))
        placed.append(replace(sample, time=time, snapshots=live, ended=ended))
    return placed


def write_recording(
    path: str | os.PathLike[str], samples: Sequence[Sample], info: Info | None = None, row_group: int = 65_536
) -> Info:
    """Write them as they are: see `spaced` for times. info: by default `info_of` them. Gives what was written."""
    info = info or info_of(samples)
    maker = RowMaker(info)
    table = pa.Table.from_batches([maker.batch(sample) for sample in samples], arrow_schema(info))
    pq.write_table(table, os.fspath(path), compression="zstd", row_group_size=row_group)
    return info


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two values of the model differ, field by field; arrays by dtype, shape and value.

    Flows and faults are equal when they have the same rows, VMA by VMA: within a VMA the order counts.
    """
    if isinstance(one, Flows | Faults) and type(one) is type(other):
        one, other = _by_vma(one), _by_vma(other)
    if is_dataclass(one) and type(one) is type(other):
        return [
            it
            for field in fields(one)
            for it in differences(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
        ]
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        same = one.dtype == other.dtype and np.array_equal(one, other)
        return [] if same else [f"{where}: {one!r} and {other!r}"]
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return [
            it
            for index, pair in enumerate(zip(one, other, strict=True))
            for it in differences(*pair, f"{where}[{index}]")
        ]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]


def _by_vma(rows: Any) -> Any:
    order = np.argsort(rows.vma, kind="stable")
    arrays = {it.name: getattr(rows, it.name)[order] for it in fields(rows) if it.name != "reasons"}
    return replace(rows, **arrays)
