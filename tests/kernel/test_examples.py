"""The pages in examples/, run end to end as a user runs them: as scripts, and cell by cell as a notebook does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.target import Target

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAGES = ("watch", "record_and_analyse", "find_interleave_bug")
SECONDS = 600  # an emulated machine needs minutes

NOTEBOOK = """
import pathlib, sys
sys.argv = ["ipykernel_launcher.py", "-f", "/run/user/0/kernel-1.json"]  # as in Jupyter; there is no __file__
names = {"__name__": "__main__"}
for cell in pathlib.Path(sys.stdin.readline().strip()).read_text().split("# %%"):
    if not cell.startswith(" [markdown]"):
        exec(compile(cell, "cell", "exec"), names)
"""


def run(*words: str, cwd: Path | None = None, stdin: str = "") -> str:
    """What it printed, warnings being errors. AssertionError where it failed or complained."""
    command = [sys.executable, "-W", "error", *words]
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def check_watch(said: str) -> None:
    assert len(re.findall(r"^\d\d:\d\d:\d\d  N\d", said, re.MULTILINE)) == 5
    changes = [int(number) for number in re.findall(r"\( *([+-]\d+)\)", said)]
    assert any(changes), "the workload never stands still"
    assert re.search(r" new +\d+$", said, re.MULTILINE)
    # It runs on while it is read: something may be settling.
    assert re.search(r"^tracepoint +walk +\d+ +\d+ +0 +0$", said.strip().splitlines()[-1])


def check_record_and_analyse(said: str) -> None:
    assert re.search(r"recording '.*workload\.parquet': \d+ samples", said)
    assert re.search(r"^of \d+ samples: \d+ settling, \d+ unexplained, 0 lost, 0 drift$", said, re.MULTILINE)
    table = re.search(r"from the least .*\n.*\n(.*\n)", said)
    assert table is not None
    assert int(table[1].split()[-1]) >= 16 << 20, "a table of 64 MiB is filled by halves"
    assert re.search(r"^cpu_node +\n0 +", said, re.MULTILINE)


def check_find_interleave_bug(said: str) -> None:
    names = {line.split()[1]: line for line in said.splitlines() if re.match(r"[0-9a-f]{8,} ", line)}
    assert {"right", "late", "thread", "huge"} <= set(names)
    assert all("interleave" in line for line in names.values())
    if "nodes with memory: [0]\n" in said:
        assert "every spread is even here" in said
        assert "WRONG" not in said
        return
    verdicts = {line.split(":")[0].split()[2]: line for line in said.splitlines() if re.match("right |WRONG ", line)}
    assert verdicts["right"].startswith("right")
    assert "8192 pages were there before the policy" in verdicts["late"]
    assert "set_mempolicy is per thread" in verdicts["thread"]
    assert "huge pages of 2 MiB cannot be spread evenly" in verdicts["huge"]


CHECKS = {
    "watch": check_watch,
    "record_and_analyse": check_record_and_analyse,
    "find_interleave_bug": check_find_interleave_bug,
}


@pytest.mark.parametrize("page", PAGES)
def test_as_a_script_from_anywhere(page: str, tmp_path: Path) -> None:
    CHECKS[page](run(str(EXAMPLES / f"{page}.py"), cwd=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("page", PAGES)
def test_cell_by_cell_as_a_notebook(page: str) -> None:
    CHECKS[page](run("-c", NOTEBOOK, cwd=EXAMPLES.parent, stdin=str(EXAMPLES / f"{page}.py\n")))


@pytest.mark.parametrize("page", ["watch", "find_interleave_bug"])
def test_with_a_process_of_the_users_own(page: str) -> None:
    with Target() as target:
        said = run(str(EXAMPLES / f"{page}.py"), str(target.pid))
        assert f"watching {target.pid}" in said


def test_every_page_is_run_and_listed() -> None:
    pages = {path.stem for path in EXAMPLES.glob("*.py") if path.read_text().startswith("# %%")}
    assert pages == set(PAGES)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in EXAMPLES.glob("*.py"))
