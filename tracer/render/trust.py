"""One line that says how far a snapshot can be believed, for the formats that have no room for it themselves."""

from __future__ import annotations

from datetime import UTC

from tracer.model.snapshot import Snapshot
from tracer.render.terminal import printable

__all__ = ["line"]


def line(snapshot: Snapshot) -> str:
    """`# 2025-03-01T12:00:00.000Z pid=42 comm=java hooks=tracepoint reader=walk settling=0 ...`, without newline.

    After `# ` and the time, blank-separated `key=value` fields: a blank in the command name is `\\040`. The words are
    those of `tracer.model.snapshot.Trust`; `regions` were read again for this snapshot, at `cpu` milliseconds.
    """
    trust, refresh = snapshot.trust, snapshot.refresh
    time = snapshot.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        f"# {time} pid={snapshot.pid} comm={printable(snapshot.comm).replace(' ', chr(92) + '040')}"
        f" hooks={snapshot.hooks} reader={snapshot.reader}"
        f" settling={trust.settling} unexplained={trust.unexplained} lost={trust.lost} drift={trust.drift}"
        f" oldest_read={trust.oldest_read_s:.3f}s regions={refresh.regions_read} cpu={refresh.cpu_ns / 1e6:.3f}ms"
    )
