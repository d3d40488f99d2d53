"""What becomes of the samples that `policy` takes: the last placement of each target, and its changes of policies, are
kept until they are printed."""

from __future__ import annotations

from argparse import Namespace
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracer.cli import messages
from tracer.cli.output import Output
from tracer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tracer.model.policies import PolicyChange
    from tracer.model.policy import Policy
    from tracer.model.sample import Sample
    from tracer.model.snapshot import Snapshot
    from tracer.render.policy import Report
    from tracer.render.policy_vmas import WhatIf

__all__ = ["Asked", "PolicyView"]

_MOST_CHANGES = 10_000
"""Changes of policies that are kept for a target; of earlier ones there is only their number."""
_MOST_ENDED = 64
"""Targets that ended whose placement is kept: --follow-forks may have had thousands."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What --as says: its text, and what that means. weights: of weighted interleave, None for those in force."""

    text: str
    policy: Policy
    weights: Mapping[int, int] | None


@dataclass(slots=True)
class _Seen:
    """A target as it was seen last. changes: those that were not printed, left_out: how many more there were."""

    snapshot: Snapshot
    ended: bool
    changes: deque[PolicyChange] = field(default_factory=lambda: deque(maxlen=_MOST_CHANGES))
    left_out: int = 0


class PolicyView:
    """A `tracer.cli.watch.View`. arguments: those of the verb. open_ended: whether nobody at all is worth telling."""

    def __init__(self, arguments: Namespace, open_ended: bool, asked: Asked | None) -> None:
        self._arguments = arguments
        self._open_ended = open_ended
        self._asked = asked
        self._output = Output()
        self._seen: dict[int, _Seen] = {}
        self._ended_left_out = 0
        self._untraced = 0
        self._fresh = False
        self._printed = False

    def take(self, sample: Sample, seconds: float) -> bool:
        for snapshot in sample.ended:
            self._keep(snapshot, ended=True)
        for snapshot in sample.snapshots:
            self._keep(snapshot, ended=False)
        self._forget(sample)
        self._untraced = sample.untraced
        self._fresh = True
        return bool(sample.snapshots or sample.ended) or self._open_ended

    def remember(self, sample: Sample, pids: Collection[int], left_out: Mapping[int, int]) -> None:
        """The changes of policies that an earlier sample has, of these targets, which a later one has as well.

        left_out: by PID, how many were before these.
        """
        for snapshot in sample.snapshots:
            if snapshot.pid in pids:
                self._keep(snapshot, ended=False)
                self._seen[snapshot.pid].left_out += left_out.get(snapshot.pid, 0)

    def _keep(self, snapshot: Snapshot, ended: bool) -> None:
        if self._asked is not None and not ended and snapshot.pid not in self._seen:
            self._check(self._asked, snapshot)
        seen = self._seen.setdefault(snapshot.pid, _Seen(snapshot, ended))
        # Of one that was gone before it could be looked at there is only what was seen before.
        if snapshot.vmas or not seen.snapshot.vmas:
            seen.snapshot = snapshot
        seen.ended = ended
        for change in snapshot.policies.changes if snapshot.policies is not None else ():
            seen.left_out += len(seen.changes) == _MOST_CHANGES
            seen.changes.append(change)

    def _check(self, asked: Asked, snapshot: Snapshot) -> None:
        """Before anything is watched for long. UsageError for a policy that the target could not have."""
        from tracer.model.whatif import what_if

        try:
            what_if(snapshot, asked.policy, asked.weights, rows=())
        except ValueError as error:
            raise UsageError(f"--as {asked.text}: {error}", "numactl --hardware shows the nodes") from None

    def _forget(self, sample: Sample) -> None:
        """Those who left the control group, and of many that ended the smallest."""
        watched = {snapshot.pid for snapshot in sample.snapshots}
        for pid in [pid for pid, seen in self._seen.items() if not seen.ended and pid not in watched]:
            del self._seen[pid]
        ended = [pid for pid, seen in self._seen.items() if seen.ended]
        if len(ended) > _MOST_ENDED:
            ended.sort(key=lambda pid: int(self._seen[pid].snapshot.pages.sum()))
            for pid in ended[: len(ended) - _MOST_ENDED]:
                del self._seen[pid]
                self._ended_left_out += 1

    def show(self) -> None:
        """A report of each target that was seen since the last time."""
        reports = [self._report(seen) for _, seen in sorted(self._seen.items())]
        if self._arguments.format == "json":
            self._print_json(reports)
        else:
            self._print_text(reports)
        for pid, seen in list(self._seen.items()):
            if seen.ended:
                del self._seen[pid]
            seen.changes.clear()
            seen.left_out = 0
        self._ended_left_out = 0
        self._fresh = False

    def finish(self) -> None:
        """How it was at the end, unless that was just shown."""
        if self._fresh and self._seen:
            self.show()

    def _report(self, seen: _Seen) -> Report:
        from tracer.model.verdict import Limits, findings
        from tracer.render.policy import Report

        limits = Limits()
        if self._arguments.significance is not None:
            limits = Limits(self._arguments.significance, limits.tolerance)
        if self._arguments.tolerance is not None:
            limits = Limits(limits.significance, self._arguments.tolerance)
        found = findings(seen.snapshot, limits)
        asked = None if self._asked is None else _what_if(seen.snapshot, self._asked)
        return Report(seen.snapshot, found, tuple(seen.changes), seen.left_out, seen.ended, limits, asked)

    def _print_json(self, reports: list[Report]) -> None:
        from tracer.render import policy_json

        lines = [policy_json.line(report, self._untraced) for report in reports]
        self._output.write("".join(line + "\n" for line in lines).encode("ascii"))

    def _print_text(self, reports: list[Report]) -> None:
        from tracer.render import policy, targets, trust

        for report in reports:
            if self._printed:
                self._output.write(b"\n")
            self._printed = True
            if not self._arguments.quiet:
                messages.write(trust.line(report.snapshot))
            lines = policy.lines(report, self._arguments.vmas, self._arguments.all)
            self._output.write_lines(line.encode("utf-8", "surrogateescape") for line in lines)
        if self._ended_left_out:
            self._output.write_lines([f"# {self._ended_left_out} more that ended had fewer pages than these".encode()])
        self._output.write_lines(line.encode() for line in targets.untraced(self._untraced))


def _what_if(snapshot: Snapshot, asked: Asked) -> WhatIf:
    from tracer.model.whatif import move_total, what_if
    from tracer.render.policy_vmas import WhatIf

    try:
        moves = what_if(snapshot, asked.policy, asked.weights)
    except ValueError as error:
        raise UsageError(f"--as {asked.text}: {error}", "numactl --hardware shows the nodes") from None
    return WhatIf(asked.policy, asked.weights, moves, move_total(moves, snapshot.node_ids))
