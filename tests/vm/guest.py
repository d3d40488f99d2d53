"""Inside a virtual machine: make it ready and run the kernel tests once, in one process.

What it is: the command that `test_vm.py` gives to a machine, `python tests/vm/guest.py RESULTS KEY=VALUE ... [--
PYTEST ARGUMENTS]`. The pairs are what /sys/devices/system/node must say (a machine of another shape than ordered
would test something else). It leaves in RESULTS: `pytest.log` (as it goes), `junit.xml`, `kernel.log`, and what the
tests themselves put there (tables). The exit status is pytest's, or 90 when the machine is not as ordered. What it is
not: it is never run outside of a guest.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NODES = Path("/sys/devices/system/node")
UNFIT = 90
HUGE_PAGES_PER_NODE = 8
SECONDS_PER_TEST = 900


def main() -> int:
    """Check, prepare, run; see the module."""
    results = Path(sys.argv[1])
    words = sys.argv[2:]
    at = words.index("--") if "--" in words else len(words)
    expected = dict(word.split("=", 1) for word in words[:at])
    found = {name: (NODES / name).read_text().strip() for name in expected}
    print(f"guest: Linux {platform.release()}, nodes {found}", flush=True)
    if found != expected:
        print(f"guest: ordered were nodes {expected}")
        return UNFIT
    _mount("tracefs", Path("/sys/kernel/tracing"))
    _mount("hugetlbfs", Path("/dev/hugepages"))
    _rest()
    _huge_pages()
    status = _pytest(results, words[at + 1 :])
    (results / "kernel.log").write_bytes(subprocess.run(["dmesg"], capture_output=True, check=False).stdout)
    return status


def _mount(kind: str, place: Path) -> None:
    """Mount a file system of the kernel's own unless it is mounted there."""
    place.mkdir(exist_ok=True)
    if not os.path.ismount(place):
        subprocess.run(["mount", "-t", kind, kind, str(place)], check=True)


def _rest() -> None:
    """Switch off whatever moves pages by itself; the tests ask for movement when they want it."""
    Path("/proc/sys/kernel/numa_balancing").write_text("0")
    khugepaged = Path("/sys/kernel/mm/transparent_hugepage/khugepaged")
    for name in ("scan_sleep_millisecs", "alloc_sleep_millisecs"):
        (khugepaged / name).write_text("3600000")


def _huge_pages() -> None:
    """Put 2 MiB pages into the pool of every node with memory, while memory is not yet in pieces."""
    for pool in sorted(NODES.glob("node*/hugepages/hugepages-2048kB")):
        if "MemTotal:              0 kB" in (pool.parents[1] / "meminfo").read_text():
            continue
        (pool / "nr_hugepages").write_text(str(HUGE_PAGES_PER_NODE))
        got = int((pool / "nr_hugepages").read_text())
        print(f"guest: {pool.parents[1].name}: {got} huge pages of {HUGE_PAGES_PER_NODE}", flush=True)


def _pytest(results: Path, arguments: list[str]) -> int:
    # The home directory is read-only here; /tmp is in memory and as fresh as on a user's first start.
    scratch = Path("/tmp/numatrace-guest")
    scratch.mkdir()
    environment = {
        **os.environ,
        "NUMATRACE_RESULTS": str(results),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        # A process takes a guest twenty times as long.
        "NUMATRACE_STORM": "300",
        "NUMATRACE_SOAK": "5",
        "NUMATRACE_TEST_VMAS": "10000",
        # Nobody else uses this machine's memory.
        "NUMATRACE_OFFLINE": "1",
        # Programs are compiled outside (compiler.py), and outlive the machine: clang is slow in here.
        "PYTHONPATH": str(REPOSITORY / "tests/vm/guest_site"),
        "NUMATRACE_FACTS": str(results / "facts"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
    }
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"--timeout={SECONDS_PER_TEST}"]
    command += ["--durations=15", f"--basetemp={scratch / 'pytest'}", f"--junitxml={results / 'junit.xml'}"]
    with (results / "pytest.log").open("wb", buffering=0) as log:
        return subprocess.run(
            [*command, *(arguments or ["tests/kernel"])],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
