"""`numatrace verify` and `--check` on a real process: right on one at rest, wrong when a hook is missing or a counter
was spoilt, and nothing is left frozen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.cgroups import enter, mounted, remove
from tests.kernel.compare import difference
from tests.kernel.target import Target, read_truth
from tests.kernel.test_hooks_needed import settler, small_pages
from tests.kernel.world import HUGE, PAGE, World
from tests.unit.test_json_streams import check
from tracer.cli.main import main
from tracer.errors import NumatraceError
from tracer.kernel import hooks as module
from tracer.kernel.freezer import CGROUP, HIERARCHIES, STOP, Freezer
from tracer.kernel.processes import cgroup_of
from tracer.kernel.thaw import FREEZE_V1, FREEZE_V2, Watcher
from tracer.session import Options, Session
from tracer.session_settle import Settler

DONT_NEED = 4  # madvise(2)
CHECKED = Options(hooks="tracepoint", reader="walk", check=1.0)
WAYS = [(CGROUP, FREEZE_V2), (CGROUP, FREEZE_V1), (STOP, "")]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        it = World(target, nodes, files)
        yield it
        it.clear()


@pytest.fixture
def rss_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not tell RSS exactly. Where it does, RSS finds wrong sums at once, and an audit mends them."""
    monkeypatch.setattr(Settler, "_rss_doubt", lambda self, glance: False)


def verify(world: World, *words: str) -> int:
    return main(["verify", "-p", str(world.pid), *words])


# --- verify ---


def test_a_process_at_rest_is_equal(world: World, capfd: Capture) -> None:
    small_pages(world, HUGE)
    world.write(0, HUGE)
    world.map(2 * HUGE, HUGE)
    assert verify(world, "--full", "--format", "json", "-q") == 0
    (line,) = check(capfd.readouterr().out)
    truth = world.truth()
    assert line["vmas"] == len(truth.areas)
    assert line["pages"] == sum(sum(area.line.nodes.values()) for area in truth.areas)
    assert line["pages"] >= HUGE // PAGE


