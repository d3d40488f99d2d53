"""Snapshots made up for tests: a fixed clock, VMAs by hand, and strategies for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tracer.model.events import Faults, Flows
from tracer.model.policy import DEFAULT, MODE_FLAGS, Mode, Policy, Spelling
from tracer.model.sample import Sample
from tracer.model.snapshot import Details, Refresh, Regions, Snapshot, Trust
from tracer.model.vma import Kind, Vma

EXACT = Trust()
TIME = datetime(2025, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def vma(
    start: int = 0x7F0000000000,
    pages: int = 16,
    policy: Policy = DEFAULT,
    kind: Kind = Kind.ANON,
    path: bytes = b"",
    hugetlb: bool = False,
    page_kb: int = 4,
) -> Vma:
    """A VMA of `pages` pages of 4 KiB."""
    return Vma(
        start,
        start + pages * 4096,
        "rw-p",
        0,
        "00:00",
        1 if path[:1] == b"/" else 0,
        path,
        kind,
        policy,
        hugetlb,
        page_kb,
    )


def details(rows: Sequence[Sequence[int]]) -> Details:
    """One row per VMA: anon, dirty, mapmax, swapcache, active, writeback."""
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), 6).T
    return Details(*columns)


def snapshot(
    vmas: Sequence[Vma] = (),
    pages: Sequence[Sequence[int]] = (),
    node_ids: Sequence[int] = (0, 1),
    details: Details | None = None,
    trust: Trust = EXACT,
    comm: bytes = b"target",
    spelling: Spelling = Spelling.NAMED,
    pid: int = 42,
    namespace_pid: int = 0,
    flows: Flows | None = None,
    faults: Faults | None = None,
    regions: Regions | None = None,
    time: datetime = TIME,
) -> Snapshot:
    """pages: one row per VMA, one column per node."""
    counts = np.array(pages, dtype=np.int64).reshape(len(vmas), len(node_ids))
    return Snapshot(
        time=time,
        pid=pid,
        comm=comm,
        hooks="tracepoint",
        reader="walk",
        trust=trust,
        refresh=Refresh(regions_read=3, cpu_ns=1_234_567),
        vmas=tuple(vmas),
        node_ids=tuple(node_ids),
        pages=counts,
        details=details,
        spelling=spelling,
        namespace_pid=namespace_pid,
        flows=flows,
        faults=faults,
        regions=regions,
    )


def sample(*shots: Snapshot, **fields: Any) -> Sample:
    """Of these targets; other fields as in `Sample`. The nodes are those of the first one, or 0 and 1."""
    node_ids = shots[0].node_ids if shots else (0, 1)
    return Sample(**{"time": TIME, "node_ids": node_ids, "snapshots": shots, **fields})


REASONS = ("compaction", "syscall", "numa_misplaced")


def flows(rows: Sequence[Sequence[int]] = ()) -> Flows:
    """One row each: row of the VMA, source, destination, index into REASONS, pages, failed."""
    return Flows(REASONS, *np.array(rows, dtype=np.int64).reshape(len(rows), 6).T)


def faults(rows: Sequence[Sequence[int]] = ()) -> Faults:
    """One row each: row of the VMA, node of the CPU, node of the page, kind, thread, count."""
    return Faults(*np.array(rows, dtype=np.int64).reshape(len(rows), 6).T)


def regions(rows: Sequence[Sequence[int]] = (), nodes: int = 2) -> Regions:
    """One row each: address, and the pages on each node."""
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), nodes + 1)
    return Regions(columns[:, 0], columns[:, 1:])


def undocumented(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> set[str]:
    """Keys of an object, and of objects in it, that the JSON schema (part of `root`) has no word about."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    found: set[str] = set()
    if isinstance(value, list):
        for item in value:
            found |= undocumented(item, schema["items"], root)
    elif isinstance(value, dict) and "properties" in schema:
        found |= value.keys() - schema["properties"].keys()
        for key in value.keys() & schema["properties"].keys():
            found |= undocumented(value[key], schema["properties"][key], root)
    return found


node_sets = st.sets(st.integers(0, 1023), max_size=40).map(lambda ids: tuple(sorted(ids)))
policies = st.builds(
    Policy,
    mode=st.sampled_from(Mode),
    flags=st.integers(0, 7).map(lambda bits: bits << 13 & MODE_FLAGS),
    nodes=node_sets,
)
# The name as maps shows it, in which the kernel has already replaced newlines.
paths = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", rb"\012").replace(b"\0", b"0"))


@st.composite
def snapshots(draw: st.DrawFn, with_details: bool | None = None) -> Snapshot:
    """Any snapshot that the types allow, of up to six VMAs and four nodes."""
    node_ids = sorted(draw(st.sets(st.integers(0, 1023), min_size=1, max_size=4)))
    count = draw(st.integers(0, 6))
    number = st.integers(0, 2**40)
    vmas = [
        Vma(
            start=4096 * (index * 1000 + 1),
            end=4096 * (index * 1000 + draw(st.integers(2, 900))),
            perms="rw-p",
            offset=0,
            device="00:00",
            inode=0,
            path=draw(paths),
            kind=draw(st.sampled_from(Kind)),
            policy=draw(policies),
            hugetlb=draw(st.booleans()),
            page_kb=draw(st.sampled_from((4, 64, 2048, 1048576))),
        )
        for index in range(count)
    ]
    pages = [[draw(st.one_of(st.just(0), number)) for _ in node_ids] for _ in vmas]
    wanted = draw(st.booleans()) if with_details is None else with_details
    return snapshot(
        vmas,
        pages,
        node_ids,
        details=details([[draw(number) for _ in range(6)] for _ in vmas]) if wanted else None,
        trust=Trust(draw(number), draw(number), draw(number), draw(number), draw(st.floats(0, 1e9))),
        comm=draw(st.binary(max_size=15)),
        spelling=draw(st.sampled_from(Spelling)),
    )
