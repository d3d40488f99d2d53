"""The memory tiers of the machine at hand."""

from __future__ import annotations

from pathlib import Path

from tracer.kernel.tiers import memory_tiers


def test_every_node_with_memory_is_in_a_tier_where_the_kernel_has_tiers(nodes: list[int]) -> None:
    has_tiers = any(Path("/sys/devices/virtual/memory_tiering").glob("memory_tier*"))
    assert list(memory_tiers()) == (nodes if has_tiers else [])
