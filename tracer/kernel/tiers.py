"""The kernel's memory tiers: which nodes hold fast memory and which slow, as demotion and promotion see them.

Source: mm/memory-tiers.c. What it is not: whether demotion is switched on, or which node a page would go to.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from tracer.errors import NumatraceError
from tracer.kernel.topology import parse_id_list

__all__ = ["memory_tiers"]

_TIER = re.compile(r"memory_tier(\d+)$")
_REMOVED = (errno.ENOENT, errno.ENODEV)


def memory_tiers(sys_root: Path = Path("/sys")) -> dict[int, int]:
    """Node id -> id of its tier; the smaller, the faster. Nodes without memory are in no tier.

    {} where the kernel has none (no CONFIG_MIGRATION, or before 6.1). With one tier all nodes count as equally fast.
    `NumatraceError` if the files are there and cannot be read.
    """
    tiers: dict[int, int] = {}
    for directory in (sys_root / "devices/virtual/memory_tiering").glob("memory_tier*"):
        if number := _TIER.match(directory.name):
            tiers.update(dict.fromkeys(_nodes(directory / "nodelist"), int(number[1])))
    return dict(sorted(tiers.items()))


def _nodes(path: Path) -> tuple[int, ...]:
    """The nodes of a tier; none if the tier has vanished meanwhile, with the last memory in it."""
    try:
        return parse_id_list(path.read_text())
    except OSError as error:
        if error.errno in _REMOVED:
            return ()
        raise _unreadable(error) from error
    except ValueError as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> NumatraceError:
    return NumatraceError(f"cannot read the memory tiers of this machine: {error}", "is /sys mounted?")
