"""Every counter of every VMA equals the kernel's own file, after every operation, for every reader.

The oracle is /proc/PID/numa_maps of a process at rest. One session traces one process through all operations, so
an error that an operation leaves behind shows in all that follow. The table tells how many regions were read
again, because reading everything again would be exact as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.exactness import Row, Table, check, lacks
from tests.kernel.operations import OPERATIONS, cow_seen_by_the_child
from tests.kernel.operations_calls import CALLS
from tests.kernel.operations_huge import HUGE_PAGES
from tests.kernel.operations_reclaim import RECLAIM
from tests.kernel.operations_sized import SIZED
from tests.kernel.operations_unasked import UNASKED
from tests.kernel.target import Target
from tests.kernel.ways import HOOKED, WAYS, traced_as_asked
from tests.kernel.world import KernelLacks, Operation, Step, World
from tracer.session import Session

IDLE_REGIONS = 8
"""Regions that a refresh may read though nothing changed: those with a fault in flight, at most one a CPU."""
FURTHER = {**CALLS, **HUGE_PAGES, **RECLAIM, **UNASKED}
"""Tried with the walk only: some of them take long, and what they do to pages is what others do as well."""


@pytest.fixture(scope="module")
def table(nodes: list[int], tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Table]:
    result = Table(nodes)
    yield result
    path = result.write(machine.results(tmp_path_factory.mktemp("results")))
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{path}", *result.lines(), sep="\n")


@dataclass(frozen=True, slots=True)
class Traced:
    """A target and the session that traces it."""

    way: str
    target: Target
    session: Session


@pytest.fixture(scope="module", params=WAYS)
def traced(request: pytest.FixtureRequest, quiet_machine: None) -> Iterator[Traced]:
    with Target() as target, traced_as_asked(request.param, target.pid) as session:
        yield Traced(request.param, target, session)


def _assert_all_right(rows: list[Row]) -> None:
    failures = [row.failure for row in rows if row.failure]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", OPERATIONS)
def test_exact_after(name: str, traced: Traced, nodes: list[int], files: Path, table: Table) -> None:
    _try(name, OPERATIONS[name], traced, World(traced.target, nodes, files), table)


@pytest.mark.parametrize("traced", ["walk"], indirect=True)
@pytest.mark.parametrize("name", FURTHER)
def test_exact_after_more(name: str, traced: Traced, nodes: list[int], files: Path, table: Table) -> None:
    _try(name, FURTHER[name], traced, World(traced.target, nodes, files), table)


@pytest.mark.parametrize("traced", ["walk"], indirect=True)
@pytest.mark.parametrize("name", SIZED)
def test_exact_after_with_every_size(name: str, traced: Traced, nodes: list[int], files: Path, table: Table) -> None:
    _try(name, SIZED[name], traced, World(traced.target, nodes, files), table)


def _try(name: str, operation: Operation, traced: Traced, world: World, table: Table) -> None:
    """Every step must be what it says it is, and equal to what the session says."""
    rows: list[Row] = []
    try:
        for step in operation(world):
            rows.append(check(name, step, world.pid, traced.session))
            assert step.pages in (None, world.slot_pages(world.truth())), f"{step.name}: the kernel did something else"
    except KernelLacks as reason:
        rows.append(lacks(name, *WAYS[traced.way], str(reason)))
    finally:
        world.clear()
        # What is unmapped is a change like any other.
        rows.append(check(name, Step("cleared"), world.pid, traced.session))
        table.rows.extend(rows)
    _assert_all_right(rows)


@pytest.mark.parametrize("way", HOOKED)
def test_exact_in_a_forked_child(way: str, quiet_machine: None, nodes: list[int], files: Path, table: Table) -> None:
    rows: list[Row] = []
    with Target() as target, ExitStack() as stack:
        world = World(target, nodes, files, watch_child=True)
        session: Session | None = None
        for step in cow_seen_by_the_child(world):
            session = session or stack.enter_context(traced_as_asked(way, world.pid))
            rows.append(check("COW, seen by the child", step, world.pid, session))
    table.rows.extend(rows)
    _assert_all_right(rows)


def test_a_refresh_of_an_idle_target_reads_next_to_nothing(traced: Traced) -> None:
    read = [traced.session.refresh().only.refresh.regions_read for _ in range(5)]
    if traced.way in HOOKED:
        assert max(read) <= IDLE_REGIONS, read
    else:
        # Polling knows of no change without reading; that it says how much it reads is all there is to see.
        assert min(read) > IDLE_REGIONS, read


def test_exact_at_rest_after_refreshes_in_the_middle_of_changes(
    traced: Traced, nodes: list[int], files: Path, table: Table
) -> None:
    world = World(traced.target, nodes, files)
    words = ("churn", world.slot, 0, 4 << 20, 30)
    try:
        world.map(0, 4 << 20)
        refreshes = 0
        for _ in range(100):
            # On a fast machine one round of changes is over before a second refresh.
            traced.target.send(*words)
            while traced.target.busy():
                traced.session.refresh()
                refreshes += 1
            traced.target.receive(*words)
            if refreshes > 3:
                break
        row = check(
            "churn", Step("at rest, after refreshes meanwhile", audited="RSS of 6.1 is late"), world.pid, traced.session
        )
    finally:
        world.clear()
    table.rows.append(row)
    assert refreshes > 3, "the changes were over too soon to test anything"
    _assert_all_right([row])
