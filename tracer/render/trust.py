"""How far counts can be believed: one line for the formats that have no room for it themselves, and keys for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracer.model.accumulate import Seen
from tracer.model.snapshot import Snapshot, Trust
from tracer.render.terminal import word
from tracer.render.timestamp import timestamp

__all__ = ["line", "seen_lines", "trust_fields"]

_COUNTS = ("settling", "unexplained", "lost", "drift")
_MOST = 16
"""Lines for the targets of one period: --follow-forks may have had thousands."""


def line(snapshot: Snapshot) -> str:
    """`# 2025-03-01T12:00:00.000Z pid=42 ns_pid=42 comm=java hooks=tracepoint reader=walk settling=0 ...`.

    Without newline. After `# ` and the time, blank-separated `key=value` fields: a blank in the command name is
    `\\040`. ns_pid: the PID inside the process's own PID namespace. The words are those of
    `tracer.model.snapshot.Trust`; `regions` were read again for this snapshot, at `cpu` milliseconds.
    """
    refresh = snapshot.refresh
    return (
        f"# {timestamp(snapshot.time, 'milliseconds')} {_fields(snapshot)}"
        f" regions={refresh.regions_read} cpu={refresh.cpu_ns / 1e6:.3f}ms"
    )


def seen_lines(targets: Sequence[Seen]) -> Iterator[str]:
    """The same of targets that were watched for a while: without what one snapshot took, `ended` if it has.

    Where there are many: those that can be believed least, then those that live, and a line with sums for the others.
    """
    least_first = sorted(targets, key=lambda target: (-target.trust.lost, -_doubts(target), target.ended, target.pid))
    for target in least_first[:_MOST]:
        yield f"# {_fields(target)}{' ended' if target.ended else ''}"
    if others := least_first[_MOST:]:
        sums = "".join(f" {key}={sum(getattr(target.trust, key) for target in others)}" for key in _COUNTS)
        yield f"# {len(others)} more targets, in all:{sums}"


def _doubts(target: Seen) -> int:
    trust = target.trust
    return trust.settling + trust.unexplained + trust.drift


def _fields(target: Snapshot | Seen) -> str:
    trust = target.trust
    return (
        f"pid={target.pid} ns_pid={target.namespace_pid or target.pid} comm={word(target.comm)}"
        f" hooks={target.hooks} reader={target.reader}"
        f" settling={trust.settling} unexplained={trust.unexplained} lost={trust.lost} drift={trust.drift}"
        f" oldest_read={trust.oldest_read_s:.3f}s"
    )


def trust_fields(trust: Trust) -> dict[str, int | float]:
    """The keys of JSON."""
    return {
        "settling": trust.settling,
        "unexplained": trust.unexplained,
        "lost": trust.lost,
        "drift": trust.drift,
        "oldest_read_s": round(trust.oldest_read_s, 6),
    }
