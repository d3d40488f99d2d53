"""What to watch, as the user said it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Selection"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Processes to trace. At least one of pids, cgroup and name is given.

    pids: thread group ids. follow_forks: their children too, and theirs. cgroup: all processes in it and below it, as
    they enter and leave: a path, or a name below the mount point. name: all processes whose name matches this pattern
    of the shell's kind, also those that start later.
    """

    pids: tuple[int, ...] = ()
    follow_forks: bool = False
    cgroup: str = ""
    name: str = ""

    @property
    def open_ended(self) -> bool:
        """Whether new targets may appear when all present ones have ended."""
        return bool(self.cgroup or self.name)
