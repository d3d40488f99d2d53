"""The lines of JSON of all verbs: each says what it is, and has the keys of its schema and of docs/json.md only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import tracer.render
from tests.unit.fake_session import Script, session_module
from tests.unit.recordings import info_of, spaced, write_recording
from tests.unit.snapshots import REASONS, details, faults, flows, sample, snapshot, undocumented, vma
from tracer.cli.main import VERBS, build_parser, main
from tracer.kernel.procfs import TargetGone
from tracer.model.events import Kind as Fault
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind
from tracer.render.stream import VERSION, json_line

RENDER = Path(tracer.render.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()

FILES = {
    "placement": "placement",
    "session": "placement",
    "flows": "flows",
    "faults": "faults",
    "policy": "policy",
    "verification": "verification",
    "difference": "difference",
    "recording": "recording",
    "report": "report",
}
"""Type to the schema's file."""
PARTS = {"placement": "process", "session": "session"}
"""Of a schema that has several types, the definition of each."""
SCHEMAS: dict[str, dict[str, Any]] = {
    name: json.loads((RENDER / f"{name}.schema.json").read_text()) for name in set(FILES.values())
}

Capture = pytest.CaptureFixture[str]


def part(kind: str) -> dict[str, Any]:
    """The schema of a type's object."""
    schema = SCHEMAS[FILES[kind]]
    if kind in PARTS:
        definition: dict[str, Any] = schema["$defs"][PARTS[kind]]
        return definition
    return schema


def check(out: str) -> list[dict[str, Any]]:
    """The objects of a verb's output, each held against its schema."""
    assert out.isascii()
    assert out.endswith("\n")
    values = []
    for line in out[:-1].split("\n"):
        value = json.loads(line)
        schema = SCHEMAS[FILES[value["type"]]]
        jsonschema.Draft202012Validator(schema).validate(value)
        assert not undocumented(value, part(value["type"]), schema)
        assert list(value)[:2] == ["type", "version"]
        assert value["version"] == VERSION
        values.append(value)
    return values


def shot(number: int, pid: int = 42, full: bool = True) -> Snapshot:
    """With everything that a line may show, names that are not text included."""
    areas = [
        vma(0x400000, 16, Policy(Mode.BIND, 0, (0, 1)), Kind.FILE, b"/a b\xff\x1b"),
        vma(0x600000, 64, kind=Kind.HEAP, path=b"[heap]"),
        vma(0x7F0000000000, 1024, hugetlb=True, page_kb=2048),
    ]
    return snapshot(
        areas,
        [(5, number), (60 - number, number), (1, 1)],
        pid=pid,
        namespace_pid=7,
        comm=b"kid \xff",
        details=details([(1, 2, 3, 4, 5, 6)] * 3) if full else None,
        flows=flows([(1, 0, 1, 1, 2, 1), (-1, 1, 0, 2, 3, 0), (0, -1, 1, 0, 1, 0)]),
        faults=faults([(1, 0, 1, Fault.NEW, 7, 3), (-1, 1, -1, Fault.OTHER, 8, 1)]),
    )


def series() -> list[Sample]:
    machine = {"reasons": REASONS, "migrated": np.array([0, 9, 1]), "failed": np.array([0, 2, 0])}
    samples = [sample(shot(number), shot(number, 43), untraced=1, **machine) for number in range(4)]
    samples.append(sample(shot(4), ended=(shot(4, 43),), **machine))
    return spaced(samples)


