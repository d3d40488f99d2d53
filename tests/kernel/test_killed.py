"""numatrace killed by SIGKILL at moments by chance, from its first instruction on: nothing of it stays behind.

No BPF program, map or link; no process; and its targets go on as if it had never been there. `NUMATRACE_KILLS` is how
many moments, `NUMATRACE_SEED` the seed of them.
"""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.bpf_objects import Objects, all_objects, objects_of_the_living
from tests.kernel.target import ANSWER_SECONDS, read_truth
from tests.soak.workload import Kinds, Soak

KILLS = int(os.environ.get("NUMATRACE_KILLS", "20"))
SEED = int(os.environ.get("NUMATRACE_SEED", "1"))
START_S = 1.5
"""What a start takes, at most: half of all moments lie in it."""
LONGEST_S = 3.0
NUMATRACE = [sys.executable, "-m", "tracer.cli.main"]


@pytest.fixture(scope="module")
def soak(quiet_machine: None, files: Path) -> Iterator[Soak]:
    with Soak(SEED, files, (2, 1)) as it:
        yield it


def commands(soak: Soak, directory: Path, number: int) -> dict[str, list[str]]:
    """Those that run until they are told to end."""
    targets = [word for pid in soak.pids for word in ("-p", str(pid))]
    many = ["--follow-forks", "--every", "0.1", *targets]
    return {
        "maps": ["maps", "--format", "json", *many],
        "live": ["live", *many],
        "record": ["record", "-o", str(directory / f"{number}.parquet"), *many],
    }


class Started:
    """numatrace in a session of its own, with a terminal if it needs one. said: what it has written to stderr."""

    def __init__(self, command: list[str], terminal: bool) -> None:
        self._screen, other = pty.openpty()
        os.set_blocking(self._screen, False)
        stream = other if terminal else subprocess.DEVNULL
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*NUMATRACE, *command],
            stdin=stream,
            stdout=stream,
            stderr=other if terminal else self._errors,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(other)

    def runs(self) -> bool:
        """Whether it still runs; takes what it has written to its terminal, so that it is never kept from going on."""
        with contextlib.suppress(OSError):
            os.read(self._screen, 1 << 20)
        return self.process.poll() is None

    def close(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        self._errors.close()
        os.close(self._screen)

    @property
    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")


def session_members(leader: int) -> list[int]:
    """Processes of a session that are no zombies: field 6 of /proc/PID/stat."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


def until_none(left: Callable[[], object]) -> object:
    """What is left in the end: the kernel frees programs and maps after RCU grace periods."""
    limit = time.monotonic() + ANSWER_SECONDS
    while (found := left()) and time.monotonic() < limit:
        select.select([], [], [], 0.05)
    return found


def left_behind(before: Objects) -> set[tuple[str, int]]:
    """Objects that were not there, and that nobody holds who is alive."""
    return set(all_objects() - before - objects_of_the_living())


def kill_after(moment: float, verb: str, command: list[str], soak: Soak, before: Objects) -> Objects:
    """Let it watch a target that works, and kill it; the objects that there were just before."""
    it = Started(command, verb == "live")
    found: list[Objects] = []

    def kill() -> None:
        found.append(all_objects() - before)
        it.process.kill()

    timer = threading.Timer(moment, kill)
    timer.start()
    try:
        while it.runs():
            soak.go(10, Kinds(7))
        assert it.process.returncode == -signal.SIGKILL, it.said
        timer.join()
        assert not until_none(lambda: session_members(it.process.pid))
        assert not until_none(lambda: left_behind(before))
    finally:
        timer.cancel()
        it.close()
    return found[0]


def test_nothing_stays_behind(soak: Soak, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(SEED)
    seen = {"before it had loaded anything": 0, "afterwards": 0}
    for number in range(KILLS):
        verb, command = chance.choice(list(commands(soak, tmp_path, number).items()))
        moment = chance.uniform(0, START_S) if chance.random() < 0.5 else chance.uniform(START_S, LONGEST_S)
        print(f"moment {number} of seed {SEED}: numatrace {verb}, killed {moment:.3f} s after its start")
        had = kill_after(moment, verb, command, soak, all_objects())
        seen["afterwards" if had else "before it had loaded anything"] += 1
        soak.go(20, Kinds(7))
        assert all(read_truth(pid).areas for pid in soak.pids)
    with capsys.disabled():
        print(f"\nkilled at {KILLS} moments of seed {SEED}: {seen}, nothing left")
    assert all(seen.values()), seen
