"""`make accuracy`: every operation on every kernel and every number of nodes, and the table of it in docs/accuracy.md.

`python -m tests.accuracy [MACHINE ...]` runs tests/kernel/test_exact.py with the page-table walk here and in one
virtual machine after the other (all that MACHINES names, an hour or more, or those given), keeps what each left in
.cache/accuracy, and writes the table of all that lies there. `--table` writes the table only. Exit status 1 when a
machine failed. It is no part of `make test`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.accuracy_table import Column, read, write
from tests.vm.compiler import Compiler
from tests.vm.kernels import SERIES, ensure
from tests.vm.machine import REPOSITORY, SHAPES, Machine, until_it_boots

RESULTS = REPOSITORY / ".cache" / "accuracy"
TESTS = ["tests/kernel/test_exact.py", "-k", "walk"]
HOST = "host"
SECONDS = 3600
NODES = {"1-node": "1", "2-nodes": "2", "4-nodes": "4", "8-nodes": "8", "memory-only": "3+1", "tiers": "2+1 slow"}
"""Shape of a virtual machine -> its nodes in a heading: with CPUs, and without."""

MACHINES = [
    HOST,
    *(
        f"{kernel} {shape}"
        for shape in NODES
        for kernel in SERIES
        if (kernel, shape) != ("6.1", "tiers")  # it does not tell slow memory from fast
    ),
]


def column(name: str) -> Column | None:
    """What a machine has left; None if it has not been run."""
    paths = documents(name)
    if not paths:
        return None
    document = read(paths[-1])
    return Column(NODES[name.split(" ")[1]] if name != HOST else str(len(document["nodes"])), document)


def run_here(results: Path) -> int:
    """On the running kernel; pytest's exit status."""
    results.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NUMATRACE_RESULTS": str(results)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode


def run_machine(name: str, results: Path) -> int:
    """In a virtual machine; pytest's exit status there, or why it did not come to one (tests/vm)."""
    series, shape_name = name.split(" ")
    shape = SHAPES[shape_name]
    command = [sys.executable, "tests/vm/guest.py", str(results)]
    command += [f"{key}={value}" for key, value in shape.expected.items()]
    kernel = ensure([series])[series]
    with Compiler(results):
        outcome, _ = until_it_boots(lambda: Machine(kernel, shape, [*command, "--", *TESTS], results, SECONDS))
    return outcome.status


def documents(name: str) -> list[Path]:
    """What a machine has left, the newest last."""
    return sorted((RESULTS / name.replace(" ", "-")).glob("exact-*.json"), key=lambda path: path.stat().st_mtime)


def write_table() -> None:
    """Of all that has been run."""
    columns = {name: column(name) for name in MACHINES}
    missing = [name for name, found in columns.items() if found is None]
    write([found for found in columns.values() if found is not None], missing)
    if missing:
        print(f"accuracy: not run: {', '.join(missing)}")


def main() -> int:
    """Run the machines and write the table."""
    parser = argparse.ArgumentParser(description="Make the table of docs/accuracy.md.")
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=f"of {', '.join(MACHINES)}")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    wanted = arguments.machines or MACHINES
    unknown = sorted(set(wanted) - set(MACHINES))
    if unknown:
        parser.error(f"no machine {unknown[0]!r}: choose from {', '.join(MACHINES)}")
    failed = []
    subprocess.run(["make", "-s", "-C", str(REPOSITORY / "tests/workloads")], check=True)
    for name in () if arguments.table else wanted:
        results = RESULTS / name.replace(" ", "-")
        for old in documents(name):
            old.unlink()
        began = time.monotonic()
        status = run_here(results) if name == HOST else run_machine(name, results)
        print(f"accuracy: {name}: exit status {status}, {time.monotonic() - began:.0f} s", flush=True)
        if status:
            failed.append(name)
    write_table()
    if failed:
        print(f"accuracy: failed: {', '.join(failed)}; see {RESULTS}/MACHINE/pytest.log")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
