"""`--check PERCENT`: which share reaches the session, and where it makes no sense."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.fake_session import Script, session_module
from tests.unit.recordings import write_recording
from tests.unit.snapshots import sample, snapshot, vma
from tracer.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    it = Script(steps=[snapshot([vma()], [(1, 2)])])
    monkeypatch.setitem(sys.modules, "tracer.session", session_module(it))
    return it


@pytest.mark.parametrize(
    "words",
    [
        "maps -p 42 --every 0.01 --count 1",
        "flows -p 42 --duration 0.01",
        "faults -p 42 --count 1 --every 0.01",
        "policy -p 42 --duration 0.01",
        "record -p 42 --duration 0.01 --every 0.01 -o OUTPUT",
    ],
)
@pytest.mark.parametrize(("percent", "share"), [("1", 0.01), ("100", 1.0), ("0.5", 0.005), ("5", 0.05)])
def test_the_share_reaches_the_session(
    words: str, percent: str, share: float, script: Script, tmp_path: Path, capfd: Capture
) -> None:
    words = words.replace("OUTPUT", str(tmp_path / "x.parquet"))
    assert main([*words.split(), "--check", percent]) == 0
    assert script.events[0][2].check == pytest.approx(share)


def test_nothing_is_checked_unless_it_is_asked_for(script: Script, capfd: Capture) -> None:
    assert main(["maps", "-p", "42"]) == 0
    assert script.events[0][2].check == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("maps -p 42 --check 1", "there is only one"),
        ("policy -p 42 --check 1", "there is only one"),
        ("maps -p 42 --every 1 --check 1 --hooks none", "--hooks none has none"),
        ("flows -p 42 --check 0", "not a share of memory"),
        ("flows -p 42 --check 101", "not a share of memory"),
        ("flows -p 42 --check 5%", "not a share of memory"),
        ("record -p 42 -o OUTPUT --check 1 --reader numa_maps", "--reader numa_maps has none"),
        ("live -p 42 --check 1 --hooks none", "--hooks none has none"),
    ],
)
def test_where_it_makes_no_sense(words: str, said: str, script: Script, tmp_path: Path, capfd: Capture) -> None:
    assert main(words.replace("OUTPUT", str(tmp_path / "x.parquet")).split()) == 2
    assert said in capfd.readouterr().err
    assert script.events == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("percent", ["5", "50"])
@pytest.mark.parametrize("verb", ["maps", "flows", "faults", "policy"])
def test_a_recording_cannot_be_checked(verb: str, percent: str, tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "x.parquet"
    write_recording(path, [sample(snapshot([vma()], [(1, 2)]))])
    assert main([verb, str(path), "--check", percent]) == 2
    assert "--check is about live processes" in capfd.readouterr().err
