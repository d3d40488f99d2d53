"""DataFrames out of columns and out of samples; what each column means stands in docs/api.md.

The dtypes do not depend on what is in a frame, so an empty one has them too: whole numbers are int64 (addresses as
well: those of user space fit), times are `datetime64[us, UTC]` (ns in pandas 1, which has no other), and text has the
dtype that the pandas at hand gives to text (`str` since pandas 3, `object` before).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot

__all__ = [
    "DETAILS",
    "FAULTS",
    "FLOWS",
    "NOWHERE",
    "TRUST",
    "Columns",
    "Schema",
    "address",
    "frame",
    "index_of_times",
    "microseconds",
    "node_columns",
    "placement",
    "text",
    "vmas",
]

NOWHERE = -1
"""Start and end of the VMA where none is known."""

DETAILS = ("anon", "dirty", "mapmax", "swapcache", "active", "writeback")

_INT, _FLOAT, _BOOL, _TEXT, _TIME = "int64", "float64", "bool", "text", "time"

Schema = Mapping[str, str]
"""Name of a column -> what is in it, in the order of the columns."""
Columns = Mapping[str, Any]
"""Name of a column -> its values: an array or a list; times as datetime64[us] in UTC."""

_WHERE = {"time": _TIME, "pid": _INT, "start": _INT, "end": _INT, "name": _TEXT}

_VMA = {
    "time": _TIME,
    "pid": _INT,
    "start": _INT,
    "end": _INT,
    "size_bytes": _INT,
    "perms": _TEXT,
    "kind": _TEXT,
    "name": _TEXT,
    "policy": _TEXT,
    "huge": _BOOL,
    "page_kb": _INT,
    "pages": _INT,
}
_PLACEMENT = {
    "time": _TIME,
    "pid": _INT,
    "start": _INT,
    "name": _TEXT,
    "policy": _TEXT,
    "node": _INT,
    "pages": _INT,
    "bytes": _INT,
}
FLOWS: Schema = _WHERE | {
    "source": _INT,
    "destination": _INT,
    "reason": _TEXT,
    "pages": _INT,
    "failed": _INT,
    "bytes": _INT,
}
FAULTS: Schema = _WHERE | {"cpu_node": _INT, "page_node": _INT, "kind": _TEXT, "thread": _INT, "count": _INT}
TRUST: Schema = {
    "time": _TIME,
    "pid": _INT,
    "comm": _TEXT,
    "hooks": _TEXT,
    "reader": _TEXT,
    "settling": _INT,
    "unexplained": _INT,
    "lost": _INT,
    "drift": _INT,
    "oldest_read_s": _FLOAT,
    "regions_read": _INT,
    "cpu_ns": _INT,
    "untraced": _INT,
}

_TEXT_DTYPE: Any = pd.Series(["text"]).dtype


def address(number: int) -> int:
    """As int64 has it: the kernel's half of the addresses, where only the vsyscall page is, becomes negative."""
    return number if number < 1 << 63 else number - (1 << 64)


def text(raw: bytes) -> str:
    """Names as JSON has them: UTF-8, with a byte that is not part of any UTF-8 character as `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def microseconds(time: datetime) -> np.datetime64:
    """The same moment as numpy has it. time: aware."""
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")


def index_of_times(times: npt.NDArray[np.datetime64]) -> pd.DatetimeIndex:
    """times: datetime64[us] in UTC."""
    return pd.DatetimeIndex(times, name="time").tz_localize("UTC")


def node_columns(node_ids: Iterable[int]) -> dict[str, str]:
    """`N0` and so on, for a schema."""
    return {f"N{node}": _INT for node in node_ids}


def frame(schema: Schema, columns: Columns) -> pd.DataFrame:
    """The columns of the schema, in its order and with its dtypes. KeyError where one has no values."""
    return pd.DataFrame({name: _series(kind, columns[name]) for name, kind in schema.items()})


def _series(kind: str, values: Any) -> Any:
    if kind == _TIME:
        return index_of_times(np.asarray(values, "datetime64[us]"))
    return pd.Series(values, dtype=_TEXT_DTYPE if kind == _TEXT else kind)


# --- samples ---


def vmas(sample: Sample, node_ids: Sequence[int], details: bool = False) -> pd.DataFrame:
    """A row per VMA of every live target. details: with the columns of `DETAILS`."""
    shots = sample.snapshots
    counts = _counts(sample, node_ids)
    every = [vma for shot in shots for vma in shot.vmas]
    columns: dict[str, Any] = {
        "time": np.full(len(every), microseconds(sample.time)),
        "pid": _pids(shots),
        "start": [address(vma.start) for vma in every],
        "end": [address(vma.end) for vma in every],
        "size_bytes": [vma.end - vma.start for vma in every],
        "perms": [vma.perms for vma in every],
        "kind": [vma.kind.name.lower() for vma in every],
        "name": [text(vma.path) for vma in every],
        "policy": _policies(shots),
        "huge": [vma.hugetlb for vma in every],
        "page_kb": [vma.page_kb for vma in every],
        "pages": counts.sum(axis=1),
    }
    schema = _VMA | node_columns(node_ids)
    columns |= {f"N{node}": counts[:, index] for index, node in enumerate(node_ids)}
    if details:
        schema |= dict.fromkeys(DETAILS, _INT)
        columns |= {name: _detail(shots, name) for name in DETAILS}
    return frame(schema, columns)


def placement(sample: Sample, node_ids: Sequence[int]) -> pd.DataFrame:
    """A row per VMA and node where the VMA has pages."""
    counts = _counts(sample, node_ids)
    rows, nodes = np.nonzero(counts)
    every = [vma for shot in sample.snapshots for vma in shot.vmas]
    pages = counts[rows, nodes]

    def of_rows(values: Any, dtype: Any = object) -> Any:
        return np.array(values, dtype)[rows]

    columns = {
        "time": np.full(len(rows), microseconds(sample.time)),
        "pid": _pids(sample.snapshots)[rows],
        "start": of_rows([address(vma.start) for vma in every], np.int64),
        "name": of_rows([text(vma.path) for vma in every]),
        "policy": of_rows(_policies(sample.snapshots)),
        "node": np.array(node_ids, np.int64)[nodes],
        "pages": pages,
        "bytes": pages * of_rows([vma.page_kb << 10 for vma in every], np.int64),
    }
    return frame(_PLACEMENT, columns)


def _counts(sample: Sample, node_ids: Sequence[int]) -> npt.NDArray[np.int64]:
    """Pages of the VMAs of all targets, one below the other; a column for each of these nodes."""
    column = {node: index for index, node in enumerate(node_ids)}
    total = sum(len(shot.vmas) for shot in sample.snapshots)
    counts = np.zeros((total, len(node_ids)), np.int64)
    at = 0
    for shot in sample.snapshots:
        counts[at : at + len(shot.vmas), [column[node] for node in shot.node_ids]] = shot.pages
        at += len(shot.vmas)
    return counts


def _pids(shots: Sequence[Snapshot]) -> npt.NDArray[np.int64]:
    return np.repeat(np.array([shot.pid for shot in shots], np.int64), [len(shot.vmas) for shot in shots])


def _policies(shots: Sequence[Snapshot]) -> list[str]:
    return [vma.policy.text(shot.spelling) for shot in shots for vma in shot.vmas]


def _detail(shots: Sequence[Snapshot], name: str) -> npt.NDArray[np.int64]:
    """One of the `DETAILS`; 0 for a target that has none."""
    parts = [
        np.zeros(len(shot.vmas), np.int64) if shot.details is None else getattr(shot.details, name) for shot in shots
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
