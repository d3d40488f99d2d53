"""The ways of tracing that the placement tests try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tracer.session import Options, Session

__all__ = ["HOOKED", "WAYS", "traced_as_asked"]

WAYS: dict[str, tuple[str, str]] = {
    "walk": ("tracepoint", "walk"),
    "pagemap": ("tracepoint", "pagemap"),
    "polling pagemap": ("none", "pagemap"),
    "polling numa_maps": ("none", "numa_maps"),
}
"""Name -> hooks and reader."""

HOOKED = [name for name, (hooks, _) in WAYS.items() if hooks != "none"]


@contextmanager
def traced_as_asked(way: str, pid: int, details: bool = False) -> Iterator[Session]:
    """A session that really has the hooks and the reader of `way`, not something else that it fell back to."""
    hooks, reader = WAYS[way]
    with Session(pid, Options(hooks=hooks, reader=reader, details=details)) as session:
        snapshot = session.refresh().only
        told = f"asked for {hooks} and {reader}; notes: {session.notes}"
        assert (snapshot.hooks, snapshot.reader) == (hooks, reader), told
        yield session
