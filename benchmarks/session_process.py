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
"""elapsed_ns and cpu_ns (all threads) of what was done; of a refresh also regions_read, settling and reported_ns,
the session's own figure."""


class SessionProcess:
    """Context manager around the traced target `pid`; `started` is the report of Session's start."""

    def __init__(self, pid: int, seed: str = "auto", reader: str = "auto", every: float = 0.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.session_process", str(pid), seed, reader, str(every)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self.started = self._report()

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
        self._process.communicate()
        if self._process.returncode and error is None:
            raise NumatraceError(f"the traced session ended with exit code {self._process.returncode}")


def _measured(begin: tuple[int, int]) -> Report:
    return {"elapsed_ns": time.monotonic_ns() - begin[0], "cpu_ns": time.process_time_ns() - begin[1]}


def _now() -> tuple[int, int]:
    return time.monotonic_ns(), time.process_time_ns()


def _refresh(session: Session) -> Report:
    begin = _now()
    snapshot = session.refresh()
    report = _measured(begin)
    report["reported_ns"] = snapshot.refresh.cpu_ns
    report["regions_read"] = snapshot.refresh.regions_read
    report["settling"] = snapshot.trust.settling
    return report


def _serve(session: Session, every: float) -> None:
    """Answer "refresh" lines until the end of input; in between, refresh every so many seconds (0: never)."""
    timeout = every or None
    while True:
        if not select.select([sys.stdin], [], [], timeout)[0]:
            _refresh(session)
        elif sys.stdin.readline():
            print(json.dumps(_refresh(session)), flush=True)
        else:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("seed")
    parser.add_argument("reader")
    parser.add_argument("every", type=float)
    args = parser.parse_args()
    from tracer.session import Options, Session

    session = Session(args.pid, Options(seed=args.seed, reader=args.reader))
    begin = _now()
    with session:
        print(json.dumps(_measured(begin)), flush=True)
        for note in session.notes:
            print(note, file=sys.stderr)
        _serve(session, args.every)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except NumatraceError as error:
        raise SystemExit(f"{error.message} {error.hint}") from None
