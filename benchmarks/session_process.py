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
the session's own figure, polling (1: without hooks), and of the processes that were followed: ended, how many have
ended since the session began, and untraced, how many there was no room for."""

STEP_S = 0.1
"""How long a session that refreshes by itself waits before it looks whether its input has ended."""


class SessionProcess:
    """Context manager around the traced target `pid`. started: report of Session's start. ended: of its last refresh,
    which is made on leaving. every: seconds between refreshes of its own accord, 0 for only when asked.
    follow_forks: trace its children too, of which none may be alive at a refresh that is asked for. flows: follow each
    page that migrates.
    """

    def __init__(self, pid: int, every: float = 0.0, follow_forks: bool = False, flows: bool = False) -> None:
        options = ["--follow-forks"] * follow_forks + ["--flows"] * flows
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.session_process", str(pid), str(every), *options],
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


def _refresh(session: Session, ended_before: int = 0) -> Report:
    begin = _now()
    sample = session.refresh()
    report = _measured(begin)
    snapshot = sample.only
    report["reported_ns"] = snapshot.refresh.cpu_ns
    report["regions_read"] = snapshot.refresh.regions_read
    report["settling"] = snapshot.trust.settling
    report["lost"] = snapshot.trust.lost
    report["polling"] = snapshot.hooks == "none"
    report["ended"] = ended_before + len(sample.ended)
    report["untraced"] = sample.untraced
    return report


def _serve(session: Session) -> int:
    """A refresh for each line of input. Returns how many processes have ended."""
    ended = 0
    for _ in sys.stdin:
        report = _refresh(session, ended)
        ended = int(report["ended"])
        print(json.dumps(report), flush=True)
    return ended


def _watch(session: Session, every: float) -> int:
    """A refresh every so many seconds, as `numatrace maps --every` makes them, until the end of input.

    Returns how many processes have ended.
    """
    due = time.monotonic() + every
    ended = 0
    while not select.select([sys.stdin], [], [], 0)[0] and session.wait(STEP_S):
        if time.monotonic() >= due:
            ended += len(session.refresh().ended)
            due += every
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("every", type=float)
    parser.add_argument("--follow-forks", action="store_true")
    parser.add_argument("--flows", action="store_true")
    args = parser.parse_args()
    from tracer.session import Options, Selection, Session

    session = Session(Selection((args.pid,), follow_forks=args.follow_forks), Options(flows=args.flows))
    begin = _now()
    with session:
        print(json.dumps(_measured(begin)), flush=True)
        for note in session.notes:
            print(note, file=sys.stderr)
        ended = _watch(session, args.every) if args.every else _serve(session)
        print(json.dumps(_refresh(session, ended)), flush=True)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except NumatraceError as error:
        raise SystemExit(f"{error.message} {error.hint}") from None
