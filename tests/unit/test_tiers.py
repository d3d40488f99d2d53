"""Memory tiers from made-up /sys trees, and that of the machine at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.errors import NumatraceError
from tracer.kernel.tiers import memory_tiers


def add_tier(root: Path, name: str, nodes: str) -> None:
    directory = root / "devices/virtual/memory_tiering" / name
    directory.mkdir(parents=True)
    (directory / "nodelist").write_text(nodes)


def test_each_node_has_the_number_of_its_tier(tmp_path: Path) -> None:
    add_tier(tmp_path, "memory_tier22", "2,4-5\n")
    add_tier(tmp_path, "memory_tier4", "0-1\n")
    assert list(memory_tiers(tmp_path).items()) == [(0, 4), (1, 4), (2, 22), (4, 22), (5, 22)]


def test_a_kernel_without_tiers_has_none(tmp_path: Path) -> None:
    assert memory_tiers(tmp_path) == {}


def test_other_entries_of_the_directory_are_no_tiers(tmp_path: Path) -> None:
    add_tier(tmp_path, "memory_tier4", "0\n")
    add_tier(tmp_path, "memory_tier_settings", "1\n")
    add_tier(tmp_path, "power", "2\n")
    assert memory_tiers(tmp_path) == {0: 4}


def test_a_tier_that_vanishes_while_it_is_read_or_is_empty_holds_no_node(tmp_path: Path) -> None:
    add_tier(tmp_path, "memory_tier4", "0\n")
    add_tier(tmp_path, "memory_tier5", "\n")
    (tmp_path / "devices/virtual/memory_tiering/memory_tier961").mkdir()
    assert memory_tiers(tmp_path) == {0: 4}


def test_what_is_no_list_is_an_error_with_a_hint(tmp_path: Path) -> None:
    add_tier(tmp_path, "memory_tier4", "zero\n")
    with pytest.raises(NumatraceError, match="cannot read the memory tiers") as caught:
        memory_tiers(tmp_path)
    assert caught.value.hint
