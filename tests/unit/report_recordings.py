"""Small recordings for the tests of reports: written by the real recorder, read by the real reader."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from tests.unit.snapshots import REASONS, TIME, faults, flows, regions, sample, snapshot, vma
from tracer.model.events import Kind as Fault
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Regions, Snapshot
from tracer.model.vma import Kind, Vma
from tracer.record.recorder import Recorder
from tracer.record.recording import Recording, open_recording
from tracer.record.schema import Info
from tracer.report.gather import gather
from tracer.report.history import History

__all__ = ["HOSTILE", "INFO", "at", "crowd", "history", "hostile", "lives", "opened", "record", "story"]

INFO = Info(node_ids=(0, 1), reasons=REASONS, flows=True, faults=True, host="db1", kernel="6.12.0", targets=("42",))
MIB = 256
"""Pages."""

HOSTILE = (
    b"</title></svg></style><script>window.__pwned=1</script>",
    b"<img src=x onerror=window.__pwned=1>",
    b"\"'><svg onload=window.__pwned=1>",
    b"$\\frac{1}{0}$ $a_b^c$ $unclosed {{ 7*7 }} {% raw %}",
    b"]]><!-- &lt;&amp; &#0; \xef\xbf\xbf-->",
    "/srv/\u202egnp.exe\u2066/\u05d0\u05d1 \u4e2d\u6587 \U0001f600".encode(),
    b"/tmp/\xff\xfe\x80 \x1b[31mred\x07\x00\x01\x7f\t\r",
    b"/" + b"d" * 250 + b"/" + b"n" * 4000,
    b"javascript:window.__pwned=1",
)


def at(second: float) -> dict[str, object]:
    """The field `time` of a sample."""
    return {"time": TIME + timedelta(seconds=second)}


def record(path: Path, samples: Iterable[Sample], info: Info = INFO) -> Path:
    """A recording of these samples."""
    recorder = Recorder(str(path), info, force=True)
    for it in samples:
        recorder.write(it)
    recorder.close("the test")
    return path


@contextmanager
def opened(path: Path, samples: Iterable[Sample], info: Info = INFO) -> Iterator[Recording]:
    """The same, open for reading."""
    with open_recording(record(path, samples, info)) as recording:
        yield recording


def history(directory: Path, samples: Iterable[Sample], info: Info = INFO) -> History:
    """What a report knows of these samples."""
    with opened(directory / "x.parquet", samples, info) as recording:
        return gather(recording)


def story() -> list[Sample]:
    """A minute: memory comes, moves by NUMA balancing, one area goes, and a second process ends."""
    heap, pool = vma(0x5500_0000_0000, 64 * MIB, kind=Kind.HEAP, path=b"[heap]"), _pool()
    file = vma(0x7F20_0000_0000, 8 * MIB, kind=Kind.FILE, path=b"/var/lib/db/16384")
    other = (vma(0x7F30_0000_0000, MIB, path=b"[anon:worker]"),)
    samples = []
    for second in range(60):
        moved = max(0, min(second - 20, 20)) * 4 * MIB
        rows = [(min(second, 32) * MIB, 0), (100 * MIB - moved, 100 * MIB + moved), (0, 8 * MIB)]
        vmas = [heap, pool, file][: 2 if second > 50 else 3]
        events = [(1, 0, 1, 2, 4 * MIB, 3)] if 20 < second <= 40 else []
        first = [(0, 0, 0, int(Fault.NEW), 0, MIB)] if 0 < second <= 32 else []
        first += [(1, 1, 0, int(Fault.HUGE), 0, 2)] if second == 5 else []
        main = snapshot(vmas, rows[: len(vmas)], flows=flows(events), faults=faults(first), **at(second))  # type: ignore[arg-type]
        worker = snapshot(other, [(0, MIB)], pid=43, comm=b"worker", flows=flows(), faults=faults(), **at(second))  # type: ignore[arg-type]
        live = (main, worker) if second < 45 else (main,)
        ended = (worker,) if second == 45 else ()
        counts = np.array([5, 0, sum(event[4] for event in events)], np.int64)
        samples.append(sample(*live, ended=ended, reasons=REASONS, migrated=counts, failed=counts // 5, **at(second)))
    return samples


def _pool() -> Vma:
    return vma(0x7F00_0000_0000, 512 * MIB, path=b"[anon:buffer pool]", policy=Policy(Mode.INTERLEAVE, 0, (0, 1)))


def hostile(names: Sequence[bytes] = HOSTILE) -> list[Sample]:
    """Everything that somebody else chooses is hostile: names of areas and of the process, reasons."""
    vmas = [
        vma(0x7F00_0000_0000 + index * (1 << 30), 16 * MIB, path=name.replace(b"\n", rb"\012"), kind=Kind.FILE)
        for index, name in enumerate(names)
    ]
    samples = []
    for second in range(4):
        rows = [(index * MIB + second * MIB, 3 * MIB) for index in range(len(vmas))]
        events = flows([(index, 0, 1, index % 3, MIB, 1) for index in range(len(vmas))])
        events = replace(events, reasons=("<script>window.__pwned=1</script>", "$x^{2$", "a&b"))
        touched = faults([(index, 0, 1, 0, 0, 10) for index in range(len(vmas))])
        comms = (b"<i onclick=1>$a$", b"\xff\xfe\x1b]0;x\x07")
        shots = [
            snapshot(vmas, rows, pid=50 + place, comm=comm, flows=events, faults=touched, **at(second))  # type: ignore[arg-type]
            for place, comm in enumerate(comms)
        ]
        samples.append(sample(*shots, **at(second)))
    return samples


def crowd(nodes: int, count: int = 8) -> tuple[list[Sample], Info]:
    """Many nodes: memory on each, and flows from each to its neighbour."""
    ids = tuple(range(0, 2 * nodes, 2))
    vmas = [vma(0x7F00_0000_0000 + index * (1 << 32), 64 * MIB) for index in range(count)]
    samples = []
    for second in range(5):
        rows = [[(node * 7 + index * 3 + second) % 11 * MIB // 4 for node in range(nodes)] for index in range(count)]
        events = flows([(0, node, ids[(place + 1) % nodes], 2, MIB, 0) for place, node in enumerate(ids)])
        touched = faults([(0, node, node, 0, 0, 100) for node in ids])
        shot = snapshot(vmas, rows, ids, flows=events, faults=touched, **at(second))  # type: ignore[arg-type]
        samples.append(sample(shot, **at(second)))
    return samples, replace(INFO, node_ids=ids)


# --- at random ---


def lives(seed: int, count: int = 40, with_regions: bool = False) -> list[Sample]:
    """Processes come, execute others and end; their areas come, grow, change and go. Key frames are frequent."""
    chance = random.Random(seed)
    processes: dict[int, dict[int, tuple[Vma, list[int]]]] = {1: {}}
    samples, now = [], 0.0
    for _ in range(count):
        now += chance.choice((0.5, 1.0, 1.0, 25.0, 61.0))
        ended = []
        for pid in list(processes):
            if chance.random() < 0.06:
                ended.append(_shot(chance, pid, processes.pop(pid), now, with_regions))
        if chance.random() < 0.4 or ended:
            processes.setdefault(chance.choice((1, 2, 3)), {})
        for areas in processes.values():
            _change(chance, areas)
        shots = [_shot(chance, pid, areas, now, with_regions) for pid, areas in sorted(processes.items())]
        samples.append(sample(*shots, ended=tuple(ended), reasons=REASONS, **at(now)))
    return samples


def _change(chance: random.Random, areas: dict[int, tuple[Vma, list[int]]]) -> None:
    for slot in range(8):
        start = 0x7F00_0000_0000 + slot * (64 << 20)
        if chance.random() < 0.15:
            areas.pop(start, None)
        elif chance.random() < 0.3:
            policy = Policy(Mode.INTERLEAVE, 0, (0, 1)) if chance.random() < 0.2 else Policy(Mode.DEFAULT)
            area = vma(start, chance.randint(1, 8) * 2 * MIB, policy, path=b"/f%d" % slot * (slot % 2), kind=Kind.FILE)
            areas[start] = (replace(area, hugetlb=slot == 7, page_kb=2048 if slot == 7 else 4), [0, 0])
        if start in areas and chance.random() < 0.7:
            areas[start] = (areas[start][0], [chance.randint(0, 200), chance.choice((0, chance.randint(0, 300)))])


def _shot(
    chance: random.Random, pid: int, areas: dict[int, tuple[Vma, list[int]]], now: float, with_regions: bool
) -> Snapshot:
    vmas = [area for _, (area, _) in sorted(areas.items())]
    rows = [counts for _, (_, counts) in sorted(areas.items())]
    moved, touched = [], []
    for row in range(-1, len(vmas)):
        if chance.random() < 0.3:
            moved.append((row, *chance.choice(((0, 1), (1, 0), (1, 1))), chance.randrange(3), chance.randint(0, 9), 1))
        if chance.random() < 0.3:
            touched.append((row, chance.randrange(2), chance.choice((-1, 0, 1)), chance.randrange(6), 0, 3))
    spans = _spans(vmas, rows) if with_regions else None
    return snapshot(
        vmas,
        rows,
        pid=pid,
        comm=b"p%d" % pid,
        flows=flows(moved),
        faults=faults(touched),
        regions=spans,
        **at(now),  # type: ignore[arg-type]
    )


def _spans(vmas: Sequence[Vma], rows: Sequence[Sequence[int]]) -> Regions:
    """What is on node 0 lies at the beginning of an area, what is on node 1 in its second region."""
    spans = []
    for area, (first, second) in zip(vmas, rows, strict=True):
        spans += [(area.start, first, 0)] * bool(first)
        beyond = min(area.start + (2 << 20), area.end - area.page_kb * 1024)
        spans += [(beyond, 0, second)] * bool(second and beyond > area.start)
    return regions(spans)
