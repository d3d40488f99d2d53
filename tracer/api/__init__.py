"""Placement in Python: `tracer.open` for recordings and `tracer.attach` for live processes, as pandas DataFrames.

Nothing of this room is imported before one of the two is used; it is the only one that imports pandas.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tracer.api.attached import DEFAULT_INTERVAL_S, DEFAULT_KEEP, Attached
from tracer.api.placements import Placements
from tracer.api.recorded import Recorded
from tracer.errors import HooksMissing

__all__ = ["Attached", "Placements", "Recorded", "attach", "open_file"]


def open_file(path: str | os.PathLike[str]) -> Recorded:
    """A recording: a .parquet file, or the directory of a rotated one. Exported as `tracer.open`.

    Raises NumatraceError for what is no recording, cannot be read, or is still being written.
    """
    from tracer.record.recording import open_recording

    return Recorded(open_recording(path), os.fspath(path))


def attach(
    pid: int | Iterable[int],
    *,
    every: float | None = None,
    flows: bool = True,
    faults: bool = True,
    threads: bool = False,
    policies: bool = False,
    policy_calls: bool = False,
    follow_forks: bool = False,
    full: bool = False,
    keep: int = DEFAULT_KEEP,
    hooks: str = "auto",
    reader: str = "auto",
    seed: str = "auto",
    audit_cpu: float = 0.05,
) -> Attached:
    """Watch a process, or several, from now on; the first sample is taken at once.

    every: seconds between the samples of `watch()`. flows, faults: tell them; that takes root and BPF. threads: tell
    the faults of each thread apart. policies: tell why pages lie elsewhere than their policies promise; that takes root
    and BPF, too. policy_calls: trace the system calls that set policies, for the exact time of each change; that makes
    every system call of the whole machine a little slower. follow_forks: children too, and theirs. full: with the
    columns of `numatrace maps --full`. keep: the last so many samples are kept whole. hooks, reader, seed and audit_cpu
    (a fraction of one CPU): as on the command line.

    Raises TargetGone for a process that does not exist, NumatraceError where one cannot be watched, both with a hint
    on what to do; ValueError and TypeError for arguments that make no sense.
    """
    from tracer.model.selection import Selection
    from tracer.session import Options

    pids = (pid,) if isinstance(pid, int) else tuple(pid)
    interval = DEFAULT_INTERVAL_S if every is None else every
    _check(pids, interval, keep)
    options = Options(
        hooks=hooks,
        reader=reader,
        seed=seed,
        details=full,
        audit_cpu=audit_cpu,
        flows=flows,
        faults=faults or threads,
        threads=threads,
        policies=policies or policy_calls,
        policy_calls=policy_calls,
    )
    try:
        return Attached(Selection(pids, follow_forks), options, interval, keep)
    except HooksMissing as error:
        error.add_note("or without what they tell: attach(pid, flows=False, faults=False)")
        raise


def _check(pids: tuple[int, ...], every: float, keep: int) -> None:
    if not pids or any(isinstance(pid, bool) or not isinstance(pid, int) for pid in pids):
        raise TypeError(f"a process is meant by its PID, a whole number, and not by {pids!r}")
    if not all(0 < pid < 2**31 for pid in pids):
        raise ValueError(f"a PID is above 0, and below 2**31: {pids!r}")
    if not every > 0:
        raise ValueError("every is a number of seconds above 0")
    if keep < 1:
        raise ValueError("keep is a number of samples, at least 1")
