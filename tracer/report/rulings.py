"""What a recording says of policies: targets as last seen, and the changes of policies on the way there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.model.snapshot import Snapshot
from tracer.report.history import History, PolicyChange, Rulings
from tracer.report.table import Rows

if TYPE_CHECKING:
    from tracer.record.recording import Recording

__all__ = ["CHANGES", "TARGETS", "rulings"]

CHANGES = 200
"""Changes that are told of, the last ones."""
TARGETS = 20
"""Targets that are told of, the largest ones. Each may need a moment of the recording of its own."""
_SAMPLES_AT_ONCE = 20_000

_Progress = Callable[[str, int, int], None]


def rulings(recording: Recording, first: int, last: int, history: History, progress: _Progress) -> Rulings | None:
    """Of samples `first` to `last`, which is included. None where policies were not recorded."""
    if not recording.info.policies:
        return None
    pids = [history.targets[index].pid for index in history.ranked_targets()]
    last_seen: dict[int, tuple[int, bool]] = {}
    changes: deque[PolicyChange] = deque(maxlen=CHANGES)
    count = 0
    for rows, sample in _rows(recording, first, last):
        for pid, at, ended in zip(rows.numbers("pid").tolist(), sample, rows.words("event") == "ended", strict=True):
            # Alive is better: a process that has ended may have been gone before anybody could look at it.
            if not ended or pid not in last_seen:
                last_seen[pid] = at, bool(ended)
        for change in _changes(rows):
            changes.append(change)
            count += 1
    wanted = [pid for pid in pids if pid in last_seen]
    shots = list(_shots(recording, {pid: last_seen[pid] for pid in wanted[:TARGETS]}, progress))
    return Rulings(shots, len(wanted), list(changes), count)


def _rows(recording: Recording, first: int, last: int) -> Iterator[tuple[Rows, list[int]]]:
    """Rows of targets, and the number of the sample that each belongs to."""
    columns = ("time", "event", "pid", "comm", "policy_changes")
    times = recording.times.astype("datetime64[us]")
    for low in range(first, last + 1, _SAMPLES_AT_ONCE):
        high = min(low + _SAMPLES_AT_ONCE - 1, last)
        rows = Rows(recording.rows("target", "ended", columns=columns, first=low, last=high))
        yield rows, (np.searchsorted(times, rows.times(), "right") - 1).tolist()


def _changes(rows: Rows) -> Iterator[PolicyChange]:
    pids, comms = rows.numbers("pid"), rows.words("comm")
    for row, changes in rows.listed("policy_changes"):
        for it in changes:
            yield PolicyChange(
                time=it["time"],
                exact=bool(it["exact"]),
                pid=int(pids[row]),
                comm=str(comms[row]),
                thread=it["thread"] or 0,
                start=it["start"] or 0,
                end=it["end"] or 0,
                old=_text(it["old"]),
                new=_text(it["new"]),
                call=it["call"] or "",
            )


def _text(policy: dict[str, Any] | None) -> str:
    return "" if policy is None else policy["policy"] or ""


def _shots(recording: Recording, wanted: dict[int, tuple[int, bool]], progress: _Progress) -> Iterator[Snapshot]:
    """The snapshots of these targets, in this order."""
    found: dict[int, Snapshot] = {}
    samples = sorted({at for at, _ in wanted.values()})
    for done, at in enumerate(samples):
        progress("reading policies", done, len(samples))
        sample = recording.at(at)
        for shots, are_ended in ((sample.ended, True), (sample.snapshots, False)):
            for shot in shots:
                if wanted.get(shot.pid) == (at, are_ended) and shot.policies is not None:
                    found[shot.pid] = shot
    return (found[pid] for pid in wanted if pid in found)
