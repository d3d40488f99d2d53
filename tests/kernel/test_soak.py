"""A minute of the soak (`make soak` runs ten): random operations, held against numa_maps whenever they stop.

`NUMATRACE_SOAK` is the number of rounds; the seed is another one each time, and is told where something differs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.soak.run import Run

ROUNDS = int(os.environ.get("NUMATRACE_SOAK", "100"))


def test_random_operations_of_threads_and_processes(
    quiet_machine: None, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = secrets.randbelow(1 << 32)
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.swap(files))
        run = Run(seed, files, lambda _: None)
        stack.callback(run.close)
        for _ in range(ROUNDS):
            run.round()
        run.command()
    with capsys.disabled():
        print(f"\nsoak with seed {seed}:", *run.figures.lines(), sep="\n")
    assert run.figures.pages > 0
    assert run.figures.off == 0
    assert run.figures.by_command > 0
