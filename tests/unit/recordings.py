"""Small recordings for tests: samples in, a parquet file out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.model.events import Faults, Flows
from tracer.model.sample import Sample
from tracer.record.rows import RowMaker
from tracer.record.schema import Info, arrow_schema

__all__ = ["differences", "info_of", "spaced", "write_recording"]


def info_of(samples: Sequence[Sample], complete: bool = True) -> Info:
    """What a recorder would say of these samples: everything that any of them carries was asked for."""
    shots = [shot for sample in samples for shot in (*sample.ended, *sample.snapshots)]
    reasons = [sample.reasons for sample in samples] + [shot.flows.reasons for shot in shots if shot.flows is not None]
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
        started=samples[0].time.isoformat() if samples else "",
        complete=complete,
        ended_by="target exited" if complete else "",
    )


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
