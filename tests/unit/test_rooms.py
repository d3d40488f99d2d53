"""Who may import whom (docs/architecture.md), read from the sources: also what is imported inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "tracer").rglob("*.py"))

ALLOWED = {
    "errors": set[str](),
    "model": {"errors", "model"},
    "kernel": {"errors", "model", "kernel"},
    "session": {"errors", "model", "kernel", "session"},
    "render": {"errors", "model", "render"},
    "record": {"errors", "model", "record"},
    "live": {"errors", "model", "render", "live"},
    "report": {"errors", "model", "render", "record", "report"},
    "api": {"errors", "model", "kernel", "session", "record", "api"},
}
PURE = {"errors", "model", "render"}
IMPURE = {"asyncio", "ctypes", "fcntl", "io", "mmap", "multiprocessing", "os", "select", "shutil", "signal"}
IMPURE |= {"socket", "subprocess", "sys", "tempfile", "threading", "time"}


def room(path: Path) -> str:
    """The room of a module: its package inside tracer/, or its own name; `session_settle.py` is of the session."""
    first = path.relative_to(ROOT / "tracer").parts[0]
    return first.removesuffix(".py").split("_")[0] if first.startswith("session") else first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    own = (name.split(".") for name in imports(path) if name.split(".")[0] == "tracer")
    return {room(ROOT / "tracer" / parts[1]) for parts in own if parts[1:] != ["__version__"]}


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_room_of_the_table_exists() -> None:
    assert {room(path) for path in MODULES} >= set(ALLOWED) | {"cli"}


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in ALLOWED], ids=identify)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert rooms_imported(path) <= ALLOWED[room(path)]


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in PURE], ids=identify)
def test_pure_rooms_import_nothing_that_does_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


DOORS = {
    "bcc": {"tracer/kernel/bpf.py"},
    "pyarrow": {"tracer/record"},
    "textual": {"tracer/live"},
    "rich": {"tracer/live"},
    "matplotlib": {"tracer/report"},
    "jinja2": {"tracer/report"},
    "pandas": {"tracer/api"},
}
"""A library, and the module or the room through which alone it comes in."""


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = [path for path in MODULES if any(name.split(".")[0] == library for name in imports(path))]
    names = {identify(path) for path in users} | {identify(path.parent) for path in users}
    assert users
    assert DOORS[library] <= names
    assert all(any(identify(path).startswith(door) for door in DOORS[library]) for path in users)
