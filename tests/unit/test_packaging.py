"""The wheel holds what the program needs at run time, and names nothing that it must not."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_INPUTS = ("pyproject.toml", "README.md", "LICENSE", "LICENSES", "tracer", "bpf")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of a copy of the sources: building in place would leave files in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILD_INPUTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("numatrace-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_every_bpf_source_is_inside(wheel: zipfile.ZipFile) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bpf").rglob("*.[ch]")}
    assert any(name.endswith(".c") for name in sources)
    assert any(name.startswith("bpf/stub/include/") for name in sources)
    for name in sources:
        assert wheel.read(f"tracer/{name}") == (ROOT / name).read_bytes()


def test_an_unpacked_wheel_finds_its_own_bpf_sources(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    ask = "from tracer.kernel.programs import source_directory; print(source_directory())"
    path = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", ask], cwd="/", env=path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == tmp_path / "tracer" / "bpf"


def test_nothing_lies_outside_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0].partition("-")[0] for name in wheel.namelist()} == {"tracer", "numatrace"}


def test_the_json_schema_and_the_type_marker_are_inside(wheel: zipfile.ZipFile) -> None:
    for name in ("placement", "flows", "faults", "policy", "verification", "difference", "recording", "report"):
        assert json.loads(wheel.read(f"tracer/render/{name}.schema.json"))["type"] == "object"
    assert "tracer/py.typed" in wheel.namelist()


def test_every_module_is_inside(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracer").rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_the_command_is_numatrace(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "numatrace = tracer.cli.main:main" in wheel.read(name).decode().splitlines()


def test_pypis_bcc_is_no_dependency(metadata: Message) -> None:
    """It is another project; ours comes with the distribution, as python3-bpfcc."""
    required = metadata.get_all("Requires-Dist") or []
    assert any(line.startswith("numpy") for line in required)
    assert not any(line.lower().startswith("bcc") for line in required)


def test_the_licences_are_inside(metadata: Message, wheel: zipfile.ZipFile) -> None:
    named = metadata.get_all("License-File") or []
    assert {"LICENSE", "LICENSES/GPL-2.0-only.txt"} <= set(named)
    assert all(any(inside.endswith(f"licenses/{name}") for inside in wheel.namelist()) for name in named)


@pytest.mark.parametrize("path", sorted((ROOT / "bpf").rglob("*.[ch]")), ids=lambda path: path.name)
def test_bpf_sources_name_their_licence(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert "SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0" in first
