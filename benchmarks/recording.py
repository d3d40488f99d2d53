"""What a recording costs while it is made, how large it gets, and how soon any moment of a long one can be seen."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.made_up import INFO, VMAS, Server
from benchmarks.mappings import Mappings
from benchmarks.session_process import ROOT
from benchmarks.startup import COMMAND, first_line
from benchmarks.table import Section
from benchmarks.used import cpu_seconds
from tracer.errors import NumatraceError
from tracer.record.recorder import Recorder

__all__ = ["ROUNDS", "measure"]

ROUNDS = 3
WARM_S, WATCHED_S = 3.0, 20.0
CHANGE_S = 0.2
HOUR_S, DAY_S = 3600, 86_400
SEEKS = 20
MB = 1e6

COST_METHOD = (
    f"`numatrace record` with all defaults (a sample each second, with flows and faults) on a process of {VMAS} VMAs "
    f"that changes its VMA list every {CHANGE_S:g} s: CPU time of all its threads in {WATCHED_S:g} s, as a share of "
    "one core. Beside it, at the same time, a loop that appends numa_maps to a file each second, with the CPU time "
    "that the kernel spends for it."
)
SIZE_METHOD = (
    f"A made-up server of {VMAS} VMAs on four nodes with a sample each second (benchmarks/made_up.py): a few areas "
    "change each second, one comes and one goes every ten, NUMA balancing is busy for half a minute in ten."
)
SEEK_METHOD = (
    f"A day of that. Opening it and seeing the whole placement at a moment chosen at random, the median and the worst "
    f"of {SEEKS}, in a process that has read nothing of it before; and `numatrace maps FILE --at TIME` from its start "
    "to its first byte."
)
LOOP = """
import sys, time
with open(sys.argv[2], "ab") as out:
    while True:
        time.sleep(1)
        with open(f"/proc/{sys.argv[1]}/numa_maps", "rb") as numa_maps:
            out.write(numa_maps.read())
            out.flush()
"""
SEEK = """
import sys, time
import tracer.record.recording as recordings
begin = time.monotonic_ns()
with recordings.open_recording(sys.argv[1]) as recording:
    recording.at(int(len(recording) * float(sys.argv[2])))
print((time.monotonic_ns() - begin) / 1e6)
"""


def _watched(target: Mappings, pids: list[int]) -> list[float]:
    """CPU seconds that each of the processes uses while the target changes."""
    _change(target, WARM_S)
    before = [cpu_seconds(pid) for pid in pids]
    _change(target, WATCHED_S)
    return [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]


def _change(target: Mappings, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        target.change()
        time.sleep(CHANGE_S)


def _cost(target: Mappings, directory: Path) -> tuple[float, float]:
    """Shares of one core: of `numatrace record`, and of the loop."""
    output = directory / "cost.parquet"
    command = [*COMMAND, "record", "-p", str(target.pid), "-o", str(output), "-f", "-q"]
    loop = [COMMAND[0], "-c", LOOP, str(target.pid), str(directory / "loop.txt")]
    with ExitStack() as stack:
        recorder = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
        peer = stack.enter_context(subprocess.Popen(loop))
        used = _watched(target, [recorder.pid, peer.pid])
        recorder.terminate()
        peer.terminate()
        if recorder.wait():
            raise NumatraceError(f"numatrace record ended with exit code {recorder.returncode}")
    return used[0] / WATCHED_S, used[1] / WATCHED_S


def _make(output: Path, seconds: int) -> tuple[float, float]:
    """Megabytes, and milliseconds of CPU time for one sample."""
    server = Server()
    recorder = Recorder(str(output), INFO, force=True)
    used = 0
    for sample in server.samples(seconds):
        begin = time.process_time_ns()
        recorder.write(sample)
        used += time.process_time_ns() - begin
    begin = time.process_time_ns()
    recorder.close()
    used += time.process_time_ns() - begin
    return output.stat().st_size / MB, used / 1e6 / seconds


def _seek(path: Path, where: float) -> float:
    """Milliseconds to open the recording and see one moment."""
    python = COMMAND[0]
    done = subprocess.run(
        [python, "-c", SEEK, str(path), str(where)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _any_moment(day: Path, rounds: int, progress: Callable[[int], None]) -> Section:
    chance = random.Random(7)
    series = defaultdict(list)
    for round_ in range(rounds):
        progress(round_)
        times = [_seek(day, chance.random()) for _ in range(SEEKS)]
        series["median"].append(median(times))
        series["worst"].append(max(times))
        at = f"+{chance.randrange(DAY_S - 1)}s"
        series["maps"].append(first_line([*COMMAND, "maps", str(day), "--at", at, "-q"]))
    section = Section("Any moment of a recorded day", SEEK_METHOD)
    section.add("open and see it, median", series["median"], "ms", 1000)
    section.add("open and see it, worst", series["worst"], "ms", 1000)
    section.add("numatrace maps FILE --at", series["maps"], "ms", 1000)
    return section


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """Sections: cost, size, seeking."""
    cost = Section("Recording", COST_METHOD)
    size = Section("Size of a recording", SIZE_METHOD)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Mappings(VMAS) as target:
            shares = [_cost(target, directory) for _ in range(rounds)]
        cost.add("numatrace record", (100 * own for own, _ in shares), "% of a core", 1)
        cost.add("appending numa_maps", (100 * loop for _, loop in shares), "% of a core")
        text = (directory / "loop.txt").stat().st_size / (rounds * (WARM_S + WATCHED_S)) * HOUR_S / MB
        hour, each = _make(directory / "hour.parquet", HOUR_S)
        size.add("one hour", [hour], "MB", 5)
        size.add("CPU time of a sample, encoding and writing", [each], "ms")
        day, _ = _make(directory / "day.parquet", DAY_S)
        size.add("one day", [day], "MB")
        size.add("appending numa_maps, one hour", [text], "MB")
        seeking = _any_moment(directory / "day.parquet", rounds, progress)
    return [cost, size, seeking]
