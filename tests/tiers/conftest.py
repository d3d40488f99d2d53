"""Tests of what happens between fast and slow memory; only for machines that have both (tests/vm/machine.py)."""

from tests.kernel.conftest import files, nodes, quiet_machine

__all__ = ["files", "nodes", "quiet_machine"]