def recorded(path: Path) -> str:
    info = replace(info_of(series()), threads=True, command_line=("numatrace", "record", "--follow-forks", "-p", "42"))
    write_recording(path, series(), info)
    return str(path)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live processes that give these samples."""
    script = Script(steps=[*series(), TargetGone("process 42 is gone")])
    monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))


def kinds(values: Sequence[dict[str, Any]]) -> list[str]:
    return [value["type"] for value in values]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("maps -p 42", ["placement", "placement"]),
        ("maps -p 42 --follow-forks --full", ["placement", "placement", "session"]),
        ("maps --name x --every 1", ["placement", "placement", "session"] * 4 + ["placement", "session"]),
        ("flows -p 42", ["flows"]),
        ("flows -p 42 --count 2 --every 0.01", ["flows"] * 2),
        ("faults -p 42 --threads", ["faults"]),
        ("faults -p 42 --node 1", ["faults"]),
        ("maps FILE", ["placement", "session"]),
        ("maps FILE --at +1s --full", ["placement", "placement", "session"]),
        ("maps FILE -p 43 --every 2", ["placement", "placement"]),
        ("flows FILE", ["flows"]),
        ("flows FILE --every 2", ["flows"] * 2),
        ("faults FILE --threads", ["faults"]),
        ("policy -p 42", ["policy"] * 2),
        ("policy -p 42 --every 0.01 --count 2 --as bind=1", ["policy"] * 4),
        ("policy FILE", ["policy"]),
        ("policy FILE --at +1s --as weighted=0:3,1:1", ["policy"] * 2),
        ("diff FILE", ["difference"]),
        ("diff FILE FILE --at start", ["difference"]),
        ("diff FILE --from start --to +1s --name kid*", ["difference"]),
        ("record -p 42 -o OUTPUT --every 0.01", ["recording"]),
        ("report FILE -o PAGE", ["report"]),
    ],
)
def test_lines_of_every_verb(words: str, expected: list[str], tmp_path: Path, capfd: Capture, live: None) -> None:
    file = recorded(tmp_path / "x.parquet")
    names = {"FILE": file, "OUTPUT": str(tmp_path / "y.parquet"), "PAGE": str(tmp_path / "page.html")}
    words = f"{words} --format json -q"
    assert main([names.get(word, word) for word in words.split()]) == 0
    out, err = capfd.readouterr()
    assert kinds(check(out)) == expected
    assert err == ""


def test_live_and_recorded_lines_have_the_same_keys(tmp_path: Path, capfd: Capture, live: None) -> None:
    file = recorded(tmp_path / "x.parquet")
    for verb, *words in (["maps", "--full"], ["flows"], ["faults", "--threads"], ["faults"]):
        keys = []
        for whose in (["-p", "42", "--follow-forks"], [file]):
            assert main([verb, *whose, *words, "--format", "json"]) == 0
            keys.append({(value["type"], *paths_in(value)) for value in check(capfd.readouterr().out)})
        assert keys[0] == keys[1]


def paths_in(value: Any, path: str = "") -> list[str]:
    """Paths of all keys of a value, sorted."""
    if isinstance(value, list):
        return sorted({one for item in value for one in paths_in(item, f"{path}[]")})
    if isinstance(value, dict):
        found = {f"{path}.{key}" for key in value if not key.isdecimal()}
        return sorted(found | {one for key, item in value.items() for one in paths_in(item, f"{path}.{key}")})
    return []


def test_every_verb_that_prints_has_json() -> None:
    (verbs,) = [action for action in build_parser()._actions if action.dest == "verb_name"]
    assert verbs.choices is not None
    silent = {"completion", "live", "replay"}  # a script, and what only a terminal can show
    for verb in VERBS:
        parser = verbs.choices[verb.name]  # type: ignore[index]
        formats = [action.choices for action in parser._actions if action.dest == "format"]
        assert (verb.name in silent) == (formats == []), verb.name
        assert all("json" in choices for choices in formats), verb.name


# The schemas, and the page that describes them


def test_every_schema_is_one_and_belongs_to_a_type() -> None:
    assert {path.name.split(".")[0] for path in RENDER.glob("*.schema.json")} == set(SCHEMAS)
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for kind in FILES:
        properties = part(kind)["properties"]
        assert properties["type"]["const"] == kind
        assert {"type", "version"} <= set(part(kind)["required"])
        assert SCHEMAS[FILES[kind]]["$defs"]["version"]["const"] == VERSION


@pytest.mark.parametrize("kind", ["difference", "recording", "report"])
def test_new_schemas_refuse_what_they_should(kind: str, tmp_path: Path, capfd: Capture, live: None) -> None:
    file = recorded(tmp_path / "x.parquet")
    words = {
        "difference": ["diff", file],
        "recording": ["record", "-p", "42", "--every", "0.01", "-o", str(tmp_path / "y.parquet")],
        "report": ["report", file, "-o", str(tmp_path / "page.html")],
    }
    assert main([*words[kind], "-q", "--format", "json"]) == 0
    (good,) = check(capfd.readouterr().out)
    validator = jsonschema.Draft202012Validator(SCHEMAS[kind])
    for key in SCHEMAS[kind]["required"]:
        assert not validator.is_valid({name: value for name, value in good.items() if name != key}), key
    for key in good:
        assert not validator.is_valid(good | {key: [3.5]}), key
    assert validator.is_valid(good | {"another": 1}), "keys may be added"


def documented(kind: str) -> set[str]:
    """Paths of all keys that the page describes for a type."""
    (section,) = re.findall(rf"^## `{kind}`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def described(schema: dict[str, Any], root: dict[str, Any], path: str = "") -> set[str]:
    """Paths of all keys of a schema. A key that stands for any is a star, but those that are nodes are no keys."""
    if "$ref" in schema:
        return described(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    found = set()
    for key, value in schema.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        found |= {here} | described(value, root, here)
    if isinstance(schema.get("additionalProperties"), dict):
        found |= described(schema["additionalProperties"], root, f"{path}.*")
    if "items" in schema:
        found |= described(schema["items"], root, f"{path}[]")
    return found


@pytest.mark.parametrize("kind", FILES)
def test_page_describes_every_key_and_no_other(kind: str) -> None:
    assert documented(kind) == described(part(kind), SCHEMAS[FILES[kind]])


def test_page_describes_every_type() -> None:
    assert set(re.findall(r"^## `(.*?)`$", PAGE, re.MULTILINE)) == set(FILES)
    changes = SCHEMAS["difference"]["$defs"]["vma_change"]["properties"]["changes"]["items"]["enum"]
    (words,) = re.findall(r"^Words of `changes`: (.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", words)) == set(changes)


def test_frame_cannot_carry_what_json_has_not() -> None:
    assert json_line("x", {"a": "\N{BULLET}\n"}) == r'{"type":"x","version":1,"a":"\u2022\n"}'
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            json_line("x", {"a": number})
