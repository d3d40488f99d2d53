"""Policies of threads, against the numa_maps of each thread, which shows its own where a VMA has none."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.target import Target
from tests.kernel.world import World
from tracer.kernel.epoch import policy_hash
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.numa_maps import read_numa_maps
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.procfs import read_maps
from tracer.kernel.threads import ThreadPolicy, thread_policies
from tracer.kernel.walk import PageTables
from tracer.model.policy import DEFAULT, F_STATIC_NODES, Mode, Policy

PAGE = 4096
MANY = 2100  # more than are told at once
MANY_THREADS = f"""
import sys, threading
threading.stack_size(1 << 16)
end = threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range({MANY})]
for thread in threads:
    thread.start()
for thread in threads[::100]:
    with open(f"/proc/self/task/{{thread.native_id}}/comm", "wb") as file:
        file.write(b"a \\xff name %d" % thread.native_id)
print("ready", flush=True)
sys.stdin.read()
end.set()
"""


@pytest.fixture(scope="module")
def tables(quiet_machine: None) -> Iterator[PageTables]:
    it = Machinery(Options(hooks="tracepoint", reader="walk"), [])
    assert it.tables is not None
    yield it.tables
    it.close()


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        it = World(target, nodes, files)
        yield it
        it.clear()


@contextlib.contextmanager
def mm_of(tables: PageTables, pid: int) -> Iterator[int]:
    with Pagemap(pid) as pagemap:
        yield tables.find_mm(pagemap.fileno(), read_maps(pid)[0].start)


def threads_of(tables: PageTables, pid: int) -> tuple[ThreadPolicy, ...]:
    with mm_of(tables, pid) as mm:
        return thread_policies(tables, mm, pid)


def kernel_says(thread: int) -> str:
    """The policy of a thread: that of any VMA without one of its own, as here all are."""
    (policy,) = {line.policy for line in read_numa_maps(thread)}
    return policy


def test_each_thread_has_its_own(tables: PageTables, world: World) -> None:
    """A new thread begins with a copy of its maker's policy, and keeps it when that one takes another."""
    world.map(0, PAGE)
    cpu = min(machine.cpu_of_each_node().values())
    one = 1 << world.last
    asked = [
        (Mode.INTERLEAVE, world.mask),
        (Mode.BIND, one),
        (Mode.PREFERRED, one),
        (Mode.LOCAL, 0),
        (Mode.BIND | F_STATIC_NODES, world.mask),
        (Mode.DEFAULT, 0),
    ]
    started = []
    for mode, mask in asked:
        world.policy(mode, mask)
        started.append(world.pinned(0, PAGE, cpu))
    world.policy(Mode.PREFERRED_MANY, world.mask)
    found = threads_of(tables, world.pid)
    assert [it.thread for it in found] == [world.pid, *sorted(started)]
    assert {it.thread: it.policy.text() for it in found} == {it.thread: kernel_says(it.thread) for it in found}
    by_thread = {it.thread: it for it in found}
    nodes = tuple(world.nodes)
    assert by_thread[started[0]].policy == Policy(Mode.INTERLEAVE, 0, nodes)
    assert by_thread[started[1]].policy == Policy(Mode.BIND, 0, (world.last,))
    assert by_thread[started[4]].policy == Policy(Mode.BIND, F_STATIC_NODES, nodes)
    assert by_thread[started[5]].policy == DEFAULT
    pointers = [it.pointer for it in found]
    assert pointers.count(0) == 1
    assert by_thread[started[5]].pointer == 0
    assert len(set(map(policy_hash, pointers))) == len(pointers)


def test_threads_that_have_ended_are_not_told(tables: PageTables, world: World) -> None:
    world.map(0, PAGE)
    world.pinned(0, PAGE, min(machine.cpu_of_each_node().values()))
    world.join()
    assert [it.thread for it in threads_of(tables, world.pid)] == [world.pid]


def test_a_child_is_another_process(tables: PageTables, world: World) -> None:
    world.policy(Mode.INTERLEAVE, world.mask)
    child = int(world.ask("fork"))
    world.policy(Mode.DEFAULT, 0)
    (parent,), (forked,) = threads_of(tables, world.pid), threads_of(tables, child)
    assert (parent.thread, parent.policy) == (world.pid, DEFAULT)
    assert (forked.thread, forked.policy.text()) == (child, kernel_says(child))


def test_thousands_of_threads_with_their_names(tables: PageTables) -> None:
    with subprocess.Popen([sys.executable, "-c", MANY_THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as many:
        assert many.stdin is not None
        assert many.stdout is not None
        assert many.stdout.readline() == b"ready\n"
        tasks = {int(path.name): path for path in Path(f"/proc/{many.pid}/task").iterdir()}
        told = [(thread, (path / "comm").read_bytes().removesuffix(b"\n")) for thread, path in sorted(tasks.items())]
        assert len(told) > MANY
        assert len({name for _, name in told}) > MANY // 100
        found = [(it.thread, it.comm) for it in threads_of(tables, many.pid)]
        many.stdin.close()
    assert found == told


def test_where_nobody_knows_the_owner_it_is_the_main_thread(
    tables: PageTables, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = {name: value for name, value in tables.constants.items() if name != "MM_OWNER"}
    monkeypatch.setattr(tables, "constants", constants)
    world.policy(Mode.INTERLEAVE, world.mask)
    (main,) = threads_of(tables, world.pid)
    assert main == ThreadPolicy(world.pid, b"", 0, Policy(Mode.INTERLEAVE, 0, tuple(world.nodes)))
