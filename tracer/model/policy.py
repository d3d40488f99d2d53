"""Memory policies (NUMA mempolicy) and their spelling in numa_maps."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["DEFAULT", "Mode", "Policy"]


class Mode(enum.IntEnum):
    """`enum` of include/uapi/linux/mempolicy.h; weighted interleave exists from 6.9 on."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4
    PREFERRED_MANY = 5
    WEIGHTED_INTERLEAVE = 6


@dataclass(frozen=True, slots=True)
class Policy:
    """mode: a `Mode` value, kept as int because a newer kernel may know more. flags: MPOL_F_* mode flags, ints.

    nodes: effective node ids (after cpuset remapping), ascending.
    """

    mode: int
    flags: int = 0
    nodes: tuple[int, ...] = ()


DEFAULT = Policy(Mode.DEFAULT)