@pytest.mark.usefixtures("rss_is_not_known")
def test_a_hook_that_is_missing_is_noticed(world: World, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are given back between the two comparisons, and nothing tells of it."""
    monkeypatch.setattr(module, "REQUIRED", tuple(hook for hook in module.REQUIRED if hook[0] != "rss_stat"))
    small_pages(world, HUGE)
    world.write(0, HUGE)
    compared: list[bool] = []
    wait = Session.wait

    def give_back(session: Session, seconds: float) -> bool:
        if not compared:
            world.advise(0, HUGE, DONT_NEED)
            compared.append(True)
        return wait(session, 0.0)

    monkeypatch.setattr(Session, "wait", give_back)
    assert verify(world, "--count", "2", "--every", "0.01", "--reader", "walk", "--format", "json", "-q") == 1
    before, after = check(capfd.readouterr().out)
    assert before["equal"]
    assert not after["equal"]
    assert after["complete"]
    found = after["targets"][0]["differences"]
    (start,) = {it["start"] for it in found}
    assert int(start, 16) == world.address(0)
    assert sum(it["difference"] for it in found if it["field"].startswith("N")) == HUGE // PAGE
    assert all(it["kernel"] in (0, None) for it in found)


@pytest.mark.parametrize("freeze", ["--freeze", "--freeze=stop"])
def test_a_storm_is_equal_while_it_is_held(freeze: str, storm: World, capfd: Capture) -> None:
    home = cgroups_of(storm.pid)
    assert verify(storm, freeze, "--count", "3", "--every", "0.05", "--format", "json", "-q") == 0
    lines = check(capfd.readouterr().out)
    assert [line["equal"] for line in lines] == [True] * 3
    assert all(line["frozen"] for line in lines)
    wait_until_it_runs(storm.pid)
    assert cgroups_of(storm.pid) == home


def test_a_storm_that_is_not_held_shows_no_difference(storm: World, capfd: Capture) -> None:
    """What changes is not compared; whatever is compared is equal."""
    verify(storm, "--count", "3", "--every", "0.05", "--timeout", "0.5", "--format", "json", "-q")
    lines = check(capfd.readouterr().out)
    assert len(lines) == 3
    assert not [it for line in lines for it in line["targets"][0]["differences"]]
    assert all(line["vmas"] for line in lines)


def test_a_command_is_compared_as_it_goes(quiet_machine: None, hierarchies: None, capfd: Capture) -> None:
    assert main(["verify", "-q", "--format", "json", "--every", "0.05", "--freeze", "--", "sleep", "0.5"]) == 0
    lines = check(capfd.readouterr().out)
    assert lines
    assert all(line["equal"] for line in lines)


# --- the freezer ---


@pytest.mark.parametrize(("how", "switch"), WAYS)
def test_held_and_let_go(how: str, switch: str, storm: World) -> None:
    home = cgroups_of(storm.pid)
    with Watcher() as watcher:
        with Freezer(how, watcher, [switch] * bool(switch)).frozen([storm.pid]):
            assert stands_still(storm.pid)
        wait_until_it_runs(storm.pid)
    assert cgroups_of(storm.pid) == home
    assert not leftovers()


@pytest.mark.parametrize("switch", [FREEZE_V2, FREEZE_V1])
def test_a_cgroup_of_its_own_is_frozen_where_it_is(switch: str, storm: World) -> None:
    own = root(switch) / f"numatrace-test-{os.getpid()}"
    own.mkdir()
    try:
        enter(own, storm.pid)
        with Watcher() as watcher:
            freezer = Freezer(CGROUP, watcher, (switch,))
            with freezer.frozen([storm.pid]):
                assert cgroup_of(storm.pid, HIERARCHIES[switch]) == own
                assert (own / switch).read_text().strip() in ("1", "FROZEN")
                assert stands_still(storm.pid)
            wait_until_it_runs(storm.pid)
            # Who was frozen before stays so.
            (own / switch).write_text("1" if switch == FREEZE_V2 else "FROZEN")
            with freezer.frozen([storm.pid]):
                assert stands_still(storm.pid)
            assert stands_still(storm.pid)
            (own / switch).write_text("0" if switch == FREEZE_V2 else "THAWED")
            wait_until_it_runs(storm.pid)
    finally:
        storm.target.kill()
        remove(own)


def test_who_was_stopped_stays_so(storm: World) -> None:
    os.kill(storm.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, storm.pid, os.WSTOPPED | os.WNOWAIT)
    with Watcher() as watcher, Freezer(STOP, watcher).frozen([storm.pid]):
        assert stands_still(storm.pid)
    assert stands_still(storm.pid)
    os.kill(storm.pid, signal.SIGCONT)
    wait_until_it_runs(storm.pid)


def test_an_error_inside_thaws(storm: World) -> None:
    with Watcher() as watcher:
        with pytest.raises(ZeroDivisionError), Freezer(CGROUP, watcher).frozen([storm.pid]):
            raise ZeroDivisionError
        wait_until_it_runs(storm.pid)
    assert not leftovers()


def test_nobody_freezes_himself() -> None:
    with (
        Watcher() as watcher,
        pytest.raises(NumatraceError, match="itself"),
        Freezer(CGROUP, watcher).frozen([os.getpid()]),
    ):
        pass


HOLD = """
import sys
from tracer.kernel.freezer import Freezer
from tracer.kernel.thaw import Watcher
how, switch, pid = sys.argv[1:]
with Watcher() as watcher, Freezer(how, watcher, [switch] * bool(switch)).frozen([int(pid)]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize(("how", "switch"), WAYS)
def test_a_tracer_that_is_killed_leaves_the_target_running(
    how: str, switch: str, number: signal.Signals, storm: World
) -> None:
    home = cgroups_of(storm.pid)
    words = [sys.executable, "-c", HOLD, how, switch, str(storm.pid)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"held\n"
        assert stands_still(storm.pid)
        tracer.send_signal(number)
        # The watcher holds nothing of ours open: this is the end of the tracer itself.
        assert tracer.stdout.read() == b""
        assert tracer.wait() == -number
    wait_until_it_runs(storm.pid)
    wait_for(lambda: cgroups_of(storm.pid) == home and not leftovers())


def test_a_verb_that_is_killed_leaves_the_target_running(storm: World) -> None:
    """At any moment of it, held or not."""
    home = cgroups_of(storm.pid)
    words = [sys.executable, "-m", "tracer.cli.main", "verify", "-q", "--freeze", "--every", "0.001", "-p"]
    with subprocess.Popen([*words, str(storm.pid)], stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline().startswith(b"all equal")
        wait_for(lambda: bool(leftovers()))
        tracer.kill()
    wait_until_it_runs(storm.pid)
    wait_for(lambda: cgroups_of(storm.pid) == home and not leftovers())


def test_a_request_to_end_comes_after_the_comparison(storm: World) -> None:
    words = [sys.executable, "-m", "tracer.cli.main", "verify", "-q", "--freeze", "--every", "0.001", "-p"]
    with subprocess.Popen([*words, str(storm.pid)], stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        tracer.stdout.readline()
        tracer.terminate()
        last = tracer.stdout.read().splitlines()[-1]
        assert tracer.wait() == 0
    assert b"0 different" in last
    wait_until_it_runs(storm.pid)
    assert not leftovers()


def test_what_a_killed_watcher_left_is_taken_back(storm: World) -> None:
    """Both were killed: whoever freezes next finds the target in a cgroup of a tracer that is gone."""
    home = cgroup_of(storm.pid)
    assert home is not None
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    left = home / f"numatrace-freeze-{gone.pid}"
    left.mkdir()
    enter(left, storm.pid)
    (left / FREEZE_V2).write_text("1")
    with Watcher() as watcher, Freezer(CGROUP, watcher, (FREEZE_V2,)).frozen([storm.pid]):
        assert stands_still(storm.pid)
    wait_until_it_runs(storm.pid)
    assert cgroup_of(storm.pid) == home
    assert not leftovers()


# --- the rolling comparison ---


def spoil(settler: Settler, address: int, node: int, pages: int) -> None:
    """Add pages to the counters of the region at an address, as a bug would."""
    table = settler._table
    row = int(np.searchsorted(table.address, address))
    assert table.address[row] == address
    table.counts[row, node] += pages
    table.totals[table.vmas.index_of(np.array([address]))[0], node] += pages


@pytest.mark.usefixtures("rss_is_not_known")
def test_counters_that_are_wrong_are_counted_and_repaired(world: World, nodes: list[int]) -> None:
    small_pages(world, 4 * HUGE)
    world.write(0, 4 * HUGE)
    with Session(world.pid, CHECKED) as session:
        session.refresh()
        spoil(settler(session), world.address(2 * HUGE), nodes[0], 7)
        drifts = [session.refresh().only.trust.drift for _ in range(3)]
        assert drifts == [0, 7, 7], "seen by the first, judged by the second, and not found again"
        assert not difference(read_truth(world.pid), session.refresh().only)


@pytest.mark.usefixtures("rss_is_not_known")
def test_regions_that_nobody_knew_of_are_found(world: World) -> None:
    """A part of the process that the counters have lost altogether."""
    small_pages(world, HUGE)
    world.write(0, HUGE)
    with Session(world.pid, CHECKED) as session:
        session.refresh()
        table = settler(session)._table
        spans = table.spans(np.array([world.address(0) >> 21]))
        table.replace(np.array([world.address(0) >> 21]), spans, np.zeros((len(spans), table.counts.shape[1]), int))
        for _ in range(3):
            sample = session.refresh()
        assert sample.only.trust.drift == HUGE // PAGE
        assert not difference(read_truth(world.pid), sample.only)


@pytest.mark.usefixtures("rss_is_not_known")
def test_a_share_comes_round_to_everything(world: World, nodes: list[int]) -> None:
    small_pages(world, 32 * HUGE)
    world.write(0, 32 * HUGE, HUGE)
    with Session(world.pid, Options(hooks="tracepoint", reader="walk", check=0.1)) as session:
        session.refresh()
        spoil(settler(session), world.address(17 * HUGE), nodes[0], 1)
        # A tenth each time, two rounds at most, and one more to judge.
        drifts = [session.refresh().only.trust.drift for _ in range(22)]
        assert drifts[-1] == 1
        assert drifts == sorted(drifts)


@pytest.mark.usefixtures("rss_is_not_known")
def test_drift_is_shown(world: World, nodes: list[int], capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pages(world, HUGE)
    world.write(0, HUGE)
    wait = Session.wait
    spoilt: list[bool] = []

    def spoil_once(session: Session, seconds: float) -> bool:
        if not spoilt:
            spoil(settler(session), world.address(0), nodes[0], 7)
            spoilt.append(True)
        return wait(session, 0.0)

    monkeypatch.setattr(Session, "wait", spoil_once)
    assert main(["maps", "-p", str(world.pid), "--check", "100", "--every", "0.01", "--count", "4"]) == 0
    out, err = capfd.readouterr()
    shown = [line for line in err.splitlines() if line.startswith("# ")]
    assert [word for line in shown for word in line.split() if word.startswith("drift=")] == [
        "drift=0",
        "drift=0",
        "drift=7",
        "drift=7",
    ]
    lines = [line for line in out.splitlines() if line.startswith(f"{world.address(0):08x} ")]
    (nodes_of,) = [area.line.nodes for area in read_truth(world.pid).areas if area.start == world.address(0)]
    assert [f"N{node}={pages}" in lines[-1] for node, pages in nodes_of.items()] == [True]


def test_a_storm_has_no_drift(storm: World) -> None:
    with Session(storm.pid, CHECKED) as session:
        for _ in range(50):
            trust = session.refresh().only.trust
            assert trust.drift == 0
        checked = settler(session)._checker
        assert checked is not None
        if settler(session)._lists is not None:  # else RSS has to be at rest as well, as its events may be late
            assert checked.regions_checked > 50


def test_changes_of_every_kind_have_no_drift(world: World, nodes: list[int]) -> None:
    """Mapped, unmapped, moved, protected and forked between and within refreshes."""
    with Session(world.pid, CHECKED) as session:
        for turn in range(10):
            small_pages(world, 4 * HUGE)
            world.write(0, 4 * HUGE)
            session.refresh()
            world.unmap(HUGE, HUGE // 2)
            world.protect(2 * HUGE, HUGE, 1)
            if turn % 2:
                world.ask("fork")
                session.refresh()
                world.write(0, HUGE)
                session.refresh()
                world.ask("reap")
            world.bind(3 * HUGE, HUGE, 2, 1 << nodes[turn % len(nodes)], 2)
            session.refresh()
            world.unmap(0, 4 * HUGE)
            assert session.refresh().only.trust.drift == 0
        assert session.refresh().only.trust.drift == 0


# --- what the kernel says of a process that is to stand still ---


@pytest.fixture
def hierarchies(tmp_path: Path) -> Iterator[None]:
    """Both kinds of freezer, also on a machine that has mounted none."""
    point = tmp_path / "freezer"
    point.mkdir()
    with mounted("v2", tmp_path):
        subprocess.run(["mount", "-t", "cgroup", "-o", "freezer", "numatrace-tests", str(point)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def storm(quiet_machine: None, nodes: list[int], files: Path, hierarchies: None) -> Iterator[World]:
    """A process that maps and unmaps pages without a pause."""
    with Target() as target:
        it = World(target, nodes, files)
        it.map(0, 4 << 20)
        it.target.send("churn", it.slot, 0, 4 << 20, 1 << 40)
        yield it
        it.target.kill()


def cgroups_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cgroup").read_bytes()


def root(switch: str) -> Path:
    """The cgroup at the top of a hierarchy."""
    home = cgroup_of(1, HIERARCHIES[switch])
    assert home is not None
    return home


def leftovers() -> list[Path]:
    """Cgroups that a freezer has made."""
    tops = [cgroup_of(os.getpid(), name) for name in HIERARCHIES.values()]
    return [path for top in tops if top is not None for path in top.glob("numatrace-freeze-*")]


def faults(pid: int) -> int:
    """Minor faults so far, proc(5): they grow as long as a storm goes on."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[7])


def stands_still(pid: int) -> bool:
    """In as much time as a storm needs for some thousand faults there was none."""
    before = faults(pid)
    end = time.process_time() + 0.05
    while time.process_time() < end:
        os.sched_yield()
    return faults(pid) == before


def wait_until_it_runs(pid: int) -> None:
    before = faults(pid)
    wait_for(lambda: faults(pid) > before)


def wait_for(done: Callable[[], bool]) -> None:
    """For as long as it takes; a test that hangs is stopped from outside."""
    while not done():
        os.sched_yield()
