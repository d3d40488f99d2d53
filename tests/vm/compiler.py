"""Compiles what a guest wants compiled: clang takes an emulated processor a minute for what takes this one two seconds.

What it is: `ask`, by which a process of a guest has BPF programs compiled outside, and :class:`Compiler`, which does so
while the guest runs. They meet in the machine's results directory, where a file is complete once it has its name.
What it is not: it knows nothing of the programs; who asks is `tracer.kernel.bpf` (see `guest_site/sitecustomize.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

__all__ = ["Compiler", "ask"]

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.2
PATIENCE_S = 300.0


def ask(results: Path, request: bytes) -> bytes:
    """In the guest: the answer to a request, as `python -m tracer.kernel.bpf` gives it. Raises TimeoutError."""
    name = results / f"compile-{os.getpid()}-{time.monotonic_ns()}"
    _put(name.with_suffix(".request"), request)
    answer = name.with_suffix(".answer")
    limit = time.monotonic() + PATIENCE_S
    while answer.name not in os.listdir(results):
        if time.monotonic() > limit:
            raise TimeoutError("nobody compiles")
        time.sleep(POLL_S)
    content = answer.read_bytes()
    answer.unlink()
    return content


class Compiler:
    """Answers the requests that turn up in a results directory, one after another, until it is left."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Compiler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._over.wait(POLL_S):
            for request in sorted(self._results.glob("compile-*.request")):
                content = request.read_bytes()
                request.unlink()
                _put(request.with_suffix(".answer"), _compile(content))


def _compile(request: bytes) -> bytes:
    # The compiler knows nothing of the kernel that it runs on: all that is asked of it is in the request.
    command = [sys.executable, "-m", "tracer.kernel.bpf"]
    return subprocess.run(command, input=request, stdout=subprocess.PIPE, cwd=REPOSITORY, check=False).stdout


def _put(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.rename(path)
