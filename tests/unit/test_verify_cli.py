"""`numatrace verify` with a session that plays back, and a kernel's file made up: what it says, and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.fake_session import Script, Step, session_module
from tests.unit.snapshots import sample, snapshot, vma
from tests.unit.test_json_streams import check
from tracer.cli import verifier
from tracer.cli.main import main
from tracer.kernel import freezer, thaw
from tracer.kernel.procfs import TargetGone
from tracer.model.comparison import Area
from tracer.model.policy import Mode, Policy
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind
from tracer.session_check import Unsettled

Capture = pytest.CaptureFixture[str]
Kernel = Callable[[int, bool], list[Area] | None]

AREAS = [
    vma(0x400000, 16, Policy(Mode.BIND, 0, (0, 1)), Kind.FILE, b"/a b\x1b\xff"),
    vma(0x7F0000000000, 1024),
]


def shot(first: int = 7, pid: int = 42, reader: str = "walk") -> Snapshot:
    return replace(snapshot(AREAS, [(first, 1), (0, 20)], pid=pid), reader=reader)


def told_by(snapshots: Sequence[Snapshot]) -> Kernel:
    """A kernel that says what these snapshots say, one for each time it is asked; the last one again and again."""
    left = list(snapshots)

    def kernel(pid: int, full: bool) -> list[Area] | None:
        return verifier.our_areas(left.pop(0) if len(left) > 1 else left[0], full)

    return kernel


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(words: str, steps: Sequence[Step], kernel: Kernel, **script: Any) -> int:
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(Script(steps=steps, **script)))
        monkeypatch.setattr(verifier, "kernel_areas", kernel)
        return main(["verify", *words.split()])

    return run


def test_all_equal(run: Callable[..., int], capfd: Capture) -> None:
    assert run("-p 42", [shot()], told_by([shot()])) == 0
    out, err = capfd.readouterr()
    assert out == "all equal: 2 VMAs, 28 pages on 2 nodes\n"
    assert err.count("\n") == 1
    assert err.startswith("# 2025-03-01T12:00:00.250Z pid=42")


def test_quiet_says_nothing_on_stderr(run: Callable[..., int], capfd: Capture) -> None:
    assert run("-q -p 42", [shot()], told_by([shot()])) == 0
    assert capfd.readouterr().err == ""


def test_a_difference_is_a_table_and_exit_code_1(run: Callable[..., int], capfd: Capture) -> None:
    assert run("-q -p 42", [shot()], told_by([shot(5)])) == 1
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "# different: 1 of 2 VMAs, 26 pages on 2 nodes",
        "VMA            FIELD      NUMATRACE    KERNEL    DIFFERENCE  NAME",
        r"400000-410000  N0                 7         5            +2  /a\040b\033\377",
    ]
    assert err == ""


def test_a_difference_that_was_there_at_one_look_is_kept(run: Callable[..., int], capfd: Capture) -> None:
    """The other area is changing, so that there is another look, at which the first one is right again."""
    moving = [Unsettled(np.array([0x7F0000000000 >> 21])), Unsettled(np.empty(0, np.int64))]
    kernel = told_by([shot(5), shot()])
    code = run("-q -p 42", [shot()], kernel, unsettled=lambda pid: moving.pop(0) if len(moving) > 1 else moving[0])
    assert code == 1
    assert capfd.readouterr().out.startswith("# different: 1 of 2 VMAs")


def test_what_was_changing_is_looked_at_again(run: Callable[..., int], capfd: Capture) -> None:
    """The snapshot before the kernel's file and the one after it differ at first."""
    assert run("-q -p 42 --format json", [shot(5), shot(6), shot()], told_by([shot(6), shot()])) == 0
    (line,) = check(capfd.readouterr().out)
    assert line["looks"] > 1
    assert line["equal"]


def test_what_never_rests_is_no_difference_but_exit_code_1(run: Callable[..., int], capfd: Capture) -> None:
    everywhere = Unsettled(np.array([0x400000 >> 21]))
    assert run("-p 42 -q --timeout 0.01", [shot()], told_by([shot(5)]), unsettled=lambda pid: everywhere) == 1
    out, err = capfd.readouterr()
    assert out.startswith("# equal so far: 1 VMA, 20 pages on 1 node\n# not compared: 1 VMA that kept changing for 0.")
    assert out.splitlines()[2:] == [
        "VMA            CHANGING    NAME",
        r"400000-410000  pages       /a\040b\033\377",
    ]
    assert err.startswith("numatrace: could not compare 1 of 2 VMAs, which kept changing for 0.")
    assert "--freeze" in err


def test_what_no_event_located_is_nothing_to_compare(run: Callable[..., int], capfd: Capture) -> None:
    doubt = Unsettled(np.empty(0, np.int64), everything="changes that no event located")
    code = run("-p 42 --format json --timeout 0.01", [shot()], told_by([shot(5)]), unsettled=lambda pid: doubt)
    assert code == 1
    (line,) = check(capfd.readouterr().out)
    assert {it["changing"] for it in line["targets"][0]["not_compared"]} == {"changes that no event located"}
    assert not line["targets"][0]["differences"]


def test_a_list_that_cannot_be_read_in_one_piece(run: Callable[..., int], capfd: Capture) -> None:
    assert run("-q -p 42 --timeout 0.01", [shot()], lambda pid, full: None) == 1
    assert "# not compared: 2 VMAs" in capfd.readouterr().out


