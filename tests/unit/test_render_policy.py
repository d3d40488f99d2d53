"""The report of `policy`: a target with its policies, verdicts, causes and remedies, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracer.render
from tests.unit.policy_reports import HEAP, INTERLEAVE, KEPT, SKEWED, asked, broken, change, report
from tests.unit.recordings import misplaced, pressure, with_policies
from tests.unit.snapshots import policies as any_policies
from tests.unit.snapshots import snapshot, snapshots, undocumented, vma
from tracer.model.cause import Cause
from tracer.model.policies import TaskPolicy
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import SIGNIFICANCE, TOLERANCE, Verdict
from tracer.model.vma import Kind
from tracer.render import policy, policy_json
from tracer.render.causes import explain, remedy
from tracer.render.policy import Report
from tracer.render.policy_words import by_node, policy_word, verdict_word

SCHEMA: dict[str, Any] = json.loads((Path(tracer.render.__file__).parent / "policy.schema.json").read_text())


def squeezed(lines: Iterable[str]) -> list[str]:
    """Lines with single blanks: how columns are aligned is not what is tested."""
    return [" ".join(line.split()) for line in lines]


def text(given: Report | Snapshot, **options: Any) -> list[str]:
    return squeezed(policy.lines(report(given) if isinstance(given, Snapshot) else given, **options))


def rows(lines: list[str]) -> list[str]:
    """Of the first table, without its header."""
    first = next(at for at, line in enumerate(lines) if line.startswith("VMA "))
    return [
        line for line in lines[first + 1 : lines.index("", first) if "" in lines[first:] else -1] if line[:1] != "#"
    ]


def value(given: Report, untraced: int = 0) -> dict[str, Any]:
    """Its JSON, held against the schema."""
    line = policy_json.line(given, untraced)
    assert line.isascii()
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert not undocumented(found, SCHEMA, SCHEMA)
    return found


# Text


def test_text_of_a_target() -> None:
    shot = broken(changes=[change(-2), change(-1, True, 43, True), change(0, True, 44)])
    assert shot.policies is not None
    given = report(shot, changes=shot.policies.changes)
    _, _, skewed, file = given.findings
    assert text(given) == [
        "# policies of PID 42 target at 2025-03-01T12:00:00.250Z: 2062 pages N0=1357 N1=705",
        r"# task policies: 2 threads interleave:0-1 (43 w\040\033, 44 w\040\033); 1 thread default (main)",
        "# nodes that it may use: N0-1, all that have memory",
        "# 3 changes of policies seen:",
        "# before 2025-03-01T11:59:58.250Z: 7f1000000000-7f10003e8000: none of its own -> interleave:0-1",
        "# at 2025-03-01T11:59:59.250Z: task policy of thread 43 (set_mempolicy): default -> interleave:0-1",
        (
            "# at 2025-03-01T12:00:00.250Z: 7f1000000000-7f10003e8000 (mbind) by thread 44: "
            "none of its own -> interleave:0-1"
        ),
        "# VMAs, most pages above what is expected first; share of each node in %, actual/expected",
        "VMA POLICY SET USABLE PAGES N0 N1 EXCESS VERDICT NAME",
        r"7f1000000000-7f10003e8000 interleave:0-1 own N0-1 1000 80.0/50.0 20.0/50.0 300 skewed /a\040b\377\033[2J",
        "7f2000000000-7f2000064000 bind:1 own N1 9 77.8/0.0 22.2/100.0 7 cannot-apply /lib/x.so",
        "7f0000000000-7f00003e8000 interleave:0-1 own N0-1 1000 50.0/50.0 50.0/50.0 0 as-promised",
        "",
        r"7f1000000000-7f10003e8000 /a\040b\377\033[2J interleave:0-1: skewed",
        skewed.why,
        "pages more or less than expected: N0+300 N1-300",
        "before-policy: 200 pages, 66.7 % of those elsewhere, on N0=200, meant for N1=200",
        explain(Cause.BEFORE_POLICY),
        f"remedy: {remedy(Cause.BEFORE_POLICY)}",
        "moved (numa_misplaced): 90 pages, 30.0 % of those elsewhere, on N0=90, meant for N1=90",
        explain(Cause.MOVED, "numa_misplaced"),
        f"remedy: {remedy(Cause.MOVED, 'numa_misplaced')}",
        "node-full: 10 pages, 3.3 % of those elsewhere, on N0=10, meant for N1=10",
        explain(Cause.NODE_FULL),
        (
            "N1 now: 70 pages free (watermarks: low 100, high 200); it turned away 42 allocations of the whole machine "
            "since tracing began"
        ),
        f"remedy: {remedy(Cause.NODE_FULL)}",
        "",
        "7f2000000000-7f2000064000 /lib/x.so bind:1: cannot apply",
        file.why,
        "pages more or less than expected: N0+7 N1-7",
        "page-cache: 7 pages, 100.0 % of those elsewhere, on N0=7, meant for N1=7",
        explain(Cause.PAGE_CACHE),
        f"remedy: {remedy(Cause.PAGE_CACHE)}",
        "",
        (
            "# sum: 4 VMAs with pages (1 as-promised, 1 skewed, 1 cannot-apply, 1 no-policy), 2000 pages under a "
            "policy, 307 elsewhere than promised: 200 before-policy, 90 moved (numa_misplaced), 10 node-full, "
            "7 page-cache"
        ),
    ]


def test_only_the_first_vmas_are_shown_and_that_is_said() -> None:
    some = text(broken(), most=1)
    assert "actual/expected: 1 of 3 (--vmas 0 shows all)" in " ".join(some)
    assert [row.split()[0] for row in rows(some)] == ["7f1000000000-7f10003e8000"]
    assert not any("cannot apply" in line for line in some), "only those in the table are explained"
    assert some[-1].startswith("# sum: 4 VMAs with pages "), "the sum is over all"
    for most in (0, 3):
        assert len(rows(text(broken(), most=most))) == 3


def test_all_shows_those_without_policy_and_without_pages() -> None:
    shown = rows(text(broken(), everything=True))
    assert shown[-2:] == [
        "600000-640000 default task - 53 94.3/- 5.7/- 0 no-policy [heap]",
        "7f3000000000-7f3000010000 interleave:0-1 own - 0 - - 0 no-pages",
    ]
    assert len(shown) == 5


def test_what_is_as_promised_needs_no_explanation() -> None:
    lines = text(with_policies(snapshot([KEPT], [(500, 500)])))
    assert lines[-2:] == [
        "7f0000000000-7f00003e8000 interleave:0-1 own N0-1 1000 50.0/50.0 50.0/50.0 0 as-promised",
        "# sum: 1 VMA with pages (1 as-promised), 1000 pages under a policy, 0 elsewhere",
    ]
    assert "" not in lines


@pytest.mark.parametrize("everything", [False, True])
def test_nothing_to_tell(everything: bool) -> None:
    lines = text(with_policies(snapshot()), everything=everything)
    assert lines[-2:] == [
        "# no VMA that has pages has a policy",
        "# sum: 0 VMAs with pages, 0 pages under a policy, 0 elsewhere",
    ]
    without = text(with_policies(snapshot([HEAP, KEPT], [(9, 1), (0, 0)])))
    assert "# no VMA that has pages has a policy: --all shows the 1 VMA with pages" in without


def test_libraries_under_a_task_policy_are_told_together() -> None:
    """It would be said of each of them that it is page cache."""
    libraries = [vma(0x7F0000000000 + at * 0x100000, 16, INTERLEAVE, Kind.FILE, b"/lib/%d\x1b" % at) for at in range(5)]
    shot = snapshot([*libraries, SKEWED], [*[(4, 0)] * 5, (900, 100)])
    rows_of = [(at, 0, 1, Cause.PAGE_CACHE, -1, 2) for at in range(5)]
    shot = with_policies(shot, misplaced=misplaced(rows_of))
    lines = text(shot)
    at = lines.index("5 VMAs interleave:0-1: cannot apply")
    assert lines[at + 1 : at + 4] == [
        (
            r"7f0000000000-7f0000010000 /lib/0\033, 7f0000100000-7f0000110000 /lib/1\033, "
            r"7f0000200000-7f0000210000 /lib/2\033 and 2 more"
        ),
        report(shot).findings[0].why,
        "page-cache: 10 pages, 100.0 % of those elsewhere, on N0=10, meant for N1=10",
    ]
    assert sum(line.endswith("skewed") for line in lines) == 1


def test_many_nodes_have_one_column_for_those_that_differ_most() -> None:
    nodes = tuple(range(0, 64, 2))
    wide = vma(0x7F0000000000, 64000, Policy(Mode.INTERLEAVE, 0, nodes))
    pages = np.full(32, 1000)
    pages[[0, 5]] += (600, -600)
    lines = text(with_policies(snapshot([wide], [pages.tolist()], nodes), allowed=nodes))
    assert "VMA POLICY SET USABLE PAGES NODES EXCESS VERDICT NAME" in lines
    (row,) = rows(lines)
    assert " N0+600,N10-600 600 skewed" in row
    uneven = np.arange(32) * 60 + 70
    (row,) = rows(text(with_policies(snapshot([wide], [uneven.tolist()], nodes), allowed=nodes)))
    assert row.split()[5].count("N") == 8
    assert row.split()[5].endswith(",24-more")


def test_nodes_without_page_or_promise_have_no_column() -> None:
    lines = text(with_policies(snapshot([KEPT], [(500, 500, 0)], (0, 1, 7))))
    assert "VMA POLICY SET USABLE PAGES N0 N1 EXCESS VERDICT NAME" in lines


def test_threads_are_grouped_by_policy() -> None:
    threads = [TaskPolicy(42, b"main", INTERLEAVE), *(TaskPolicy(50 + at, b"w", DEFAULT) for at in range(12))]
    shot = with_policies(snapshot(), threads=tuple(threads))
    assert "# task policies: 12 threads default; 1 thread interleave:0-1 (main)" in text(shot)
    shot = with_policies(snapshot(), threads=tuple(replace(it, policy=DEFAULT) for it in threads))
    assert "# task policies: 13 threads default (main among them)" in text(shot)
    assert "# task policies: not known" in text(with_policies(snapshot(), threads=()))


def test_nodes_that_the_cpuset_excludes_are_said() -> None:
    shot = snapshot([vma(0x7F0000000000, 1000, Policy(Mode.INTERLEAVE, 0, (0, 1, 2)))], [(500, 500, 0)], (0, 1, 2))
    lines = text(with_policies(shot, allowed=(0, 1)))
    assert "# nodes that it may use: N0-1, as its cpuset excludes others of N0-2" in lines
    assert rows(lines)[0].split()[3] == "N0-1"
    assert "# nodes that it may use: none that has memory" in text(with_policies(shot, allowed=()))


def test_weights_are_said_where_they_matter() -> None:
    weighted = Policy(Mode.WEIGHTED_INTERLEAVE, 0, (0, 1))
    shot = snapshot([vma(0x7F0000000000, 1000, weighted)], [(750, 250)])
    lines = text(with_policies(shot, weights=(3, 1)))
    assert "# weights of weighted interleave now: N0=3 N1=1" in lines
    assert " weighted-interleave:0-1 own N0-1 1000 75.0/75.0 25.0/25.0 0 as-promised" in rows(lines)[0]
    lines = text(with_policies(shot, weights=None))
    assert "# weights of weighted interleave: not known here" in lines
    assert "75.0/- 25.0/-" in rows(lines)[0]
    assert not any("weights" in line for line in text(broken()))


def test_only_the_last_changes_are_listed() -> None:
    many = [change(at) for at in range(30)]
    lines = text(report(broken(), changes=many, left_out=5))
    assert "# 35 changes of policies seen, of which the last 10:" in lines
    assert next(line for line in lines if " -> " in line).startswith("# before 2025-03-01T12:00:20.250Z")
    assert sum(" -> " in line for line in lines) == 10


def test_what_is_not_known_is_said() -> None:
    shot = broken()
    assert shot.policies is not None
    once = text(replace(shot, policies=replace(shot.policies, observed=False)))
    assert once[1].startswith("# after one look most causes are unknown: --duration SEC watches")
    polled = text(replace(shot, hooks="none", policies=replace(shot.policies, observed=False)))
    assert polled[1] == "# without hooks nobody sees how pages come and go: most causes are unknown"
    unread = text(replace(shot, policies=None))
    assert unread[1].endswith("every cause is unknown")
    assert " ? N0-1 1000 80.0/50.0 20.0/50.0 300 too-small" in rows(unread)[0], "it may be two huge pages"
    assert "unknown: 300 pages, 100.0 % of those elsewhere, on N0=300" in unread


def test_one_that_ended_and_one_in_a_container() -> None:
    assert text(report(broken(), ended=True))[0].startswith(
        "# policies of PID 42 target, which has ended, as it was last seen at 2025-03-01T12:00:00.250Z: "
    )
    inner = text(broken(namespace_pid=7, comm=b"a\x1b\n\xff b"))
    assert inner[0].startswith(r"# policies of PID 42 (7 in its namespace) a\033\012\377 b at ")


def test_pressure_of_all_nodes_where_it_is_not_known_which_was_full() -> None:
    shot = with_policies(
        snapshot([SKEWED], [(800, 200)]),
        misplaced=misplaced([(0, 0, -1, Cause.NODE_FULL, -1, 300)]),
        rule=np.zeros((1, 2), np.int64),
        pressure=pressure([(0, 1, 2, 3), (7, 4, 5, 6)]),
    )
    lines = text(shot)
    assert "node-full: 300 pages, 100.0 % of those elsewhere, on N0=300, meant for any-of-its-nodes=300" in lines
    assert [line.split()[0] for line in lines if " now: " in line] == ["N0", "N1"]


def test_text_of_what_if() -> None:
    shot = broken()
    lines = text(report(shot, what_if=asked(shot, "weighted=0:3,1:1")), most=2)
    at = lines.index(
        "# the VMAs, most to move first; share of each node in %, actual/as asked: 2 of 3 (--vmas 0 shows all)"
    )
    assert lines[at - 1] == (
        "# as weighted-interleave:0-1 with weights N0=3 N1=1: 310 pages at least (1240 of 8248 KiB) would have to "
        "move, in 3 of 4 VMAs"
    )
    assert lines[at + 1 : at + 4] == [
        "VMA POLICY PAGES N0 N1 MOVE KiB NAME",
        "7f0000000000-7f00003e8000 interleave:0-1 1000 50.0/75.0 50.0/25.0 250 1000",
        r"7f1000000000-7f10003e8000 interleave:0-1 1000 80.0/75.0 20.0/25.0 50 200 /a\040b\377\033[2J",
    ]
    assert lines[-1].startswith("# sum: ")
    alike = text(report(shot, what_if=asked(shot, "local")))
    assert alike[-2] == "# as local: 0 pages at least (0 of 8248 KiB) would have to move, in 0 of 4 VMAs"


# Words


def test_words_are_one_word_each() -> None:
    for mode in Mode:
        assert " " not in policy_word(Policy(mode, 0, (0, 1)))
    assert policy_word(Policy(Mode.PREFERRED_MANY, 0, (0, 1))) == "prefer-many:0-1"
    words = [verdict_word(verdict) for verdict in Verdict]
    assert words == ["as-promised", "too-small", "skewed", "cannot-apply", "no-policy"]
    assert SCHEMA["$defs"]["verdict"]["enum"] == words


def test_pages_by_node() -> None:
    assert by_node({2: 3, 0: 4, -1: 4}) == "any-of-its-nodes=4 N0=4 N2=3"
    assert by_node({node: 100 - node for node in range(20)}).endswith(" N7=93 and 12 nodes more")


# JSON


def test_json_of_a_target() -> None:
    shot = broken(changes=[change(-2), change(0, True, 43, True)], namespace_pid=7)
    assert shot.policies is not None
    found = value(report(shot, changes=shot.policies.changes, left_out=3, what_if=asked(shot, "bind=1")), 2)
    assert (found["pid"], found["ns_pid"], found["ended"], found["observed"], found["untraced"]) == (
        42,
        7,
        False,
        True,
        2,
    )
    assert found["allowed"] == [0, 1]
    assert found["threads"][1] == {"thread": 43, "comm": "w \x1b", "policy": "interleave:0-1"}
    assert found["pressure"]["1"] == {"free": 70, "low": 100, "high": 200, "foreign": 42}
    assert found["limits"] == {"significance": SIGNIFICANCE, "tolerance": TOLERANCE}
    assert found["changes_left_out"] == 3
    assert found["changes"] == [
        {
            "time": "2025-03-01T11:59:58.250000Z",
            "exact": False,
            "thread": None,
            "start": "7f1000000000",
            "end": "7f10003e8000",
            "old": None,
            "new": "interleave:0-1",
            "call": None,
        },
        {
            "time": "2025-03-01T12:00:00.250000Z",
            "exact": True,
            "thread": 43,
            "start": None,
            "end": None,
            "old": "default",
            "new": "interleave:0-1",
            "call": "set_mempolicy",
        },
    ]
    heap, kept, skewed, file = found["vmas"]
    assert (heap["verdict"], heap["own"], heap["shares"], heap["expected"]) == ("no-policy", False, None, None)
    assert (kept["verdict"], kept["difference"], kept["excess"], kept["causes"]) == ("as-promised", {}, 0, [])
    assert (skewed["verdict"], skewed["usable"], skewed["promise"]) == ("skewed", [0, 1], "spread")
    assert (skewed["shares"], skewed["expected"]) == ({"0": 0.5, "1": 0.5}, {"0": 500, "1": 500})
    assert (skewed["difference"], skewed["excess"]) == ({"0": 300, "1": -300}, 300)
    assert (skewed["name"], skewed["name_hex"]) == ("/a b\\xff\x1b[2J", b"/a b\xff\x1b[2J".hex())
    assert [(it["cause"], it["reason"], it["pages"]) for it in skewed["causes"]] == [
        ("before-policy", None, 200),
        ("moved", "numa_misplaced", 90),
        ("node-full", None, 10),
    ]
    assert skewed["causes"][0]["nodes"] == {"0": 200}
    assert skewed["causes"][0]["meant_for"] == {"1": 200}
    assert [it["remedy"] for it in skewed["causes"][:1]] == [remedy(Cause.BEFORE_POLICY)]
    assert [it["explanation"] for it in skewed["causes"][:1]] == [explain(Cause.BEFORE_POLICY)]
    assert file["verdict"] == "cannot-apply"
    assert found["sum"]["verdicts"] == {
        "as-promised": 1,
        "too-small": 0,
        "skewed": 1,
        "cannot-apply": 1,
        "no-policy": 1,
    }
    assert [found["sum"][key] for key in ("pages", "governed", "excess", "elsewhere")] == [2062, 2000, 307, 307]
    assert [it["pages"] for it in found["sum"]["causes"]] == [200, 90, 10, 7]
    what_if = found["as"]
    assert (what_if["policy"], what_if["weights"], what_if["vmas"]) == ("bind:1", None, 4)
    assert what_if["pages"] == 50 + 500 + 800 + 7
    assert what_if["bytes"] == what_if["pages"] * 4096
    assert sum(move["pages"] for move in what_if["moves"]) == what_if["pages"]


def test_json_says_null_where_nothing_is_known() -> None:
    found = value(report(replace(broken(), policies=None)))
    assert found["observed"] is False
    assert [found[key] for key in ("allowed", "weights", "threads", "pressure", "as")] == [None] * 5
    assert {it["own"] for it in found["vmas"]} == {None}
    assert {cause["cause"] for it in found["vmas"] for cause in it["causes"]} == {"unknown"}
    assert value(report(with_policies(snapshot(), weights=None)))["weights"] is None


def test_json_has_weights_where_they_were_given() -> None:
    shot = broken()
    found = value(report(shot, what_if=asked(shot, "weighted=0:3,1:1")))["as"]
    assert found["weights"] == {"0": 3, "1": 1}
    assert found["moves"][1]["expected"] == {"0": 750, "1": 250}


def test_schema_names_every_cause() -> None:
    assert set(SCHEMA["$defs"]["cause"]["properties"]["cause"]["enum"]) == {cause.word for cause in Cause}
    assert SCHEMA["$defs"]["cause_sum"]["properties"] == {
        key: it
        for key, it in SCHEMA["$defs"]["cause"]["properties"].items()
        if key not in ("meant_for", "explanation", "remedy")
    }


def test_schema_refuses_what_it_should() -> None:
    good = value(report(broken()))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for key in SCHEMA["required"]:
        assert not validator.is_valid({name: it for name, it in good.items() if name != key}), key
    for key in good:
        assert not validator.is_valid(good | {key: [3.5]}), key
    assert validator.is_valid(good | {"another": 1}), "keys may be added"


# Whatever the types allow


@st.composite
def policed(draw: st.DrawFn) -> Snapshot:
    """Any snapshot, with pages elsewhere for any cause and threads of any name; or without policies."""
    shot = draw(snapshots())
    if draw(st.integers(0, 9)) == 0:
        return shot
    nodes = st.sampled_from(shot.node_ids)
    row = st.tuples(
        st.integers(0, max(0, len(shot.vmas) - 1)),
        nodes,
        st.one_of(nodes, st.just(-1)),
        st.sampled_from(Cause),
        st.integers(-1, 2),
        st.integers(1, 2**30),
    )
    found = draw(st.lists(row, max_size=8, unique_by=lambda it: it[:5])) if shot.vmas else []
    threads = st.builds(TaskPolicy, st.integers(1, 2**22), st.binary(max_size=15), any_policies)
    return with_policies(
        shot,
        misplaced=misplaced(found),
        rule=np.zeros(shot.pages.shape, np.int64),
        threads=tuple(draw(st.lists(threads, min_size=1, max_size=5))),
        allowed=tuple(node for node in shot.node_ids if draw(st.booleans())),
        weights=draw(st.sampled_from([None, (1,) * len(shot.node_ids), tuple(range(1, len(shot.node_ids) + 1))])),
        observed=draw(st.booleans()),
    )


@given(policed(), st.integers(0, 3), st.booleans())
def test_any_target_can_be_told(shot: Snapshot, most: int, everything: bool) -> None:
    given = report(shot)
    lines = list(policy.lines(given, most, everything))
    assert all(line.isprintable() for line in lines), "names act on no terminal"
    assert all(line.startswith("# ") for line in (lines[0], lines[-1]))
    found = value(given)
    for row, finding in zip(found["vmas"], given.findings, strict=True):
        assert row["pages"] == sum(row["nodes"].values())
        assert sum(cause["pages"] for cause in row["causes"]) == sum(it.pages for it in finding.causes)
    assert found["sum"]["elsewhere"] == sum(it["pages"] for it in found["sum"]["causes"])
