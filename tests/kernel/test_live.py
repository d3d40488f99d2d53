"""The live view on a real terminal emulator (tmux), of real processes, with the kernel's numa_maps as the oracle."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.target import ANSWER_SECONDS, Target, read_truth
from tests.kernel.world import HUGE, PAGE, World
from tests.unit.live_terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tracer.cli.main", "live", "--every", "0.2"]
WORKLOAD = [sys.executable, str(ROOT / "examples" / "workload.py")]
ANOTHER_COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


class Tmux:
    """A server of our own with one window, in which a shell runs the commands that are typed."""

    def __init__(self, directory: Path, columns: int, lines: int) -> None:
        self._socket = str(directory / "tmux")
        size = ("-x", str(columns), "-y", str(lines))
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TMUX")}
        shell = f"cd {ROOT}; PS1='$ ' exec sh"
        subprocess.run(
            ["tmux", "-S", self._socket, "-f", os.devnull, "new-session", "-d", *size, shell],
            check=True,
            env=environment | {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
        self.until(lambda: "$" in self.text)

    def _do(self, *words: str) -> str:
        return subprocess.run(
            ["tmux", "-S", self._socket, *words], check=True, capture_output=True, text=True, encoding="utf-8"
        ).stdout

    def close(self) -> None:
        self._do("kill-server")

    @property
    def text(self) -> str:
        """The screen."""
        return self._do("capture-pane", "-p")

    @property
    def styled(self) -> str:
        """The screen with its escape sequences."""
        return self._do("capture-pane", "-p", "-e")

    def run(self, *command: str) -> None:
        """Have the shell run a command."""
        self.type(shlex.join(command))

    def type(self, line: str) -> None:
        """A line for the shell, and Enter."""
        self._do("send-keys", "-l", line)
        self._do("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Keys, as tmux names them."""
        self._do("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self._do("resize-window", "-x", str(columns), "-y", str(lines))

    def until(self, done: Callable[[], bool]) -> None:
        limit = time.monotonic() + ANSWER_SECONDS
        while not done():
            if time.monotonic() > limit:
                raise AssertionError(f"it does not happen; the screen:\n{self.text}")
            time.sleep(0.05)

    def until_text(self, *words: str) -> None:
        self.until(lambda: all(word in self.text for word in words))

    def line(self, word: str) -> str:
        return next((line for line in self.text.splitlines() if word in line), "")


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    running = Tmux(tmp_path, 80, 24)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        yield World(target, nodes, files)


def shown_totals(screen: str) -> dict[int, int]:
    """Pages per node, from the head."""
    return {int(node): int(pages) for node, pages in re.findall(r"N(\d+)\[[^\]]*\] *(\d+)", screen)}


def true_totals(pid: int) -> dict[int, int]:
    total: dict[int, int] = {}
    for area in read_truth(pid).areas:
        for node, pages in area.line.nodes.items():
            total[node] = total.get(node, 0) + pages
    return total


def test_a_target_from_the_first_look_to_its_end(tmux: Tmux, world: World) -> None:
    pid = world.pid
    world.map(0, 8 * HUGE)
    world.write(0, 100 * PAGE)
    address = f"{world.address(0):012x}"
    tmux.run(*COMMAND, "-p", str(pid))
    tmux.until_text(f"numatrace  {pid} placement", "hooks tracepoint", "reader walk", "lost 0", "F1Help")
    tmux.until(lambda: shown_totals(tmux.text) == true_totals(pid))

    # What the target does next is on the screen, to the page.
    tmux.press("/")
    tmux.until_text("Search:")
    tmux.press("-l", address)
    tmux.press("Enter")
    tmux.until(lambda: " 100 " in tmux.line(address))
    world.write(100 * PAGE, 23 * PAGE)
    tmux.until(lambda: " 123 " in tmux.line(address))
    tmux.until(lambda: shown_totals(tmux.text) == true_totals(pid))

    # Into the area and back, and to the flows and back.
    tmux.press("Enter")
    tmux.until_text("regions", "policy default", "first touch")
    tmux.press("Escape")
    tmux.until_text("ADDRESS")
    tmux.press("f")
    tmux.until_text("pages that moved")
    tmux.press("q")
    tmux.until_text("ADDRESS")

    # Sizes: what does not fit goes, what fits again comes back.
    tmux.resize(132, 43)
    tmux.until_text("POLICY", "IInvert")
    tmux.resize(50, 12)
    tmux.until(lambda: "POLICY" not in tmux.text and "F1Help" in tmux.text and len(tmux.text.splitlines()) == 12)
    tmux.resize(80, 24)
    tmux.until_text("POLICY", "MOV/s")
    assert ANOTHER_COLOUR.search(tmux.styled)

    tmux.press("p")
    tmux.until_text("paused")
    tmux.press("p")
    world.target.kill()
    tmux.until_text("exited")
    assert " 123 " in tmux.line(address), "the last state stays"
    tmux.press("q")
    tmux.until(lambda: "ADDRESS" not in tmux.text and tmux.text.rstrip().endswith("$"))
    tmux.type("echo code=$?; stty -a | tr ' ' '\\n' | grep -x -e -icanon -e -echo -e -isig; echo done")
    tmux.until_text("code=0\ndone")


def test_another_terminal_emulator_shows_the_same(world: World) -> None:
    world.map(0, HUGE)
    world.write(0, 77 * PAGE)
    with Terminal([*COMMAND, "-p", str(world.pid)], 120, 40) as terminal:
        terminal.until(lambda: shown_totals(terminal.text) == true_totals(world.pid))
        world.write(77 * PAGE, 5 * PAGE)
        terminal.until(lambda: shown_totals(terminal.text) == true_totals(world.pid))
        terminal.type("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()


def test_without_colour(tmux: Tmux, world: World) -> None:
    tmux.run(*COMMAND, "--no-color", "-p", str(world.pid))
    tmux.until_text(f"{world.pid} placement", "ADDRESS")
    assert not ANOTHER_COLOUR.search(tmux.styled)
    tmux.press("f")
    tmux.until_text("pages that moved")
    assert not ANOTHER_COLOUR.search(tmux.styled)
    tmux.press("q")
    tmux.until_text("ADDRESS")
    tmux.press("q")
    tmux.until(lambda: tmux.text.rstrip().endswith("$"))


def test_a_command_with_children(tmux: Tmux) -> None:
    tmux.run(*COMMAND, "--follow-forks", "--", *WORKLOAD, "--seconds", "6", "--mib", "16", "-v")
    tmux.until_text("ADDRESS")
    # A child lives for a beat; then there are two, and a tree of them.
    tmux.press("t")
    tmux.until_text("2 targets")
    tmux.until_text("exited with code 0")
    assert "fault in the first half" not in tmux.text, "the command must not write into the screen"
    tmux.press("q")
    tmux.until(lambda: tmux.text.rstrip().endswith("$"))


def test_the_command_goes_on_when_the_view_is_left(tmux: Tmux) -> None:
    tmux.run(*COMMAND, "--", "sleep", "300")
    tmux.until_text("ADDRESS", "sleep")
    tmux.press("F10")
    tmux.until_text("numatrace: sleep goes on as process")
    found = re.search(r"as process (\d+)", tmux.text)
    assert found is not None
    pid = int(found[1])
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    os.kill(pid, signal.SIGKILL)