def test_a_name_may_be_late_but_not_for_ever(run: Callable[..., int], capfd: Capture) -> None:
    renamed = replace(shot(), vmas=(replace(AREAS[0], path=b"/a (deleted)"), AREAS[1]))
    assert run("-q -p 42", [shot(), shot(), renamed], told_by([renamed])) == 0
    assert run("-q -p 42 --timeout 0.01", [shot()], told_by([renamed])) == 1
    out = capfd.readouterr().out.splitlines()
    assert out[0].startswith("all equal")
    assert "name" in out[3].split()


def test_several_processes(run: Callable[..., int], capfd: Capture) -> None:
    both = sample(shot(), shot(pid=43))
    kernel: Kernel = lambda pid, full: verifier.our_areas(shot(7 if pid == 42 else 9), full)  # noqa: E731
    assert run("-q -p 42 -p 43", [both], kernel) == 1
    out = capfd.readouterr().out
    assert out.startswith("# different: 1 of 4 VMAs, 58 pages on 2 nodes, in 2 processes\n  PID  VMA")
    assert out.splitlines()[2].split()[:3] == ["43", "400000-410000", "N0"]


def test_who_ends_meanwhile_is_left_out(run: Callable[..., int], capfd: Capture) -> None:
    def kernel(pid: int, full: bool) -> list[Area] | None:
        if pid == 43:
            raise TargetGone("process 43 is gone")
        return verifier.our_areas(shot(), full)

    assert run("-q -p 42 -p 43", [sample(shot(), shot(pid=43)), shot()], kernel) == 0
    assert capfd.readouterr().out == "all equal: 2 VMAs, 28 pages on 2 nodes\n"


def test_again_and_again(run: Callable[..., int], capfd: Capture) -> None:
    told = told_by([shot(), shot(5), shot()])
    assert run("-q -p 42 --every 0.01 --count 3", [shot()], told) == 1
    out = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in (out[0], out[1], out[4])] == ["all equal", "# different", "all equal"]
    assert out[-1] == "# 3 comparisons: 2 all equal, 1 different, 0 incomplete"


def test_until_the_targets_end(run: Callable[..., int], capfd: Capture) -> None:
    steps = [shot()] * 4 + [TargetGone("process 42 has exited")]
    assert run("-q -p 42 --every 0.01", steps, told_by([shot()])) == 0
    assert capfd.readouterr().out.endswith("# 2 comparisons: 2 all equal, 0 different, 0 incomplete\n")


def test_lines_of_json(run: Callable[..., int], capfd: Capture) -> None:
    assert run("-q -p 42 --count 2 --every 0.01 --format json", [shot()], told_by([shot(), shot(5)])) == 1
    first, second = check(capfd.readouterr().out)
    assert (first["comparison"], first["equal"], first["complete"], first["frozen"]) == (1, True, True, False)
    assert (first["vmas"], first["pages"], first["nodes"]) == (2, 28, {"0": 7, "1": 21})
    assert (second["comparison"], second["equal"], second["complete"]) == (2, False, True)
    (difference,) = second["targets"][0]["differences"]
    assert difference == {
        "start": "400000",
        "end": "410000",
        "name": "/a b\x1b\\xff",
        "name_hex": b"/a b\x1b\xff".hex(),
        "field": "N0",
        "numatrace": 7,
        "kernel": 5,
        "difference": 2,
    }
    json.dumps(second)


def test_the_kernels_file_is_not_compared_with_itself(run: Callable[..., int], capfd: Capture) -> None:
    assert run("-p 42 --reader numa_maps", [shot()], told_by([shot()])) == 2
    assert "reads that very file" in capfd.readouterr().err
    assert run("-p 42", [shot(reader="numa_maps")], told_by([shot()])) == 1
    assert "run as root" in capfd.readouterr().err


class Frozen:
    """In place of the watcher and the freezer: who was held, and when."""

    def __init__(self, *arguments: object) -> None:
        held.append(arguments[0] if arguments else "watcher")

    def __enter__(self) -> Frozen:
        return self

    def __exit__(self, *_: object) -> None:
        held.append("let go")

    def frozen(self, pids: Any) -> Frozen:
        held.append(list(pids))
        return self


held: list[Any] = []


@pytest.mark.parametrize(("option", "how"), [("--freeze", "cgroup"), ("--freeze=stop", "stop")])
def test_targets_are_held_for_the_comparison_only(
    option: str, how: str, run: Callable[..., int], capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.clear()
    monkeypatch.setattr(freezer, "Freezer", Frozen)
    monkeypatch.setattr(thaw, "Watcher", Frozen)
    both = sample(shot(), shot(pid=43))
    assert run(f"-q -p 42 -p 43 {option} --format json", [both], told_by([shot()])) == 0
    (line,) = check(capfd.readouterr().out)
    assert line["frozen"]
    assert held == ["watcher", how, [42, 43], "let go", "let go"]


def test_nobody_is_held_unless_it_is_asked_for(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    held.clear()
    monkeypatch.setattr(freezer, "Freezer", Frozen)
    monkeypatch.setattr(thaw, "Watcher", Frozen)
    assert run("-q -p 42", [shot()], told_by([shot()])) == 0
    assert held == []
