"""What is known of a live session beside its samples, in the words of a recording's metadata."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracer.kernel.topology import read_topology
from tracer.model.policy import Spelling, format_nodes
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.record.schema import Info

if TYPE_CHECKING:
    from tracer.session import Options

__all__ = ["describe"]


def describe(selection: Selection, options: Options, every_s: float, first: Sample) -> Info:
    """first: the first sample that the session gave. The command line is empty: there was none."""
    topology = read_topology()
    machine = os.uname()
    shots = first.snapshots
    return Info(
        host=machine.nodename,
        kernel=machine.release,
        node_ids=first.node_ids,
        distances=tuple(
            tuple(topology.distances.get(one, {}).get(other, 0) for other in first.node_ids) for one in first.node_ids
        ),
        cpus={node: format_nodes(topology.cpus.get(node, ())) for node in first.node_ids},
        reasons=first.reasons,
        targets=tuple(f"PID {pid}" for pid in selection.pids),
        every_s=every_s,
        spelling=(shots[0].spelling if shots else Spelling.NAMED).value,
        details=options.details,
        flows=options.flows,
        faults=options.faults or options.threads,
        threads=options.threads,
        regions=options.regions,
        policies=options.policies,
        started=first.time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    )
