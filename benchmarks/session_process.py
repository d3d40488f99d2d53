"""A `tracer.session.Session` in a process of its own, so that its CPU time and memory are its own.

`SessionProcess` is the benchmark's end. The other end is this module run as a program: it reports one JSON object when
the session has started and one for each refresh that is asked for, and with --every also refreshes by itself, as
`numatrace maps --every` does. End of input ends it.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tracer.errors import NumatraceError

if TYPE_CHECKING:
    from tracer.session import Session

__all__ = ["Report", "SessionProcess"]

ROOT = Path(__file__).resolve().parent.parent

Report = dict[str, float]
"""elapsed_ns and cpu_ns (all threads) of what was done; of a refresh also regions_read, settling, lost and reported_ns,
the session's own figure, and polling (1: without hooks)."""

STEP_S = 0.1
"""How long a session that refreshes by itself waits before it looks whether its input has ended."""


class SessionProcess:
    """Context manager around the traced target `pid`. started: report of Session's start. ended: of its last refresh,
    which is made on leaving. every: seconds between refreshes of its own accord, 0 for only when asked.
    """

    def __init__(self, pid: int, every: float = 0.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.session_process", str(pid), str(every)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self.started = self._report()
        self.ended: Report = {}

    def _report(self) -> Report:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NumatraceError(f"the traced session ended with exit code {self._process.wait()}")
        report: Report = json.loads(line)
        return report

    def refresh(self) -> Report:
        """One refresh, measured in the session's process."""
        assert self._process.stdin is not None
        self._process.stdin.write("refresh\n")
        return self._report()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output, _ = self._process.communicate()
        if error is not None:
            return
        if self._process.returncode:
            raise NumatraceError(f"the traced session ended with exit code {self._process.returncode}")
        self.ended = json.loads(output)
        if self.ended["polling"]:
            raise NumatraceError("the session has no hooks on this machine: its cost would mean nothing")


def _measured(begin: tuple[int, int]) -> Report:
    return {"elapsed_ns": time.monotonic_ns() - begin[0], "cpu_ns": time.process_time_ns() - begin[1]}


def _now() -> tuple[int, int]:
    return time.monotonic_ns(), time.process_time_ns()


def _refresh(session: Session) -> Report:
    begin = _now()
    snapshot = session.refresh().only
    report = _measured(begin)
    report["reported_ns"] = snapshot.refresh.cpu_ns
    report["regions_read"] = snapshot.refresh.regions_read
    report["settling"] = snapshot.trust.settling
    report["lost"] = snapshot.trust.lost
    report["polling"] = snapshot.hooks == "none"
    return report


def _serve(session: Session) -> None:
    """A refresh for each line of input."""
    for _ in sys.stdin:
        print(json.dumps(_refresh(session)), flush=True)


def _watch(session: Session, every: float) -> None:
    """A refresh every so many seconds, as `numatrace maps --every` makes them, until the end of input."""
    due = time.monotonic() + every
    while not select.select([sys.stdin], [], [], 0)[0] and session.wait(STEP_S):
        if time.monotonic() >= due:
            session.refresh()
            due += every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("every", type=float)
    args = parser.parse_args()
    from tracer.session import Options, Session

    session = Session(args.pid, Options())
    begin = _now()
    with session:
        print(json.dumps(_measured(begin)), flush=True)
        for note in session.notes:
            print(note, file=sys.stderr)
        if args.every:
            _watch(session, args.every)
        else:
            _serve(session)
        print(json.dumps(_refresh(session)), flush=True)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except NumatraceError as error:
        raise SystemExit(f"{error.message} {error.hint}") from None
