"""The machines of a test run: which there are, how many run at once, what they left.

What it is: :class:`Fleet` boots the machines asked for, each running the kernel tests by `guest.py`, and gives their
:class:`Report` by name. What it is not: it judges nothing; `test_vm.py` does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.vm.compiler import Compiler
from tests.vm.kernels import Kernel, ensure
from tests.vm.machine import REPOSITORY, SHAPES, Machine, Outcome, Shape, until_it_boots

__all__ = ["MACHINES", "Fleet", "Report"]


def _kernel(*names: str, but: str = "TestCache") -> str:
    """Modules of tests/kernel for pytest in a guest, without the tests whose names contain `but`."""
    return " ".join(f"tests/kernel/test_{name}.py" for name in names) + f" -k 'not ({but})'"


# Left out of guests: what users are told, and the cache of programs, depend on the command and not on the kernel, and a
# start of the command or of clang takes a guest a minute. A list of VMAs that never stands still is left out as well: a
# tracepoint that is switched on in code that another emulated CPU runs all the time makes that CPU hang. Polling, which
# knows nothing of a kernel's inside, is tried on the oldest and the newest only, and every size of page on the newest;
# `make accuracy` tries it on all. That each hook is needed is tried on this very machine; only migration wants nodes.
_COUNTS = ("exact", "format", "numa_maps_form", "oracle", "readers", "walk", "hooks")
_EVENTS = ("flows", "faults")
_POLICIES = ("policies", "placed", "calls")

# What policies promise depends on the number of nodes. The machines of a kernel are not next to each other, so that a
# later one finds the programs that an earlier one has compiled.
_POLICY = [(kernel, shape) for shape in ("4-nodes", "2-nodes", "8-nodes") for kernel in ("6.1", "6.12", "newest")]

MACHINES: dict[str, tuple[str, str, str]] = {
    "6.1 4-nodes": (
        "6.1",
        "4-nodes",
        _kernel(*_COUNTS, *_EVENTS, *_POLICIES, "family", "vmas", but="TestCache or never_stands or every_size"),
    ),
    "newest 4-nodes": (
        "newest",
        "4-nodes",
        _kernel(
            *(*_COUNTS, *_EVENTS, *_POLICIES, "family", "hooks_needed", "replayed"),
            but="TestCache or example or every] or (hooks_needed and not migrat)",
        ),
    ),
    "6.12 4-nodes": (
        "6.12",
        "4-nodes",
        _kernel(*_COUNTS, *_EVENTS, "doubts", "races", "soak", but="TestCache or stopped or polling or every_size"),
    ),
    "newest hole": (
        "newest",
        "hole",
        _kernel("exact", "format", *_EVENTS, but="TestCache or polling or more or every_size"),
    ),
    **{f"{kernel} policy {shape}": (kernel, shape, "tests/policy") for kernel, shape in _POLICY},
    "6.12 many": ("6.12", "many", _kernel("format", "hooks", "walk")),
    "6.12 tiers": ("6.12", "tiers", "tests/tiers"),
    "newest tiers": ("newest", "tiers", "tests/tiers"),
}
"""Name -> series of the kernel, shape, arguments for pytest in the guest.

"policy" is for tests/policy. "hole" has an unused node id, and a node without CPU; "many" has 40 nodes; "tiers" has a
node of slow memory, which 6.1 does not tell from fast one (it does not ask the HMAT).
"""

AT_ONCE = 2
SECONDS = 2300
RESULTS = REPOSITORY / ".cache" / "vm"


@dataclass(frozen=True)
class Report:
    """What a machine left: how it ended, the release it ran, the wall time in seconds, how often it was started, and
    its results directory."""

    outcome: Outcome
    release: str
    seconds: float
    boots: int
    results: Path

    def counts(self) -> dict[str, int]:
        """tests, failures, errors, skipped of the suite in the guest; all 0 when it did not get to write them."""
        try:
            suites = list(ElementTree.parse(self.results / "junit.xml").getroot().iter("testsuite"))
        except FileNotFoundError:
            suites = []
        return {
            name: sum(int(suite.get(name, 0)) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        }

    def log(self, lines: int = 150) -> str:
        """The end of what pytest said in the guest and of the console, for whoever has to find out why it failed."""
        path = self.results / "pytest.log"
        said = path.read_text(errors="replace") if path.exists() else "(pytest did not start)"
        return "\n".join(
            [
                "--- pytest in the guest",
                *said.splitlines()[-lines:],
                "--- console",
                *self.outcome.console.splitlines()[-lines:],
            ]
        )


class Fleet:
    """Boots machines, at most AT_ONCE at a time, in the order given.

    NUMATRACE_VM_TESTS, if set, are the arguments for pytest in the guests, instead of those in MACHINES.
    """

    def __init__(self, names: Sequence[str]) -> None:
        kernels = ensure(dict.fromkeys(MACHINES[name][0] for name in names))
        # The guests see what is compiled here, and need not compile it at their speed.
        for programs in ("tests/workloads", "examples/policy"):
            subprocess.run(["make", "-s", "-C", str(REPOSITORY / programs)], check=True)
        self._lock = threading.Lock()
        self._started: list[Machine] = []
        self._stopped = False
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._reports: dict[str, Future[Report]] = {}
        for name in names:
            self._reports[name] = self._pool.submit(self._run, name, kernels[MACHINES[name][0]])

    def report(self, name: str) -> Report:
        """Wait for a machine to end."""
        return self._reports[name].result()

    def stop(self) -> None:
        """Switch off what runs and start no more."""
        with self._lock:
            self._stopped = True
            started = list(self._started)
        for machine in started:
            machine.stop()
        self._pool.shutdown(cancel_futures=True)

    def tables(self) -> Iterator[tuple[str, str]]:
        """Name and text of each table that the machines left."""
        for name in self._reports:
            for path in sorted(_directory(name).glob("*.table")):
                yield f"{name}: {path.name}", path.read_text()

    def _run(self, name: str, kernel: Kernel) -> Report:
        shape = SHAPES[MACHINES[name][1]]
        results = _directory(name)
        _clear(results)
        _share_facts(results)
        began = time.monotonic()
        with Compiler(results):
            outcome, boots = until_it_boots(lambda: self._start(kernel, shape, results, MACHINES[name][2]))
        return Report(outcome, kernel.release, time.monotonic() - began, boots, results)

    def _start(self, kernel: Kernel, shape: Shape, results: Path, tests: str) -> Machine:
        command = [sys.executable, "tests/vm/guest.py", str(results)]
        command += [f"{key}={value}" for key, value in shape.expected.items()]
        command += ["--", *shlex.split(os.environ.get("NUMATRACE_VM_TESTS", tests))]
        with self._lock:
            if self._stopped:
                raise CancelledError
            machine = Machine(kernel, shape, command, results, SECONDS)
            self._started.append(machine)
            return machine


def _clear(results: Path) -> None:
    """Remove what an earlier run left, but not the compiled programs."""
    for path in results.glob("*"):
        if path.is_file():
            path.unlink()


def _directory(name: str) -> Path:
    return RESULTS / name.replace(" ", "-")


def _share_facts(results: Path) -> None:
    """Programs are compiled for a kernel, not for a machine: give a machine what others have compiled. The names say
    for which kernel it is (tracer/kernel/cache.py)."""
    own = results / "facts"
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in RESULTS.glob("*/facts/*"):
        if not path.name.startswith(".") and not (own / path.name).exists():
            shutil.copy2(path, own)
