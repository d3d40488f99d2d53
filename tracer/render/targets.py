"""Several targets in one text: a line before each that says whose lines follow, and one for all of them.

Every line begins with `#`, and everything that a process chose itself (its name) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.render.terminal import printable

__all__ = ["header", "totals", "untraced"]


def header(snapshot: Snapshot) -> str:
    """`# PID 1234 (7 in its namespace) postgres`; the bracket only where the two PIDs differ."""
    inner = snapshot.namespace_pid or snapshot.pid
    namespace = f" ({inner} in its namespace)" if inner != snapshot.pid else ""
    return f"# PID {snapshot.pid}{namespace} {printable(snapshot.comm)}"


def totals(sample: Sample) -> Iterator[str]:
    """`# total of 3 targets N0=10 N1=20 (a page that several map counts in each)`, and what is missing from it."""
    count = len(sample.snapshots)
    nodes = "".join(f" N{node}={pages}" for node, pages in zip(sample.node_ids, sample.totals.tolist(), strict=True))
    shared = " (a page that several map counts in each)" if count > 1 else ""
    yield f"# total of {count} {'target' if count == 1 else 'targets'}{nodes}{shared}"
    yield from untraced(sample.untraced)


def untraced(count: int) -> Iterator[str]:
    """A line where processes are missing, and none otherwise."""
    if count:
        processes = "process is" if count == 1 else "processes are"
        yield f"# untraced: {count} {processes} missing, for lack of room in the table of targets"
