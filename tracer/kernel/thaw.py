"""Undoing a freeze, and a process of ours that does it when we cannot any more.

What is about to be done to a target is told to the watcher first, through a pipe. When that breaks, because we were
killed, the watcher undoes all of it. It does the same after `MOST_S`, so that not even a tracer that is stopped holds a
target for long. Undoing is harmless where nothing was done, and to repeat.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, Self

from tracer.errors import NumatraceError
from tracer.kernel.procfs import start_time

__all__ = ["FREEZE_V1", "FREEZE_V2", "MOST_S", "Hold", "Watcher", "thaw"]

FREEZE_V1, FREEZE_V2 = "freezer.state", "cgroup.freeze"
_THAWED = {FREEZE_V1: "THAWED", FREEZE_V2: "0"}
MOST_S = 60.0
"""Seconds that a target is frozen at most."""
_PATIENCE_S = 5.0
"""Seconds for the last processes to leave a cgroup that is to be removed."""
_NAME = "numatrace-thaw"


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps processes from running.

    switch: the file that freezes a cgroup, or an empty string where a process was stopped by a signal. cgroup: that is
    frozen. home: where the processes belong, if that cgroup is one that we have made for them; else an empty string.
    pid, started: the process that was stopped (`procfs.start_time`).
    """

    switch: str = ""
    cgroup: str = ""
    home: str = ""
    pid: int = 0
    started: int = 0


def thaw(hold: Hold) -> None:
    """Let them run, and put them back where they were. Raises OSError if a cgroup that we made cannot be removed."""
    if not hold.switch:
        _continue(hold)
        return
    cgroup = Path(hold.cgroup)
    with contextlib.suppress(OSError):  # gone, or no longer ours to write to
        (cgroup / hold.switch).write_text(_THAWED[hold.switch])
    if hold.home:
        _send_home(cgroup, Path(hold.home))


def _continue(hold: Hold) -> None:
    with contextlib.suppress(OSError, NumatraceError):
        pidfd = os.pidfd_open(hold.pid)
        try:
            if start_time(hold.pid) == hold.started:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)


def _send_home(cgroup: Path, home: Path) -> None:
    """Move all processes of a cgroup to another one, also those that are born meanwhile, and remove it."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            for pid in (cgroup / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (home / "cgroup.procs").write_text(pid)
            cgroup.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
        time.sleep(0.002)


class Watcher:
    """A process that outlives us to undo what we cannot undo. A context manager; one for all holds.

    To be made before anything starts threads: it is a fork. Raises NumatraceError if there can be no process.
    """

    def __init__(self) -> None:
        read, self._write = os.pipe()
        try:
            ours = os.pidfd_open(os.getpid())
            self.pid = os.fork()
        except OSError as error:
            os.close(read)
            os.close(self._write)
            raise NumatraceError(f"cannot start the process that thaws: {error.strerror}", "end some others") from None
        if self.pid == 0:
            _watch(read, ours)
        os.close(read)
        os.close(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, hold: Hold) -> None:
        """Before it is done: from now on the watcher would undo it."""
        self._say(asdict(hold))

    def forget(self) -> None:
        """All that was told has been undone."""
        self._say(None)

    def _say(self, what: object) -> None:
        try:
            os.write(self._write, json.dumps(what).encode() + b"\n")
        except OSError as error:
            raise NumatraceError(
                f"the process that thaws is gone: {error.strerror}", "nothing is frozen without it; start again"
            ) from None

    def close(self) -> None:
        """End it. Harmless to repeat."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
            os.waitpid(self.pid, 0)


def _watch(pipe: int, parent: int) -> NoReturn:
    """The watcher: never returns, whatever happens."""
    try:
        _stand_apart(pipe, parent)
        _wait_for_the_end(pipe, parent)
    except BaseException:
        # No other way out: this is a copy of the whole tracer, and nothing of it may run twice.
        os._exit(1)
    os._exit(0)


def _stand_apart(pipe: int, parent: int) -> None:
    """Not to be reached by the keys of a terminal, and to hold nothing open that others wait for."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    low, high = sorted((pipe, parent))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, os.sysconf("SC_OPEN_MAX"))
    Path("/proc/self/comm").write_text(_NAME)


def _wait_for_the_end(pipe: int, parent: int) -> None:
    holds: list[Hold] = []
    since = 0.0
    poller = select.poll()
    # The pipe alone would not do: a child of ours that is killed with us may hold it open for a while.
    for descriptor in (pipe, parent):
        poller.register(descriptor, select.POLLIN)
    text = b""
    while True:
        left = max(0.0, since + MOST_S - time.monotonic()) * 1000 if holds else None
        ready = [descriptor for descriptor, _ in poller.poll(left)]
        piece = os.read(pipe, 1 << 16) if pipe in ready else b""
        text += piece
        *lines, text = text.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if told is None:
                holds = []
            else:
                holds.append(Hold(**told))
                since = since if len(holds) > 1 else time.monotonic()
        if not piece:
            _undo(holds)
            holds = []
            if ready:
                return


def _undo(holds: Iterable[Hold]) -> None:
    for hold in holds:
        with contextlib.suppress(OSError, NumatraceError):
            thaw(hold)
