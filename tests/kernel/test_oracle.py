"""The oracle and the operations themselves: the kernel's file against move_pages(2) and the expected pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.operations import OPERATIONS
from tests.kernel.target import Target, read_truth
from tests.kernel.world import ANON, HUGE, PAGE, KernelLacks, World
from tracer.model.policy import Mode


@pytest.fixture(scope="module")
def target(quiet_machine: None) -> Iterator[Target]:
    with Target() as running:
        yield running


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_what_it_says(name: str, target: Target, nodes: list[int], files: Path) -> None:
    world = World(target, nodes, files)
    try:
        for step in OPERATIONS[name](world):
            truth = world.truth()
            if step.pages is not None:
                assert world.slot_pages(truth) == step.pages, step.name
            assert read_truth(world.pid) == truth, f"{step.name}: the target is not at rest"
    except KernelLacks:
        pass  # the table of the exactness test says so
    finally:
        world.clear()


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.INTERLEAVE])
def test_numa_maps_agrees_with_move_pages(mode: Mode, target: Target, nodes: list[int], files: Path) -> None:
    world = World(target, nodes, files)
    try:
        world.map(0, 2 * HUGE, ANON)
        world.bind(0, 2 * HUGE, mode, world.mask if mode else 0)
        world.write(0, HUGE + 7 * PAGE)
        told = world.where(0, 2 * HUGE)
        assert sum(told.values()) == 512 + 7
        assert world.truth().pages(world.address(0), world.address(2 * HUGE)) == told
        if mode is Mode.INTERLEAVE:
            assert set(told) == set(nodes)
    finally:
        world.clear()


def test_the_ballast_makes_reading_everything_visible(target: Target) -> None:
    assert 60 <= read_truth(target.pid).regions <= 100
