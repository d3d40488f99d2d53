"""The tracers whose cost is compared: each a context manager that is attached, and seen to be attached, while entered.

All of them are separate processes, so that they run on the CPUs that this process may use and not on the storm's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.session_process import ROOT, SessionProcess
from benchmarks.workload import SOURCES, minor_faults
from tracer.errors import NumatraceError

__all__ = ["PEERS", "Attach", "check_installed"]

Attach = Callable[[int], AbstractContextManager[object]]

EVENT = "exceptions:page_fault_user"
PERF = "/usr/bin/perf"
REFRESH_EVERY = 1.0
"""Seconds between two refreshes of the traced storm, as `maps --every 1` and the live view do."""


def check_installed() -> None:
    """Raises NumatraceError naming every program that the comparison needs and does not find."""
    packages = {"bpftrace": "bpftrace", PERF: "linux-perf", "gcc": "gcc", "make": "make"}
    missing = [program for program in packages if shutil.which(program) is None]
    if missing:
        names = " ".join(packages[program] for program in missing)
        raise NumatraceError(f"the benchmarks need {', '.join(missing)}", f"apt-get install {names}")
    if os.geteuid():
        raise NumatraceError("the benchmarks attach tracers, which only root may do", "run them with sudo")


def _empty(pid: int) -> AbstractContextManager[None]:
    """An empty BPF program on the tracepoint; like any raw tracepoint program it runs for every process."""
    return _empty_on("page_fault_user")


def _empty_on_both(pid: int) -> AbstractContextManager[None]:
    """The least that numatrace's two hooks can cost: a fault passes kmem:rss_stat as well, when it maps its page."""
    return _empty_on("page_fault_user", "rss_stat")


@contextmanager
def _empty_on(*tracepoints: str) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.empty", *tracepoints]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"attached\n":
            raise NumatraceError("the empty BPF program could not be attached")
        yield
        process.communicate()


def _numatrace(pid: int) -> AbstractContextManager[object]:
    return SessionProcess(pid, every=REFRESH_EVERY)


@contextmanager
def _bpftrace(pid: int) -> Iterator[None]:
    """bpftrace counting the target's faults. Its own child, which it starts once everything is attached, says so."""
    program = f"tracepoint:{EVENT} /pid == {pid}/ {{ @ = count(); }}"
    child = f"{SOURCES / 'bin' / 'hold'} 1 4k"
    before = minor_faults(pid)
    with subprocess.Popen(
        ["bpftrace", "-e", program, "-c", child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if not any(line == "ready\n" for line in process.stdout):
            raise NumatraceError(f"bpftrace does not start: {process.communicate()[1].strip()}")
        yield
        faults = minor_faults(pid) - before
        said, _ = process.communicate()
    counted = re.search(r"^@: (\d+)$", said, re.MULTILINE)
    _expect_seen("bpftrace", int(counted[1]) if counted else 0, faults)


@contextmanager
def _perf(pid: int) -> Iterator[None]:
    """perf record of the target's faults; its control descriptors tell when it is enabled."""
    control_read, control_write = os.pipe()
    ack_read, ack_write = os.pipe()
    with tempfile.TemporaryDirectory() as directory, open(ack_read) as acks, open(control_write, "w") as control:
        command = [PERF, "record", "-e", EVENT, "-p", str(pid), "-o", str(Path(directory) / "perf.data")]
        command += ["-D", "-1", "--control", f"fd:{control_read},{ack_write}"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, pass_fds=(control_read, ack_write)
        ) as process:
            os.close(control_read)
            os.close(ack_write)
            control.write("enable\n")
            control.flush()
            if not acks.readline().strip("\0").startswith("ack"):
                raise NumatraceError(f"perf record does not start: {process.communicate()[1].strip()}")
            before = minor_faults(pid)
            try:
                yield
            finally:
                faults = minor_faults(pid) - before
                process.send_signal(signal.SIGINT)
                _, said = process.communicate()
    lost = re.search(r"lost (\d+)", said)
    recorded = re.search(r"\((\d+) samples\)", said)
    _expect_seen("perf record", int(recorded[1]) if recorded else 0, 1 if lost else faults)


def _expect_seen(name: str, seen: int, faults: int) -> None:
    """A peer that missed the storm would look cheap. Some of the minor faults are the kernel's own, not the user's."""
    if seen < 0.9 * faults:
        raise NumatraceError(f"{name} saw {seen} of the storm's {faults} faults: the comparison is worth nothing")


PEERS: dict[str, Attach] = {
    "an empty BPF program": _empty,
    "empty ones on both tracepoints": _empty_on_both,
    "numatrace": _numatrace,
    "bpftrace counting": _bpftrace,
    "perf record": _perf,
}
