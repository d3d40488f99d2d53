"""The story of `make demo`, told inside a virtual machine with several nodes (it works as well on a real one, as root).

A process interleaves its memory over all nodes; `numatrace maps --every` watches it; then half of the nodes' pages
are migrated to the other half, and the next snapshots show it. The kernel is asked, and its count must be the one that
was shown. Then the pages are moved back, and `numatrace flows` says which went where and why. What it is not: a test of
accuracy; those are in tests/kernel. Exit status 0, or 1 when the counts differ.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import IO

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.demo_interleave import nodes_with_memory

REPOSITORY = Path(__file__).resolve().parents[2]
SNAPSHOTS = 3
SECONDS = 3  # between snapshots: longer than the migration takes


def main() -> int:
    """Tell it; see the module."""
    nodes = nodes_with_memory()
    if len(nodes) < 2:
        print("demo: this machine has one node with memory: nothing can migrate", file=sys.stderr)
        return 1
    example = [sys.executable, str(REPOSITORY / "examples/demo_interleave.py")]
    _say(f"This machine has memory on nodes {_list(nodes)}. A process maps 64 MiB, interleaved over all of them:")
    _command(["python", "examples/demo_interleave.py"], "&")
    with subprocess.Popen(example, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        _, pid, address = process.stdout.readline().split()
        print(f"ready {pid} {address}")
        same = _watch(pid, address, nodes)
        _flows(pid, nodes)
        process.stdin.close()
    return 0 if same else 1


def _watch(pid: str, address: str, nodes: list[int]) -> bool:
    """Show snapshots of the process, migrating after the first. True when the last one says what the kernel says."""
    command = ["maps", "-p", pid, "--every", str(SECONDS), "--count", str(SNAPSHOTS)]
    _say("numatrace attaches its hooks, reads the process once and counts on (in an emulated machine, half a minute):")
    _command(["numatrace", *command])
    program = str(Path(sys.executable).parent / "numatrace")
    print("(It prints a line for every mapping; only that of the 64 MiB is shown here.)", flush=True)
    line = ""
    with subprocess.Popen([program, *command], stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        for number in range(SNAPSHOTS):
            line = _line_of(address, tracer.stdout)
            if not line:
                print(f"demo: snapshot {number + 1} lacks the mapping {address}", file=sys.stderr)
                return False
            print(line, flush=True)
            if number == 0:
                _migrate(pid, nodes)
        tracer.stdout.read()
    lines = Path(f"/proc/{pid}/numa_maps").read_text().splitlines()
    kernel = next(text for text in lines if text.startswith(address))
    _say("And this is what the kernel says, having walked every page of the process:")
    _command(["grep", address, f"/proc/{pid}/numa_maps"])
    print(kernel)
    same = _pages(line) == _pages(kernel)
    _say("The same pages on the same nodes." if same else "The counts differ: this is a bug in numatrace.")
    return same


def _flows(pid: str, nodes: list[int]) -> None:
    """Let the pages go back, and show where they went and why."""
    command = ["flows", "-p", pid, "--every", str(SECONDS), "--count", "2", "--vmas", "1"]
    program = str(Path(sys.executable).parent / "numatrace")
    _say("Where do pages go, and why? The same the other way round, watched by `numatrace flows` (half a minute):")
    _command(["numatrace", *command])
    with subprocess.Popen([program, *command], stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        if _line_of("# flows", tracer.stdout):
            _migrate(pid, nodes, back=True)
        print(tracer.stdout.read(), end="", flush=True)


def _line_of(address: str, stream: IO[str]) -> str:
    """The line of a mapping in the snapshot that comes next; empty when the output ends before.

    It does not wait for the end of the snapshot, which shows only when the next one begins.
    """
    return next((line.rstrip("\n") for line in stream if line.startswith(address)), "")


def _migrate(pid: str, nodes: list[int], back: bool = False) -> None:
    half = len(nodes) // 2
    first, second = _list(nodes[:half]), _list(nodes[half:])
    command = ["migratepages", pid, *((second, first) if back else (first, second))]
    _say("Now the kernel is told to move the pages of one half of the nodes to the other half:")
    _command(command)
    subprocess.run(command, check=True)
    _say("What numatrace says then, from the events that told it where to look again:")


def _pages(line: str) -> dict[str, str]:
    """Node -> pages of a line of numa_maps."""
    return dict(re.findall(r" (N\d+)=(\d+)", line))


def _list(nodes: list[int]) -> str:
    return ",".join(str(node) for node in nodes)


def _say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _command(words: list[str], suffix: str = "") -> None:
    print(f"$ {shlex.join(words)} {suffix}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
