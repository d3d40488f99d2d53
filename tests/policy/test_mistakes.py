"""Each mistake of examples/policy: numatrace gives its verdict and its causes, with the number of pages to the page.

What is expected is what the example did by construction, and what move_pages(2) says of each page. Only `balancing`,
`node_full` and `merged` leave it to the kernel how many pages it concerns; they count them by move_pages(2) themselves.
So there is no tolerance anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernel import machine
from tests.policy.stage import CANNOT, Area, Facts, Stage
from tests.policy.table import Row, Table
from tests.policy.told import causes_of, finding_of, findings_of, lead, snapshot_of, verdict_of
from tests.policy.where import elsewhere, nodes_of, spread
from tracer.model.verdict import Verdict
from tracer.session import Options, Session

Int64s = npt.NDArray[np.int64]

MISTAKES = (
    "after_first_touch",
    "wrong_thread",
    "page_cache",
    "shared_memory",
    "java_heap",
    "fork_server",
    "huge_pages",
    "weights_changed",
    "node_full",
    "stride",
    "collapsed",
    "merged",
)
WEIGHTS = Path("/sys/kernel/mm/mempolicy/weighted_interleave")


@dataclass(frozen=True, slots=True)
class Expected:
    """first: the number by which the kernel interleaves the first page. order: in which the pages were allocated."""

    first: int
    order: int = 0


def numbering(name: str, key: str, pid: int, area: Area) -> Expected:
    """Private memory goes by address, a file by its own pages, shared memory by these and the inode."""
    if name == "page_cache":
        return Expected(0)
    if name == "shared_memory":
        (link,) = Path(f"/proc/{pid}/map_files").glob(f"{area.start:x}-{area.end:x}")
        return Expected(link.stat().st_ino)
    return Expected(area.start >> 12, 9 if key in ("huge", "collapsed") else 0)


def check_construction(name: str, facts: Facts, nodes: Sequence[int]) -> dict[str, int]:
    """move_pages(2) finds as many pages elsewhere as the example says, in each part; by memory, how many."""
    counts = {}
    for key, area in facts.areas.items():
        numbers = numbering(name, key, facts.pid, area)
        actual = nodes_of(facts.pid, area.start, area.end)
        assert (actual >= 0).all() or name == "stride", f"{name}: {key} was not touched"
        expected = spread(numbers.first, area.pages, nodes, numbers.order)
        if key in ("huge", "matrix"):
            # All of them lie where they should: it is the policy that is coarse, or what was touched is uneven.
            assert elsewhere(actual, expected) == 0
            assert over_even(actual, nodes) == sum(part.pages for part in area.parts)
            counts[key] = 0
            continue
        for part in area.parts:
            at = slice(part.start - area.start >> 12, part.end - area.start >> 12)
            assert elsewhere(actual[at], expected[at]) == part.pages, f"{name}: {key} {part.cause}"
        counts[key] = elsewhere(actual, expected)
        assert counts[key] == sum(part.pages for part in area.parts), f"{name}: {key}"
    return counts


def over_even(actual: Int64s, nodes: Sequence[int]) -> int:
    """Pages that nodes have beyond an even share of them; what is left of it goes one each to the first nodes."""
    share, left = divmod(int((actual >= 0).sum()), len(nodes))
    return sum(max(0, int((actual == node).sum()) - share - (at < left)) for at, node in enumerate(nodes))


def check_told(name: str, facts: Facts, counts: dict[str, int], session: Session, table: Table) -> None:
    """The verdict and the causes of each memory of the example."""
    snapshot = snapshot_of(session.refresh(), facts.pid)
    wrong = []
    found = findings_of(snapshot, facts.areas.values())
    for (key, area), finding in zip(facts.areas.items(), found, strict=True):
        told, verdict = causes_of(finding), verdict_of(finding)
        row = Row(f"{name}: {key}", area.pages, counts[key], area.causes, told, verdict)
        table.rows.append(row)
        right = verdict == area.verdict or (area.verdict == "not-skewed" and finding.verdict is not Verdict.SKEWED)
        if told != area.causes or not right:
            wrong.append(f"{row} {finding.why}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_verdict_and_its_causes(
    name: str, stage: Stage, session: Session, nodes: list[int], files: Path, table: Table
) -> None:
    options = ("--directory", files) if name == "page_cache" else ()
    with stage.play(name, *options) as play:
        lead(play, session)
        if play.ready:
            check_told(name, play.facts, check_construction(name, play.facts, nodes), session, table)
    assert play.status == (CANNOT if lacks(name, nodes) else 0)


def lacks(name: str, nodes: Sequence[int]) -> bool:
    """Whether this machine cannot show the mistake."""
    return (name == "weights_changed" and not WEIGHTS.exists()) or (name == "node_full" and len(nodes) == 1)


def test_balancing_undoes_a_policy_that_was_a_threads(
    stage: Stage, session: Session, nodes: list[int], table: Table
) -> None:
    with machine.numa_balancing(), stage.play("balancing") as play:
        lead(play, session)
        if play.ready:
            check_told("balancing", play.facts, check_construction("balancing", play.facts, nodes), session, table)
            finding = finding_of(snapshot_of(session.refresh(), play.facts.pid), play.facts.areas["table"])
            assert {count.reason for count in finding.causes} == {"numa_misplaced"}
    assert play.status == (CANNOT if len(nodes) == 1 else 0)


def test_what_was_there_before_tracing_began_is_unknown(stage: Stage, nodes: list[int]) -> None:
    with stage.play("after_first_touch", 4) as play:
        for _ in play.phases():
            pass
        with Session(play.facts.pid, Options(hooks="tracepoint", reader="walk", policies=True)) as late:
            snapshot = late.refresh().only
        area = play.facts.areas["table"]
        finding = finding_of(snapshot, area)
        pages = check_construction("after_first_touch", play.facts, nodes)["table"]
        assert verdict_of(finding) == area.verdict
        assert causes_of(finding) == ({"unknown": pages} if pages else {})
        assert snapshot.policies is not None
        assert not snapshot.policies.observed


def test_every_example_is_played() -> None:
    sources = {path.stem for path in (Path(__file__).resolve().parents[2] / "examples/policy").glob("*.c")}
    assert sources == {*MISTAKES, "balancing", "honest", "stage"}
