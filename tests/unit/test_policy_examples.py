"""The examples of examples/policy build without a warning, run anywhere, and say what they are for.

What numatrace tells of them is tested where there are several nodes, in tests/policy.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.policy.stage import CANNOT, EXAMPLES, Facts, Stage
from tracer.model.cause import Cause

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.c") if path.stem != "stage")
# They fill no node and wait for no kernel here: this may be somebody's machine.
HARMLESS = {"node_full": ["--most", "0"], "balancing": ["--patience", "0"], "merged": ["--patience", "0"]}
USAGE = 2
VERDICTS = {"as-promised", "skewed", "cannot-apply", "not-skewed"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all of them, compiled here and now: a warning is an error."""
    directory = tmp_path_factory.mktemp("examples")
    words = ["make", "-s", "-C", str(EXAMPLES), f"BIN={directory}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return directory


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=program.parent,
        check=False,
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_ends_with_its_input(name: str, programs: Path) -> None:
    done = run(programs / name, "4", *HARMLESS.get(name, []))
    assert done.returncode in (0, CANNOT), done.stdout + done.stderr
    if done.returncode == CANNOT:
        assert len(done.stderr.splitlines()) == 1, "why it cannot, in a line"
        assert "ready" not in done.stdout
        return
    assert not done.stderr
    facts = Facts()
    for line in done.stdout.splitlines():
        if not line.startswith("phase "):
            facts.add(line)
    assert facts.pid
    assert facts.areas
    for area in facts.areas.values():
        assert area.verdict in VERDICTS
        assert area.end - area.start == area.pages << 12
        assert all(Cause.of_word(part.cause) is not Cause.UNKNOWN for part in area.parts)
        assert all(area.start <= part.start < part.end <= area.end for part in area.parts)
        assert sum(area.causes.values()) <= area.pages


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_is_wrong_and_what_helps(name: str) -> None:
    text = (EXAMPLES / f"{name}.c").read_text()
    head = re.sub(r"\n// ?", " ", text.partition("\n\n")[0])
    assert "numatrace must say" in head
    if name != "honest":
        assert head.startswith("// Mistake")
        assert "Remedy: " in head
        words = set(re.findall(r'tell_cause\([^;]*"([a-z-]+)"', text))
        assert words
        assert all(word in head for word in words)


def test_an_option_that_it_does_not_know(programs: Path) -> None:
    done = run(programs / "honest", "--nonsense")
    assert done.returncode == USAGE
    assert done.stderr.startswith("usage: ")


def test_small_areas_are_those_of_the_seed(programs: Path) -> None:
    def areas(seed: int) -> list[str]:
        done = run(programs / "honest", "2", "--many", "20", "--seed", str(seed))
        assert f"from seed {seed}" in done.stdout
        return [line for line in done.stdout.splitlines() if "small-" in line]

    assert len(areas(7)) == 20
    assert areas(7) == areas(7)
    assert areas(7) != areas(8)


def test_by_steps_it_waits_before_each_phase() -> None:
    with Stage() as stage, stage.play("after_first_touch", 2) as play:
        assert list(play.phases()) == ["touch", "policy"]
        assert play.ready
        assert play.processes() == [play.facts.pid]
    assert play.status == 0


def test_each_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in NAMES if f"({name}.c)" not in listed] == []
