"""An example of examples/policy on its stage: it is led from phase to phase, and then tells what it did.

`Stage` is a shell that starts the examples one after another. A session that follows its children sees each of them
from its first page on, and one session does for all. `Play` is one example: whoever leads it looks at it before each
phase, when all its threads sleep. `Facts` is what it says of itself by construction (stage.h). Nothing of
numatrace is used here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.kernel.target import wait_asleep

__all__ = ["CANNOT", "EXAMPLES", "Area", "Facts", "Part", "Play", "Stage", "build_examples"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "policy"
CANNOT = 3
"""Exit status of an example that this machine or kernel cannot show."""
# Which line ends an example's output is the shell's to say: it also comes where the example fails.
_SHELL = 'while read -r line; do eval "$line" <&{0} >&{1}; status=$?; echo end >&{1}; echo "$status"; done'


def build_examples() -> Path:
    """Compile what is not compiled yet; the directory of the programs."""
    subprocess.run(["make", "-s", "-C", str(EXAMPLES)], check=True)
    return EXAMPLES / "bin"


@dataclass(frozen=True, slots=True)
class Part:
    """Pages between two addresses of which `pages` lie elsewhere, for this cause (`Cause.word`)."""

    start: int
    end: int
    cause: str
    pages: int


@dataclass(frozen=True, slots=True)
class Area:
    """Memory between two addresses, of `pages` small pages. verdict: in the words of stage.h."""

    start: int
    end: int
    pages: int
    verdict: str
    parts: tuple[Part, ...] = ()

    @property
    def causes(self) -> dict[str, int]:
        """Cause -> pages, without causes of no pages."""
        total: dict[str, int] = {}
        for part in self.parts:
            if part.pages:
                total[part.cause] = total.get(part.cause, 0) + part.pages
        return total


@dataclass(slots=True)
class Facts:
    """What an example did. areas, threads: by name."""

    pid: int = 0
    areas: dict[str, Area] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """Take in a line of stage.h."""
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        name = values.get("name", "")
        if kind == "area":
            start, end = int(values["start"], 16), int(values["end"], 16)
            self.areas[name] = Area(start, end, int(values["pages"]), values["verdict"])
        elif kind == "cause":
            part = Part(int(values["start"], 16), int(values["end"], 16), values["cause"], int(values["pages"]))
            area = self.areas[name]
            self.areas[name] = Area(area.start, area.end, area.pages, area.verdict, (*area.parts, part))
        elif kind == "thread":
            self.threads[name] = int(values["id"])
        elif kind == "ready":
            self.pid = int(values["pid"])
        else:
            raise AssertionError(f"an example said {line!r}")


class Stage:
    """The shell. A context manager: its end is the end of what it plays."""

    def __enter__(self) -> Self:
        child_in, self._to_play = os.pipe()
        self._from_play, child_out = os.pipe()
        self._shell = subprocess.Popen(
            ["/bin/bash", "-c", _SHELL.format(child_in, child_out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(child_in, child_out),
        )
        os.close(child_in)
        os.close(child_out)
        self.pid = self._shell.pid
        self.to_play = os.fdopen(self._to_play, "w", buffering=1)
        self.from_play = os.fdopen(self._from_play, "r")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An example that is still under way reads the end of its input, and ends.
        for stream in (self.to_play, self._shell.stdin):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._shell.wait()
        assert self._shell.stdout is not None
        self._shell.stdout.close()
        self.from_play.close()

    @contextlib.contextmanager
    def play(self, name: str, *words: object) -> Iterator[Play]:
        """Start an example; at the end it is told to end, and has."""
        program = build_examples() / name
        command = shlex.join([str(program), *map(str, words), "--step"])
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\n")
        self._shell.stdin.flush()
        play = Play(self.pid, self.to_play, self.from_play)
        try:
            yield play
        finally:
            play.end()
            play.status = int(self._shell.stdout.readline())


class Play:
    """One example. `phases` leads it; `facts` is complete, and all its processes sleep, when that has ended.

    status: its exit status, once it has ended.
    """

    def __init__(self, shell: int, to_play: IO[str], from_play: IO[str]) -> None:
        self._shell, self._to, self._from = shell, to_play, from_play
        self._over = False
        self.facts = Facts()
        self.status: int | None = None

    @property
    def ready(self) -> bool:
        """Whether it came to the end of its phases; one that cannot be shown here does not."""
        return bool(self.facts.pid)

    def processes(self) -> list[int]:
        """PIDs of all processes of the example, the first one first."""
        return _descendants(self._shell)

    def phases(self) -> Iterator[str]:
        """Names of its phases. The example sleeps before each until the next name is asked for, and after the last."""
        for line in self._from:
            if line == "end\n":
                self._over = True
                return
            word, _, rest = line.partition(" ")
            if word == "phase":
                self._settle()
                yield rest.partition(":")[0]
                print(file=self._to, flush=True)
                continue
            self.facts.add(line)
            if word == "ready":
                self._settle()
                return

    def end(self) -> None:
        """Let it end, and wait for that."""
        for _ in self.phases() if not self.ready and not self._over else ():
            pass
        if not self._over:
            print(file=self._to, flush=True)
            assert self._from.readline() == "end\n"
            self._over = True

    def _settle(self) -> None:
        for pid in self.processes():
            wait_asleep(pid)


def _descendants(pid: int) -> list[int]:
    """Children of a process, and theirs, by PID."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name before it may hold anything.
            parent = int(path.read_bytes().rpartition(b") ")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        left += (own := sorted(children.get(left.pop(), [])))
        found += own
    return sorted(found)
