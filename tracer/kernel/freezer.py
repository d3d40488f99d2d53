"""Holding processes still for a moment, so that what is read of them is of one moment.

By the cgroup freezer, which neither the processes nor their parents can see. If a cgroup holds only them, it is frozen
where it is. Otherwise they are moved into a new cgroup below their own and frozen there: as that one has no controllers
of its own, what their cgroup allows and accounts stays as it is. By SIGSTOP only if that is asked for, because parents
see it (SIGCHLD, wait(2)).

Sources: Documentation/admin-guide/cgroup-v2.rst (cgroup.freeze), cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from tracer.errors import NumatraceError
from tracer.kernel.processes import cgroup_of
from tracer.kernel.procfs import TargetGone, start_time, state
from tracer.kernel.thaw import FREEZE_V1, FREEZE_V2, Hold, Watcher, thaw

__all__ = ["CGROUP", "HIERARCHIES", "STOP", "Freezer"]

CGROUP, STOP = "cgroup", "stop"
HIERARCHIES = {FREEZE_V2: "", FREEZE_V1: "freezer"}
"""The file that freezes, and what `cgroup_of` calls the hierarchy; in the order in which they are tried."""

_PATIENCE_S = 5.0
"""Seconds for all threads to stand still; one in an uninterruptible sleep comes when that is over."""
_OURS = re.compile(r"numatrace-freeze-(\d+)")
_INSTEAD = "use --freeze=stop, which stops them by SIGSTOP (their parents see that), or leave --freeze away"


class Freezer:
    """Freezes and thaws. how: `cgroup` or `stop`. watcher: does the latter if we cannot.

    hierarchies: those of `HIERARCHIES` to try.
    """

    def __init__(self, how: str, watcher: Watcher, hierarchies: Iterable[str] = tuple(HIERARCHIES)) -> None:
        self._how, self._watcher, self._hierarchies = how, watcher, tuple(hierarchies)
        self._holds: list[Hold] = []

    @contextlib.contextmanager
    def frozen(self, pids: Iterable[int]) -> Iterator[None]:
        """While inside, none of these processes runs, unless they are held for longer than `thaw.MOST_S`.

        Those that have ended are left out; those that are frozen or stopped already stay so. Raises NumatraceError
        where it cannot be done, and then nothing is frozen.
        """
        wanted = list(dict.fromkeys(pids))
        if os.getpid() in wanted:
            raise NumatraceError("numatrace cannot freeze itself", "choose other processes")
        try:
            if self._how == STOP:
                self._stop(wanted)
            else:
                self._freeze(wanted)
            yield
        finally:
            self._thaw()

    def _hold(self, hold: Hold) -> None:
        self._watcher.tell(hold)
        self._holds.append(hold)

    def _thaw(self) -> None:
        left: list[str] = []
        while self._holds:
            hold = self._holds.pop()
            try:
                thaw(hold)
            except OSError as error:
                left.append(f"{hold.cgroup} ({error.strerror})")
        if left:
            raise NumatraceError(
                f"everything runs again, but this cgroup could not be removed: {', '.join(left)}",
                "move its processes to the cgroup above it, and remove it with rmdir",
            )
        self._watcher.forget()

    # --- by signal ---

    def _stop(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(TargetGone, ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    if state(pid) in "Tt":
                        continue
                    self._hold(Hold(pid=pid, started=start_time(pid)))
                    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                finally:
                    os.close(pidfd)
        for hold in self._holds:
            _wait(partial(_all_stopped, hold.pid), f"process {hold.pid}")

    # --- by cgroup ---

    def _freeze(self, pids: list[int]) -> None:
        by_home: dict[tuple[str, Path], list[int]] = {}
        for pid in pids:
            with contextlib.suppress(TargetGone):
                by_home.setdefault(self._home(pid), []).append(pid)
        for (switch, home), its in by_home.items():
            if _is_held(switch, home):
                _wait(partial(_is_frozen, switch, home), f"cgroup {home}")
            else:
                self._freeze_in(switch, home, its, set(pids))

    def _home(self, pid: int) -> tuple[str, Path]:
        """The file that freezes, and the cgroup that the process is in."""
        for switch in self._hierarchies:
            home = cgroup_of(pid, HIERARCHIES[switch])
            if home is None:
                continue
            left = _OURS.fullmatch(home.name)
            if left and not os.path.exists(f"/proc/{left[1]}"):
                # A tracer and its watcher were killed here.
                _as_error(partial(thaw, Hold(switch, str(home), str(home.parent))), home)
                home = home.parent
            return switch, home
        raise NumatraceError(f"no cgroup hierarchy that can freeze process {pid} is mounted", _INSTEAD)

    def _freeze_in(self, switch: str, home: Path, pids: list[int], all_pids: set[int]) -> None:
        if (home / switch).exists() and _holds_only(home, all_pids):
            self._switch_on(switch, home, "")
            return
        _check_home(switch, home)
        cgroup = home / f"numatrace-freeze-{os.getpid()}"
        self._hold(Hold(switch, str(cgroup), str(home)))
        _as_error(partial(cgroup.mkdir, exist_ok=True), home)
        for pid in pids:
            _as_error(partial(_move, cgroup, pid), cgroup)
        self._switch_on(switch, cgroup, str(home))

    def _switch_on(self, switch: str, cgroup: Path, home: str) -> None:
        if not home:
            self._hold(Hold(switch, str(cgroup)))
        _as_error(partial((cgroup / switch).write_text, "FROZEN" if switch == FREEZE_V1 else "1"), cgroup)
        _wait(partial(_is_frozen, switch, cgroup), f"cgroup {cgroup}")


def _check_home(switch: str, home: Path) -> None:
    """NumatraceError where a cgroup below this one would take its processes out of what theirs allows and accounts."""
    if switch == FREEZE_V1:
        return  # `cgroup_of` has found a hierarchy with this one controller
    kind = _read(home / "cgroup.type") or "domain"
    controllers = _read(home / "cgroup.subtree_control")
    if kind != "domain" or controllers:
        what = f"is {kind}" if kind != "domain" else f"hands {controllers} on to those below it"
        raise NumatraceError(
            f"cgroup {home} holds other processes as well, and {what}: freezing some of them apart from the others "
            "would change what they are allowed",
            _INSTEAD,
        )


def _holds_only(cgroup: Path, pids: set[int]) -> bool:
    """Whether no other process is in it or below it."""
    try:
        files = [cgroup / "cgroup.procs", *cgroup.rglob("cgroup.procs")]
        return {int(pid) for file in files for pid in file.read_text().split()} <= pids
    except OSError:
        return False


def _is_held(switch: str, cgroup: Path) -> bool:
    """Whether somebody else has frozen it, or one above it, or is about to."""
    if switch == FREEZE_V1:
        return _read(cgroup / switch) in ("FREEZING", "FROZEN")
    return any(_read(it / switch) == "1" for it in (cgroup, *cgroup.parents))


def _is_frozen(switch: str, cgroup: Path) -> bool:
    if switch == FREEZE_V1:
        return _read(cgroup / switch) == "FROZEN"
    return "frozen 1" in _read(cgroup / "cgroup.events").splitlines()


def _move(cgroup: Path, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        (cgroup / "cgroup.procs").write_text(str(pid))


def _read(file: Path) -> str:
    """Empty where there is none: the root has neither a type nor a freezer."""
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""


def _all_stopped(pid: int) -> bool:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return all(state(int(task)) in "TtZX" for task in tasks)
    except (OSError, TargetGone):
        return not os.path.exists(f"/proc/{pid}/task")


def _wait(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise NumatraceError(
                f"{what} does not come to a stop within {_PATIENCE_S:g} s, and runs on",
                "a thread waits for a disk or a driver; try again, or leave --freeze away",
            )
        time.sleep(0.001)


def _as_error(action: Callable[[], object], cgroup: Path) -> None:
    try:
        action()
    except OSError as error:
        hint = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else _INSTEAD
        raise NumatraceError(f"cannot freeze in cgroup {cgroup}: {error.strerror}", hint) from error
