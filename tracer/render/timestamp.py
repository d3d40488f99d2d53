"""Times as every output writes them: RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["timestamp"]


def timestamp(time: datetime, timespec: str = "microseconds") -> str:
    """`2025-03-01T12:00:00.250000Z`. time: aware. timespec: as for `datetime.isoformat`."""
    return time.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
