"""Entry of `make bench`: runs the benchmarks and prints their tables; --write also puts them into docs/overhead.md.

python benchmarks/run.py [--rounds N] [--write] [storm|threads|forks|churn|walk|refresh|seed|startup|recording|live ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python looks for modules beside the script; the packages lie one level up.
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks import (  # noqa: E402
    churn,
    forks,
    live,
    machine,
    migration,
    peers,
    recording,
    refresh,
    seed,
    startup,
    storm,
    threads,
    walk,
    workload,
)
from benchmarks.table import Section, render  # noqa: E402
from tracer.errors import NumatraceError  # noqa: E402


class Benchmark(Protocol):
    """What each of these modules offers. measure: rounds, and a callback with the number of the round that begins."""

    ROUNDS: int

    def measure(self, rounds: int, progress: Callable[[int], None]) -> list[Section]: ...


BENCHMARKS: dict[str, Benchmark] = {
    "storm": storm,
    "threads": threads,
    "forks": forks,
    "churn": churn,
    "walk": walk,
    "refresh": refresh,
    "seed": seed,
    "startup": startup,
    "recording": recording,
    "live": live,
}
WITH_NODES: dict[str, Benchmark] = {"migration": migration}
"""Those that take a machine with several nodes; run by name only (`make bench-vm`)."""

REPORT = ROOT / "docs" / "overhead.md"
HEADING = """# What numatrace costs

Written by `make bench`. Figures are medians over interleaved rounds, with the first and third quartile; ratios are
taken inside one round. A goal is met when the median meets it.

"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)} (default: all), migration"
    )
    parser.add_argument("--rounds", type=int, help="instead of each benchmark's own number")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.relative_to(ROOT)} as well")
    args = parser.parse_args()
    unknown = [name for name in args.benchmarks if name not in BENCHMARKS | WITH_NODES]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if args.write and args.benchmarks:
        parser.error("--write wants all benchmarks")
    return args


def _run(name: str, rounds: int | None) -> list[Section]:
    module = (BENCHMARKS | WITH_NODES)[name]
    total = rounds or module.ROUNDS
    allowed = os.sched_getaffinity(0)
    try:
        return module.measure(total, lambda done: print(f"{name}: round {done + 1} of {total}", file=sys.stderr))
    finally:
        os.sched_setaffinity(0, allowed)


def main() -> int:
    args = _arguments()
    peers.check_installed()
    workload.build()
    sections = [section for name in args.benchmarks or BENCHMARKS for section in _run(name, args.rounds)]
    report = render(sections, machine.facts())
    print(report, end="")
    if args.write:
        REPORT.write_text(HEADING + report)
    return 0


def start() -> int:
    """`main` with errors as one line on stderr; returns the exit code."""
    try:
        return main()
    except NumatraceError as error:
        print(f"{error.message}{'; ' if error.hint else ''}{error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(start())
