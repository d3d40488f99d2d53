"""Compiles the programs of bpf/ with BCC: the only place that imports it.

Runs in a process of its own (`python -m tracer.kernel.bpf`), so that the tracer neither carries clang's memory nor
waits for it when the result is already known: what comes out is an *image* (maps, instructions, layouts as JSON), which
`tracer.kernel.programs` caches and loads. No kernel headers are used: a tree of stub headers stands in for them
(bpf/stub), and what the programs must know of kernel structs comes as `-D` constants.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["compile_image", "main"]

LOAD_64, PSEUDO_MAP = 0x18, 1  # BPF_LD | BPF_IMM | BPF_DW with src_reg BPF_PSEUDO_MAP_FD, uapi/linux/bpf.h
CALL, PSEUDO_KFUNC = 0x85, 2  # BPF_JMP | BPF_CALL with src_reg BPF_PSEUDO_KFUNC_CALL
KFUNC, MAP_ANCHOR = 0x40000000, 0x40000001  # bpf/common.h


@contextmanager
def _stderr_kept(kept: list[str]) -> Iterator[None]:
    """Collects what clang writes to file descriptor 2, so that the user gets one line instead."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            kept.append(file.read().decode(errors="replace"))


def _scalar(kind: Any) -> str:
    return f"<{'u' if kind(-1).value > 0 else 'i'}{ctypes.sizeof(kind)}"


def _describe(kind: Any) -> Any:
    """A ctypes type as a numpy dtype description made of JSON's types: "<u8", [kind, length] or [[name, kind], …]."""
    if issubclass(kind, ctypes.Array):
        return {"of": _describe(kind._type_), "length": kind._length_}
    if issubclass(kind, ctypes.Structure):
        return [[name, _describe(field), getattr(kind, name).offset] for name, field, *_ in kind._fields_]
    return _scalar(kind)


def _table(module: Any, lib: Any, number: int, bpf: Any) -> dict[str, Any]:
    name = lib.bpf_table_name(module, number).decode()
    kind = lib.bpf_table_type_id(module, number)
    table = {
        "name": name,
        "type": kind,
        "key": lib.bpf_table_key_size_id(module, number),
        "value": lib.bpf_table_leaf_size_id(module, number),
        "entries": lib.bpf_table_max_entries_id(module, number),
        "flags": lib.bpf_table_flags_id(module, number),
        "fd": lib.bpf_table_fd_id(module, number),
        "leaf": None,
    }
    leaf = getattr(bpf[name], "Leaf", None)
    if isinstance(leaf, type) and issubclass(leaf, ctypes.Structure | ctypes.Array):
        table["leaf"] = _describe(leaf)
    return table


def _instructions(code: bytes, names: dict[int, str]) -> dict[str, Any]:
    """Instructions as base64, calls of kernel functions set right, and where a map's descriptor goes."""
    made, relocations = bytearray(code), []
    for at in range(0, len(code), 8):
        number = int.from_bytes(code[at + 4 : at + 8], "little", signed=True)
        if code[at] == LOAD_64 and code[at + 1] >> 4 == PSEUDO_MAP:
            relocations.append([at // 8, names[number]])
        elif code[at] == CALL and not code[at + 1] >> 4 and number & KFUNC:
            made[at + 1] |= PSEUDO_KFUNC << 4
            made[at + 4 : at + 8] = (number & ~KFUNC).to_bytes(4, "little")
    return {"code": base64.b64encode(made).decode(), "maps": relocations}


def _declare(lib: Any) -> None:
    """Types of the functions of libbcc that BCC's Python part does not declare itself (bcc/bpf_module.h)."""
    questions = ("bpf_table_type_id", "bpf_table_flags_id", "bpf_table_fd_id", "bpf_table_name")
    sizes = ("bpf_table_key_size_id", "bpf_table_leaf_size_id", "bpf_table_max_entries_id")
    for name in questions + sizes:
        function = getattr(lib, name)
        function.restype = (
            ctypes.c_char_p if name == "bpf_table_name" else ctypes.c_size_t if name in sizes else ctypes.c_int
        )
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def compile_image(text: str, flags: list[str]) -> dict[str, Any]:
    """Compile C text. Gives {"maps": […], "programs": {…}}, or {"error": first line, "log": all} when it fails."""
    kept: list[str] = []
    try:
        import bcc
        from bcc.libbcc import lib
    except ImportError as error:
        return {"error": f"cannot import BCC ({error})", "log": "", "missing": True}
    with _stderr_kept(kept):
        try:
            bpf = bcc.BPF(text=text, cflags=flags)
        except Exception as error:
            failure = str(error)
        else:
            failure = ""
    if failure:
        return {"error": failure, "log": kept[0]}
    _declare(lib)
    maps = [_table(bpf.module, lib, i, bpf) for i in range(lib.bpf_num_tables(bpf.module))]
    names = {table.pop("fd"): table["name"] for table in maps} | {MAP_ANCHOR: "anchor"}
    programs = {}
    for i in range(lib.bpf_num_functions(bpf.module)):
        name = lib.bpf_function_name(bpf.module, i)
        programs[name.decode()] = _instructions(bpf.dump_func(name), names)
    return {"maps": maps, "programs": programs}


def main() -> None:
    """Read {"text", "flags", "headers"} as JSON from stdin, write the image as JSON to stdout."""
    request = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    json.dump(compile_image(request["text"], request["flags"]), sys.stdout)


if __name__ == "__main__":
    main()
