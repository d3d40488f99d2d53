"""Every counter of every VMA equals the kernel's own file, after every operation, for every reader.

The oracle is /proc/PID/numa_maps of a process at rest. One session traces one process through all operations, so
an error that an operation leaves behind shows in all that follow. The table tells how many regions were read
again, because reading everything again would be exact as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.exactness import Row, Table, check, lacks
from tests.kernel.operations import OPERATIONS, cow_seen_by_the_child
from tests.kernel.target import Target
from tests.kernel.world import KernelLacks, Operation, Step, World
from tracer.session import Options, Session

WAYS = {
    "walk": Options(hooks="tracepoint", reader="walk"),
    "pagemap": Options(hooks="tracepoint", reader="pagemap"),
    "polling pagemap": Options(hooks="none", reader="pagemap"),
    "polling numa_maps": Options(hooks="none", reader="numa_maps"),
}
HOOKED = {name: options for name, options in WAYS.items() if options.hooks != "none"}
IDLE_REGIONS = 8
"""Regions that a refresh may read though nothing changed: those with a fault in flight, at most one a CPU."""


@pytest.fixture(scope="module")
def table(nodes: list[int], tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Table]:
    result = Table(nodes)
    yield result
    path = result.write(machine.results(tmp_path_factory.mktemp("results")))
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{path}", *result.lines(), sep="\n")


class Traced:
    """A target and the session that traces it."""

    def __init__(self, options: Options, target: Target, session: Session) -> None:
        self.options = options
        self.target = target
        self.session = session


@pytest.fixture(scope="module", params=WAYS)
def traced(request: pytest.FixtureRequest, quiet_machine: None) -> Iterator[Traced]:
    options = WAYS[request.param]
    with Target() as target, Session(target.pid, options) as session:
        snapshot = session.refresh()
        told = f"asked for {options}, notes: {session.notes}"
        assert (snapshot.hooks, snapshot.reader) == (options.hooks, options.reader), told
        yield Traced(options, target, session)


def _run(name: str, operation: Operation, world: World, traced: Traced) -> list[Row]:
    """All steps of an operation, and its clearing up, which is a change like any other."""
    rows: list[Row] = []
    try:
        for step in operation(world):
            rows.append(check(name, step, world.pid, traced.session))
    except KernelLacks as reason:
        rows.append(lacks(name, traced.options.hooks, traced.options.reader, str(reason)))
    finally:
        world.clear()
    rows.append(check(name, Step("cleared", 0), world.pid, traced.session))
    return rows


@pytest.mark.parametrize("name", OPERATIONS)
def test_exact_after(name: str, traced: Traced, nodes: list[int], files: Path, table: Table) -> None:
    rows = _run(name, OPERATIONS[name], World(traced.target, nodes, files), traced)
    table.rows.extend(rows)
    failures = [row.failure for row in rows if row.failure]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("way", HOOKED)
def test_exact_in_a_forked_child(way: str, quiet_machine: None, nodes: list[int], files: Path, table: Table) -> None:
    rows: list[Row] = []
    with Target() as target, ExitStack() as stack:
        world = World(target, nodes, files, watch_child=True)
        session: Session | None = None
        for step in cow_seen_by_the_child(world):
            session = session or stack.enter_context(Session(world.pid, HOOKED[way]))
            rows.append(check("COW, seen by the child", step, world.pid, session))
        world.target.ask("unmap", world.slot, 0, 1 << 30)
    table.rows.extend(rows)
    failures = [row.failure for row in rows if row.failure]
    assert not failures, "\n".join(failures)


def test_a_refresh_of_an_idle_target_reads_next_to_nothing(traced: Traced) -> None:
    if traced.options.hooks == "none":
        # Polling knows of no change without reading: that every region is read is what makes it exact.
        snapshot = traced.session.refresh()
        assert snapshot.refresh.regions_read > IDLE_REGIONS
        return
    traced.session.refresh()
    read = [traced.session.refresh().refresh.regions_read for _ in range(5)]
    assert max(read) <= IDLE_REGIONS, read


def test_exact_at_rest_after_refreshes_in_the_middle_of_changes(traced: Traced, nodes: list[int], files: Path) -> None:
    world = World(traced.target, nodes, files)
    words = ("churn", world.slot, 0, 4 << 20, 30)
    try:
        world.map(0, 4 << 20)
        traced.target.send(*words)
        while traced.target.busy():
            traced.session.refresh()
        traced.target.receive(*words)
        row = check("churn", Step("at rest"), world.pid, traced.session)
        assert not row.pages_off, row.failure
        assert not row.areas_off, row.failure
    finally:
        world.clear()
