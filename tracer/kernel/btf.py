"""Struct layouts of the running kernel from its BTF, read through libbpf and cached by the kernel's build id.

BPF programs get the offsets that they need as `-D` constants (`tracer.kernel.layout`), so no kernel headers are asked
for. Format: Documentation/bpf/btf.rst; libbpf does the loading and the name look-up, the members are read here because
libbpf's own accessors for them are inline functions of its header.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tracer.errors import NumatraceError
from tracer.kernel.cache import read_cached, write_cached

__all__ = ["Btf", "btf_path", "build_id"]

KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_TYPEDEF = 4, 5, 6, 8
KIND_FUNC, KIND_FUNC_PROTO, KIND_ENUM64, KIND_PTR = 12, 13, 19, 2
MODIFIERS = {KIND_TYPEDEF, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag


class _Type(ctypes.Structure):
    """`struct btf_type` of include/uapi/linux/btf.h."""

    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


def btf_path() -> Path:
    """Where the kernel's BTF is; NUMATRACE_BTF names another file (a kernel without CONFIG_DEBUG_INFO_BTF)."""
    return Path(os.environ.get("NUMATRACE_BTF", "/sys/kernel/btf/vmlinux"))


def build_id() -> str:
    """The GNU build id of the running kernel as hex, "" where the kernel does not show one (/sys/kernel/notes)."""
    try:
        notes = Path("/sys/kernel/notes").read_bytes()
    except OSError:
        return ""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("=III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        start = at + 12 + (name_size + 3 & ~3)
        if kind == 3 and name.rstrip(b"\0") == b"GNU":
            return notes[start : start + size].hex()
        at = start + (size + 3 & ~3)
    return ""


@functools.cache
def libbpf() -> ctypes.CDLL:
    """libbpf 1.x, which Debian's libbpfcc depends on.

    Raises NumatraceError when it is not installed.
    """
    for name in ("libbpf.so.1", ctypes.util.find_library("bpf")):
        if name:
            try:
                return ctypes.CDLL(name, use_errno=True)
            except OSError:
                continue
    raise NumatraceError("cannot load libbpf", "install it: apt-get install libbpf1 python3-bpfcc")


class Btf:
    """Offsets, sizes and enumerators by name. Answers are cached on disk under the kernel's build id.

    A question has the form "struct.member.member"; anonymous structs and unions are looked through. Every answer may be
    None: the kernel has no such thing. Raises NumatraceError when the kernel shows no BTF.
    """

    def __init__(self) -> None:
        self._handle: int | None = None
        path = btf_path()
        self._path = path
        if not path.exists():
            raise NumatraceError(
                f"this kernel shows no BTF ({path} is missing)",
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or `--hooks none --reader pagemap`",
            )
        self._own = "NUMATRACE_BTF" not in os.environ
        self._key = f"btf-{build_id()}" if build_id() and self._own else ""
        self._answers: dict[str, int | None] = {}
        if self._key:
            try:
                self._answers = json.loads(read_cached(self._key) or "{}")
            except ValueError:
                self._answers = {}
        self._known = len(self._answers)

    def save(self) -> None:
        """Keep what was learnt for the next start."""
        if self._key and len(self._answers) != self._known:
            write_cached(self._key, json.dumps(self._answers))
            self._known = len(self._answers)

    def offset(self, path: str) -> int | None:
        """Byte offset of "struct.member[.member…]"."""
        return self._ask(f"offset {path}", lambda: self._find_offset(path))

    def size(self, name: str) -> int | None:
        """sizeof(struct name) in bytes."""
        return self._ask(f"size {name}", lambda: self._find_size(name))

    def enumerator(self, enum: str, name: str) -> int | None:
        """Value of an enumerator of `enum`."""
        return self._ask(f"enum {enum} {name}", lambda: dict(self._enumerators(enum)).get(name))

    def enumerators(self, enum: str) -> dict[str, int]:
        """All enumerators of `enum`, {} when there is none. Not cached."""
        return dict(self._enumerators(enum))

    def arguments(self, function_type: str) -> int | None:
        """Arguments of the function that a typedef points to (`btf_trace_<event>`, with the context pointer), or a
        member of a struct does (`struct.member`)."""
        return self._ask(f"args {function_type}", lambda: self._count_arguments(function_type))

    def function(self, name: str) -> int | None:
        """The type id of a function of the kernel, by which programs call it or are attached to it. None where the BTF
        is a file, whose ids the kernel does not know."""
        return self._ask(f"func {name}", lambda: self._id(name, KIND_FUNC)) if self._own else None

    def has_type(self, name: str) -> bool:
        """Whether there is a typedef of that name."""
        return self._ask(f"typedef {name}", lambda: self._id(name, KIND_TYPEDEF)) is not None

    def _ask(self, question: str, find: object) -> int | None:
        if question not in self._answers:
            assert callable(find)
            self._answers[question] = find()
        return self._answers[question]

    def _open(self) -> int:
        if self._handle is None:
            lib = libbpf()
            lib.btf__parse.restype = ctypes.c_void_p
            lib.btf__type_by_id.restype = ctypes.c_void_p
            lib.btf__type_by_id.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
            lib.btf__name_by_offset.restype = ctypes.c_char_p
            lib.btf__name_by_offset.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
            lib.btf__find_by_name_kind.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
            handle = lib.btf__parse(os.fsencode(self._path), None)
            if not handle:
                raise NumatraceError(f"cannot read the kernel's BTF ({self._path})", "check that the file is whole")
            self._handle = handle
        return self._handle

    def _type(self, number: int) -> tuple[int, _Type, int]:
        """(kind, type, address of what follows it), modifiers and typedefs looked through."""
        lib, handle = libbpf(), self._open()
        while True:
            address = lib.btf__type_by_id(handle, number)
            found = _Type.from_address(address)
            kind = found.info >> 24 & 0x1F
            if kind not in MODIFIERS:
                return kind, found, address + ctypes.sizeof(_Type)
            number = found.size

    def _id(self, name: str, *kinds: int) -> int | None:
        for kind in kinds:
            number: int = libbpf().btf__find_by_name_kind(self._open(), name.encode(), kind)
            if number > 0:
                return number
        return None

    def _members(self, number: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, type id, byte offset) of each member."""
        kind, found, at = self._type(number)
        if kind not in (KIND_STRUCT, KIND_UNION):
            return
        mask = 0xFFFFFF if found.info >> 31 else 0xFFFFFFFF
        for i in range(found.info & 0xFFFF):
            name_off, member_type, bits = struct.unpack("=III", ctypes.string_at(at + 12 * i, 12))
            yield libbpf().btf__name_by_offset(self._handle, name_off), member_type, (bits & mask) // 8

    def _member(self, number: int, name: bytes) -> tuple[int, int] | None:
        """(offset, type id) of a member, also inside anonymous members."""
        for member, kind, offset in self._members(number):
            if member == name:
                return offset, kind
            if not member:
                inner = self._member(kind, name)
                if inner:
                    return offset + inner[0], inner[1]
        return None

    def _find_offset(self, path: str) -> int | None:
        struct_name, *members = path.split(".")
        number = self._id(struct_name, KIND_STRUCT, KIND_UNION)
        total = 0
        for member in members:
            found = None if number is None else self._member(number, member.encode())
            if found is None:
                return None
            total, number = total + found[0], found[1]
        return total

    def _find_size(self, name: str) -> int | None:
        number = self._id(name, KIND_STRUCT, KIND_UNION)
        return None if number is None else self._type(number)[1].size

    def _enumerators(self, enum: str) -> Iterator[tuple[str, int]]:
        number = self._id(enum, KIND_ENUM, KIND_ENUM64)
        if number is None:
            return
        kind, found, at = self._type(number)
        step = 12 if kind == KIND_ENUM64 else 8
        for i in range(found.info & 0xFFFF):
            name_off, value = struct.unpack("=Ii", ctypes.string_at(at + step * i, 8))
            yield libbpf().btf__name_by_offset(self._handle, name_off).decode(), value

    def _count_arguments(self, name: str) -> int | None:
        struct_name, _, member = name.partition(".")
        number = self._id(struct_name, KIND_STRUCT) if member else self._id(name, KIND_TYPEDEF)
        if number is not None and member:
            found_member = self._member(number, member.encode())
            number = found_member[1] if found_member else None
        if number is None:
            return None
        kind, found, _ = self._type(number)
        if kind == KIND_PTR:
            kind, found, _ = self._type(found.size)
        return found.info & 0xFFFF if kind == KIND_FUNC_PROTO else None
