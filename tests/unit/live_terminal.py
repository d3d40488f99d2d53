"""A program on a terminal of its own: a pseudo-terminal, with pyte to say what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

__all__ = ["ROOT", "Terminal", "with_session"]

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 30.0
_LEAVES_ALTERNATE_SCREEN = b"\x1b[?1049l"
_SHOWS_CURSOR = b"\x1b[?25h"
_STYLE = re.compile(rb"\x1b\[([0-9;]*)m")


class Terminal:
    """Runs `command` on a terminal of this size. A context manager; it ends what still runs."""

    def __init__(
        self, command: Sequence[str], columns: int = 80, lines: int = 24, environment: Mapping[str, str] | None = None
    ) -> None:
        self.output = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines, tell=False)
        self.settings: list[Any] = termios.tcgetattr(theirs)
        self._theirs = theirs
        variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=variables | {"TERM": "xterm-256color", "TZ": "UTC"} | dict(environment or {}),
            start_new_session=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, columns: int, lines: int, tell: bool = True) -> None:
        """Another size; the kernel tells a foreground process of its own, and we do where it has none."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        """Keys, as a terminal sends them."""
        os.write(self._ours, text.encode())

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what was written. Whether there was anything."""
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if not ready:
            return False
        try:
            piece = os.read(self._ours, 65536)
        except OSError:
            return False
        self.output += piece
        self._stream.feed(piece)
        return bool(piece)

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def until(self, done: Callable[[], bool]) -> None:
        """Read until this is so."""
        limit = time.monotonic() + _PATIENCE_S
        while not done():
            self.read()
            if time.monotonic() > limit:
                raise AssertionError(f"it does not happen; the screen:\n{self.text}")

    def until_text(self, *words: str) -> None:
        """Read until the screen has all these words."""
        self.until(lambda: all(word in self.text for word in words))

    def wait(self) -> int:
        """Read until the program ends; its exit code."""
        self.until(lambda: self.process.poll() is not None)
        while self.read():
            pass
        return self.process.returncode

    @property
    def after(self) -> str:
        """What was written after the screen was given back."""
        _, found, rest = self.output.rpartition(_LEAVES_ALTERNATE_SCREEN)
        assert found, "the screen was not given back"
        return re.sub(rb"\x1b\[[?>=<]?[0-9;]*[a-zA-Z]", b"", rest).decode()

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the program came."""
        order = [self.output.rfind(word) for word in (b"\x1b[?1049h", _LEAVES_ALTERNATE_SCREEN)]
        cursor = self.output.rfind(_SHOWS_CURSOR) > self.output.rfind(b"\x1b[?25l")
        mouse = self.output.rfind(b"\x1b[?1000l") > self.output.rfind(b"\x1b[?1000h")
        return order[0] < order[1] and cursor and mouse and termios.tcgetattr(self._theirs) == self.settings

    def colours(self) -> set[int]:
        """The numbers of all colours that were chosen (SGR); 39 and 49 are the terminal's own."""
        numbers = set()
        for parameters in _STYLE.findall(self.output):
            numbers |= {int(number) for number in parameters.split(b";") if number}
        return {number for number in numbers if number in (38, 48) or 30 <= number <= 47 or 90 <= number <= 107} - {39}


def with_session(script: str, *words: str) -> list[str]:
    """A command: numatrace with these words, and a made-up session. script: an expression for its `Script`."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from tests.unit.fake_session import Script, install
from tests.unit.live_fakes import *
from tracer.kernel.procfs import TargetGone
from tracer.errors import HooksMissing, NumatraceError
nap = lambda seconds: time.sleep(seconds) or True
install({script})
from tracer.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    return [sys.executable, "-c", code, *words]
