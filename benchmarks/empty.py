"""Keeps an empty BPF program on the raw tracepoints named: says "attached", and ends at the end of its input."""

from __future__ import annotations

import sys
from pathlib import Path

from tracer.errors import NumatraceError
from tracer.kernel.programs import Compilation, Programs

__all__ = ["main"]

SOURCE = Path(__file__).resolve().parent / "empty.bpf.c"


def main() -> None:
    programs = Programs(Compilation([str(SOURCE)], {}))
    try:
        for tracepoint in sys.argv[1:]:
            programs.attach(tracepoint, "empty")
        print("attached", flush=True)
        sys.stdin.read()
    finally:
        programs.close()


if __name__ == "__main__":
    try:
        main()
    except NumatraceError as error:
        raise SystemExit(error.message) from None
