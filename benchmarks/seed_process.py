"""One seed in a fresh process: attaches the hooks to a target, seeds, and prints what the seeding took as JSON.

A session seeds while it starts, among compiling, loading and attaching; here the parts are taken apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from tracer.errors import NumatraceError
from tracer.kernel.machinery import Machinery, Options
from tracer.session_settle import Settler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("seed", choices=("walk", "pagemap"))
    args = parser.parse_args()
    notes: list[str] = []
    machinery = Machinery(Options(hooks="tracepoint", reader="walk", seed=args.seed), notes)
    try:
        settler = Settler(machinery, args.pid, lambda seconds: False, lambda what, done, total: None)
        # As for a held command, this attaches without seeding.
        settler.begin(held=True)
        elapsed, cpu = time.monotonic_ns(), time.process_time_ns()
        settler._seed()
        cpu, elapsed = time.process_time_ns() - cpu, time.monotonic_ns() - elapsed
        settler.close()
    finally:
        machinery.close()
    if notes:
        raise NumatraceError(f"the seed by {args.seed} was not what it should be: {'; '.join(notes)}")
    print(json.dumps({"cpu_ns": cpu, "elapsed_ns": elapsed}))


if __name__ == "__main__":
    try:
        main()
    except NumatraceError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr)
        raise SystemExit(1) from None
