"""The story of `make demo-policy`, told inside a virtual machine with several nodes (as well on a real one, as root).

Each program of examples/policy makes a mistake with a memory policy, and `numatrace policy` says what became of it and
why. What the program knows that it did by construction stands above each report, so that the two can be compared. What
it is not: a test; those are in tests/policy. Exit status 0, or 1 when a report lacks a cause that the program names.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kernel import machine
from tests.policy.stage import CANNOT, EXAMPLES, build_examples

REPOSITORY = Path(__file__).resolve().parents[2]
_STORY = (
    "after_first_touch",
    "wrong_thread",
    "page_cache",
    "shared_memory",
    "node_full",
    "balancing",
    "weights_changed",
    "huge_pages",
    "java_heap",
    "fork_server",
    "stride",
    "collapsed",
    "merged",
    "honest",
)
_AREAS = {"huge_pages": 2, "honest": 0}
# Between two phases, and at the end: a look in an emulated machine takes about a second.
_TIMES = ("--pause", "3", "--seconds", "5")


def main() -> int:
    """Tell it; see the module. Names of examples on the command line: only these."""
    nodes = machine.nodes_with_memory()
    print(f"This machine has memory on nodes {','.join(map(str, nodes))}.", flush=True)
    build_examples()
    wrong = []
    with machine.owned(), machine.quiet(), tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "files"
        directory.mkdir()
        # The home directory of a guest is read-only: without this each report would begin with a minute of clang.
        os.environ.setdefault("NUMATRACE_FACTS", str(Path(scratch) / "facts"))
        with machine.cached_files(directory) as files:
            for name in sys.argv[1:] or _STORY:
                with _prepared(name):
                    if not _tell(name, files):
                        wrong.append(name)
    if wrong:
        print(f"demo: not told as they should be: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


@contextlib.contextmanager
def _prepared(name: str) -> Iterator[None]:
    """The machine as the example needs it."""
    with machine.numa_balancing() if name == "balancing" else contextlib.nullcontext():
        yield


def _tell(name: str, files: Path) -> bool:
    """The head of the program, and what numatrace says of it; whether all its causes are told."""
    head = (EXAMPLES / f"{name}.c").read_text().partition("\n\n")[0]
    print(f"\n{'=' * 100}\n" + re.sub(r"^// ?", "# ", head, flags=re.MULTILINE), flush=True)
    words = [str(EXAMPLES.relative_to(REPOSITORY) / "bin" / name), *_TIMES]
    words += ["--directory", str(files)] if name == "page_cache" else []
    options = ["--follow-forks"] if name == "fork_server" else []
    # Below what the program is about come the libraries, whose pages other processes have read in.
    command = ["policy", "--vmas", str(_AREAS.get(name, 1)), *options, "--", *words]
    print(f"\n$ numatrace {shlex.join(command)}", flush=True)
    with subprocess.Popen(
        [str(Path(sys.executable).parent / "numatrace"), *command],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    return process.returncode == CANNOT or (process.returncode == 0 and _is_complete(said))


def _is_complete(said: list[str]) -> bool:
    """Whether each cause that the program names with pages is in the report that follows."""
    facts = [line for line in said if line.startswith("cause ")]
    wanted = {found[1] for line in facts if (found := re.search(r"cause=(\S+) pages=[1-9]", line))}
    ready = next((at for at, line in enumerate(said) if line.startswith("ready ")), len(said))
    report = "".join(said[ready:])
    return all(cause in report for cause in wanted)


if __name__ == "__main__":
    sys.exit(main())
