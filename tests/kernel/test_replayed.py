"""What a recording says of each of its samples equals what the kernel's file said at that moment, field by field."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.operations import OPERATIONS
from tests.kernel.steady import kernel_lines, steady
from tests.kernel.target import Target
from tests.kernel.world import KernelLacks, World
from tracer.kernel.numa_maps import parse_numa_maps
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.record.recorder import Recorder
from tracer.record.recording import open_recording
from tracer.record.schema import Info
from tracer.render import numa_maps
from tracer.session import Options, Session

EVERYTHING = Options(hooks="tracepoint", reader="walk", details=True, flows=True, faults=True, regions=True)
STOPS = 6
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass
class Recorded:
    """A session that is recorded. At each `look` the kernel's file is read as well, and kept under the number of the
    sample."""

    session: Session
    recorder: Recorder
    samples: int = 0
    truth: dict[int, list[bytes]] = field(default_factory=dict)
    kernel: Callable[[int], list[bytes]] = kernel_lines

    def look(self, pid: int) -> None:
        """Of a process at rest. Samples are recorded until the kernel's file was the same before and after one."""
        lines, number = steady(pid, self._sample, self.kernel)
        self.truth[number] = lines

    def _sample(self) -> int:
        self.recorder.write(self.session.refresh())
        self.samples += 1
        return self.samples - 1


def _info(session: Session) -> Info:
    sample = session.refresh()
    return Info(node_ids=sample.node_ids, details=True, flows=True, faults=True, regions=True)


@contextlib.contextmanager
def _recorded(pid: int, output: Path) -> Iterator[Recorded]:
    with Session(pid, EVERYTHING) as session:
        recorder = Recorder(str(output), _info(session))
        yield Recorded(session, recorder)
        recorder.close()


def _assert_replay_equals(output: Path, recorded: Recorded, shared: bool) -> None:
    """shared: the libraries of the target are those of other processes, too."""
    wrong: list[str] = []
    with open_recording(output) as recording:
        assert len(recording) == recorded.samples
        streamed = dict(enumerate(recording.samples()))
        for number, lines in recorded.truth.items():
            for way, sample in (("at", recording.at(number)), ("samples", streamed[number])):
                wrong += [f"sample {number} by {way}: {line}" for line in _unequal(lines, sample, shared)]
    assert not wrong, "\n".join(wrong)


def _unequal(kernel: list[bytes], sample: Sample, shared: bool) -> Iterator[str]:
    snapshot = sample.only
    ours = list(numa_maps.lines(snapshot, full=True))
    if shared:
        ours = [_alone(line) for line in ours]
    if ours != kernel:
        yield from (f"kernel {one!r} ours {other!r}" for one, other in zip(kernel, ours, strict=False) if one != other)
        yield f"{len(kernel)} lines and {len(ours)}"
    by_region = _sums_of_regions(snapshot)
    for row, line in enumerate(parse_numa_maps(b"\n".join(kernel) + b"\n")):
        theirs = [line.nodes.get(node, 0) for node in snapshot.node_ids]
        if by_region[row].tolist() != theirs:
            yield f"{line.start:x}: kernel {theirs}, sum of regions {by_region[row].tolist()}"


def _alone(line: bytes) -> bytes:
    """Without what others change that run the same libraries: how many map a page, and whether it is active."""
    return re.sub(rb" (mapmax|active)=\d+", b"", line)


def _kernel_alone(pid: int) -> list[bytes]:
    return [_alone(line) for line in kernel_lines(pid)]


def _sums_of_regions(snapshot: Snapshot) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    assert snapshot.regions is not None
    ends = np.array([vma.end for vma in snapshot.vmas], np.int64)
    sums = np.zeros((len(ends), len(snapshot.node_ids)), np.int64)
    np.add.at(sums, np.searchsorted(ends, snapshot.regions.address, "right"), snapshot.regions.pages)
    return sums


MOVING = (
    "touch",
    "THP",
    "COW after fork",
    "mbind split",
    "mbind modes",
    "mbind of shmem",
    "mbind MPOL_MF_MOVE",
    "mbind MPOL_MF_MOVE of THP",
    "mremap move",
    "exec",
)
"""Operations about nodes, policies and new memory: enough for an emulated machine, which needs seconds for a sample."""


@pytest.mark.parametrize("names", [MOVING, tuple(OPERATIONS)], ids=["moving", "every"])
def test_replay_of_operations(
    names: tuple[str, ...], quiet_machine: None, nodes: list[int], files: Path, tmp_path: Path
) -> None:
    output = tmp_path / "operations.parquet"
    with Target(static=True) as target, _recorded(target.pid, output) as recorded:
        for name in names:
            world = World(target, nodes, files)
            try:
                for _step in OPERATIONS[name](world):
                    recorded.look(target.pid)
            except KernelLacks:
                pass
            finally:
                world.clear()
    assert len(recorded.truth) >= len(names)
    _assert_replay_equals(output, recorded, shared=False)


def _stopped(process: subprocess.Popen[bytes]) -> bool:
    """Stop it, and wait until it has. False where it has ended."""
    os.kill(process.pid, signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return True
    process.returncode = os.waitstatus_to_exitcode(status)
    return False


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_replay_of_every_example(example: str, quiet_machine: None, tmp_path: Path) -> None:
    output = tmp_path / "example.parquet"
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / example)], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        time.sleep(0.03)  # it is Python already; how far it has come does not matter
        assert _stopped(process), "it has ended before anything could be seen"
        with _recorded(process.pid, output) as recorded:
            recorded.kernel = _kernel_alone
            for turn in range(STOPS):
                recorded.look(process.pid)
                os.kill(process.pid, signal.SIGCONT)
                recorded.session.wait(0.03 * 2**turn)
                if not _stopped(process):
                    break
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    assert recorded.truth
    _assert_replay_equals(output, recorded, shared=True)
