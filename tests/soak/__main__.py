"""`python -m tests.soak`: random operations of several processes, and what numatrace shows of them against numa_maps.

Exit status 1 when anything differs that no doubt is shown of. The report goes to stdout. Root, and the machine to
itself: khugepaged, KSM and NUMA balancing are put to rest meanwhile, and pages are put into the pool of huge pages.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.kernel import machine
from tests.soak.judge import Wrong
from tests.soak.run import MOST_OPERATIONS, Run

HUGE_PAGES = 16
COMMAND_AT = 0.5
"""When `numatrace maps` is tried as well: a part of the whole time."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, help="do again what this seed did (default: one by chance)")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="how many rounds, instead of a time")
    parser.add_argument(
        "--most",
        type=int,
        default=MOST_OPERATIONS,
        help="a thread does at most 2 to the power of this operations in a round (default: %(default)s)",
    )
    return parser.parse_args()


def _go(run: Run, arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    commanded = False

    def done() -> float:
        if arguments.rounds is not None:
            return run.figures.rounds / float(arguments.rounds)
        return (time.monotonic() - began) / float(arguments.seconds)

    while (part := done()) < 1:
        if part >= COMMAND_AT and not commanded:
            run.command()
            commanded = True
        run.round()


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """See the module."""
    arguments = _arguments()
    seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
    _say(f"seed {seed}; again: make soak SEED={seed}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.owned())
        stack.enter_context(machine.quiet())
        stack.enter_context(machine.huge_pages(HUGE_PAGES))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory = stack.enter_context(machine.cached_files(scratch))
        stack.enter_context(machine.swap(directory))
        run = Run(seed, directory, _say, arguments.most)
        stack.callback(run.close)
        try:
            _go(run, arguments)
            wrong = 0
        except Wrong as what:
            _say(f"{what}")
            wrong = 1
        _say(f"\nLinux {os.uname().release}, nodes {machine.nodes_with_memory()}, seed {seed}")
        _say("\n".join([*run.figures.lines(), "", "operation, tried, failed", *run.tallies]))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
