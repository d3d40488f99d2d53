"""A small private cache on disk: facts about the running kernel that are slow to learn.

Losing it costs time, never correctness, so every failure is silent. Files are 0600 in a 0700 directory that belongs to
the user we run as; they are written beside and renamed, and never read or written through a symlink.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
from pathlib import Path

__all__ = ["read_cached", "write_cached"]


def _directory() -> Path:
    """The cache of the *effective* user: under sudo HOME is often the caller's, and root must not leave files there."""
    own = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    return Path(os.environ.get("NUMATRACE_FACTS", own / ".cache" / "numatrace"))


def read_cached(key: str) -> str | None:
    """The text kept under `key`, None when there is none that we can trust (foreign owner, writable by others)."""
    try:
        fd = os.open(_directory() / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            return None
        try:
            return file.read().decode()
        except (OSError, UnicodeDecodeError):
            return None


def write_cached(key: str, text: str) -> None:
    """Keep `text` under `key`."""
    directory = _directory()
    beside = directory / f".{key}.{secrets.token_hex(4)}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode())
        beside.rename(directory / key)
    except (OSError, KeyError):
        with contextlib.suppress(OSError):
            beside.unlink()
