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
from tracer.model.selection import Selection
from tracer.session_roster import Roster
from tracer.session_settle import Budget, Settler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("seed", choices=("walk", "pagemap"))
    args = parser.parse_args()
    notes: list[str] = []
    machinery = Machinery(Options(hooks="tracepoint", reader="walk", seed=args.seed), notes)
    try:
        roster = Roster(Selection((args.pid,)), machinery, Budget(0.05), lambda what, done, total: None)
        roster.begin(held=False)
        (process,) = roster
        settler = process.work
        assert isinstance(settler, Settler)
        elapsed, cpu = time.monotonic_ns(), time.process_time_ns()
        settler.seed()
        cpu, elapsed = time.process_time_ns() - cpu, time.monotonic_ns() - elapsed
        roster.close()
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
