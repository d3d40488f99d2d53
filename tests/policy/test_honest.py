"""Policies that were set in time get "as promised", and the rule gives each page the node where the kernel put it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.policy.stage import Area, Stage
from tests.policy.table import Row, Table
from tests.policy.told import causes_of, findings_of, lead, snapshot_of, verdict_of
from tests.policy.where import nodes_of
from tracer.model.policy import Mode
from tracer.model.rule import NO_RULE, Backing, interleave_index, rule_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, Limits, Verdict
from tracer.session import Session

SMALL = 200
SEED = 1
WEIGHTS = Path("/sys/kernel/mm/mempolicy/weighted_interleave")
TURN = (3, 1, 2, 5)
"""Weights of the nodes, over and over."""


@pytest.fixture
def weights(nodes: list[int]) -> Iterator[dict[int, int]]:
    """Different weights for the nodes, put back at the end; none on a kernel before 6.9, which has no such policy."""
    if not WEIGHTS.exists():
        yield {}
        return
    before = {path: path.read_text() for path in (*WEIGHTS.glob("node*"), *WEIGHTS.glob("auto"))}
    wanted = {node: TURN[at % len(TURN)] for at, node in enumerate(nodes)}
    for node, weight in wanted.items():
        (WEIGHTS / f"node{node}").write_text(str(weight))
    try:
        yield wanted
    finally:
        for path, text in before.items():
            # Setting a weight switched `auto` off. A machine that does not know how fast its memory is refuses to
            # switch it on again (ENODEV); all weights are 1 there.
            with contextlib.suppress(OSError) if path.name == "auto" else contextlib.nullcontext():
                path.write_text(text)


def check_by_page(
    snapshot: Snapshot, finding: Finding, area: Area, weights: Mapping[int, int], ino: int | None = None
) -> int:
    """Where the policy has a rule, each page lies where the rule of the model says, and so does the session's count of
    them. How many pages that were."""
    assert snapshot.policies is not None
    actual = nodes_of(snapshot.pid, area.start, area.end)
    numbers = np.arange(area.start >> 12, area.end >> 12)
    pgoff = area.start >> 12 if ino is None else 0
    index = interleave_index(Backing(area.start, pgoff, ino), numbers)
    rule = rule_nodes(finding.vma.policy, index, weights or None)
    ruled = (rule != NO_RULE) & (actual >= 0)
    assert (rule[ruled] == actual[ruled]).all(), f"{area}: {finding.vma.policy}"
    told = dict(zip(snapshot.node_ids, snapshot.policies.rule[finding.row].tolist(), strict=True))
    assert {node: pages for node, pages in told.items() if pages} == dict(Counter(actual[ruled].tolist()))
    return int(ruled.sum())


def inode_of(pid: int, area: Area) -> int:
    (link,) = Path(f"/proc/{pid}/map_files").glob(f"{area.start:x}-{area.end:x}")
    return link.stat().st_ino


def test_each_policy_set_in_time_is_as_promised(
    stage: Stage, session: Session, nodes: list[int], weights: dict[int, int], table: Table
) -> None:
    with stage.play("honest", 8) as play:
        lead(play, session)
        snapshot = snapshot_of(session.refresh(), play.facts.pid)
        assert set(play.facts.areas) >= {"interleave", "bind", "prefer", "shared", "task"}
        assert ("weighted" in play.facts.areas) == bool(weights)
        told = findings_of(snapshot, play.facts.areas.values())
        for (key, area), finding in zip(play.facts.areas.items(), told, strict=True):
            ino = inode_of(play.facts.pid, area) if key == "shared" else None
            table.rows.append(Row(f"honest: {key}", area.pages, 0, {}, causes_of(finding), verdict_of(finding)))
            assert verdict_of(finding) == area.verdict, finding.why
            # Where the pages are no whole number of turns, some node has more than its share of them, if not by a turn.
            beyond = causes_of(finding)
            assert beyond.pop("pattern", 0) < sum(weights.values(), 1)
            assert not beyond
            ruled = check_by_page(snapshot, finding, area, weights, ino)
            assert ruled == (0 if finding.vma.policy.mode == Mode.BIND and len(nodes) > 1 else area.pages)
            check_shares(key, finding.usable, snapshot, area, weights)
    assert play.status == 0


def check_shares(key: str, usable: Sequence[int], snapshot: Snapshot, area: Area, weights: Mapping[int, int]) -> None:
    """By count: each node has its share of the pages, but for less than one turn of them."""
    if key not in ("interleave", "weighted", "shared", "task"):
        return
    each = {node: weights.get(node, 1) if key == "weighted" else 1 for node in usable}
    actual = Counter(nodes_of(snapshot.pid, area.start, area.end).tolist())
    turn = sum(each.values())
    for node, weight in each.items():
        assert abs(actual[node] * turn - area.pages * weight) < turn * turn, (key, actual)


def test_small_honest_areas_are_not_called_skewed(
    stage: Stage, session: Session, weights: dict[int, int], table: Table
) -> None:
    with stage.play("honest", 2, "--many", SMALL, "--seed", SEED) as play:
        lead(play, session)
        snapshot = snapshot_of(session.refresh(), play.facts.pid)
        areas = [area for key, area in play.facts.areas.items() if key.startswith("small-")]
        assert len(areas) == SMALL
        told = findings_of(snapshot, areas)
        pairs = zip(told, areas, strict=True)
        assert sum(check_by_page(snapshot, finding, area, weights) for finding, area in pairs) > SMALL
    verdicts = Counter(finding.verdict.value for finding in told)
    tested = [finding for finding in told if finding.p_value is not None]
    least = min((finding.p_value or 0.0 for finding in tested), default=1.0)
    table.remarks.append(
        f"{SMALL} small honest areas of seed {SEED}: {dict(verdicts)}, false alarms {verdicts['skewed']}/{SMALL} at a "
        f"significance of {Limits().significance}; {len(tested)} were tested, the least p-value is {least:.3g}"
    )
    skewed = [finding for finding in told if finding.verdict is Verdict.SKEWED]
    wrong = [f"{finding.vma.policy} {finding.actual} {finding.why}" for finding in skewed]
    assert not wrong, "\n".join(wrong)
    assert all(count.cause.word == "pattern" for finding in told for count in finding.causes)
