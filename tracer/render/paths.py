"""Names of mappings: from the form of /proc/PID/maps to that of numa_maps and of text.

Both files come from `seq_path()`, which writes some characters as a backslash and three octal digits: maps only the
newline, numa_maps newline, tab, `=` and blank (fs/proc/task_mmu.c). Neither escapes the backslash itself, so the
original name cannot always be told; from maps to numa_maps there is one answer.
"""

from __future__ import annotations

__all__ = ["name_fields", "numa_maps_path", "text_name"]

_ESCAPES = ((b"\t", rb"\011"), (b" ", rb"\040"), (b"=", rb"\075"))

_NAMED_SHARED = b"[anon_shmem:"
_SHARED_ANONYMOUS = rb"/dev/zero\040(deleted)"


def numa_maps_path(maps_path: bytes) -> bytes:
    """The bytes after `file=` in numa_maps for a file mapping that maps shows as `maps_path`.

    Shared anonymous memory that its owner named (prctl PR_SET_VMA_ANON_NAME, since 6.2) has that name in maps only;
    for numa_maps it stays the deleted `/dev/zero` that shmem_zero_setup() made.
    """
    if maps_path.startswith(_NAMED_SHARED):
        return _SHARED_ANONYMOUS
    for raw, escaped in _ESCAPES:
        maps_path = maps_path.replace(raw, escaped)
    return maps_path


def text_name(maps_path: bytes) -> str:
    """The name as text: UTF-8, with a byte that is not part of any UTF-8 character as `\\xNN`."""
    return maps_path.decode("utf-8", "backslashreplace")


def name_fields(maps_path: bytes) -> dict[str, str]:
    """The keys of JSON for a name: `name` as text, and where that is not exact `name_hex` with all bytes."""
    fields = {"name": text_name(maps_path)}
    try:
        maps_path.decode("utf-8")
    except UnicodeDecodeError:
        fields["name_hex"] = maps_path.hex()
    return fields
