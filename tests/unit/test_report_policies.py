"""The part of a report about policies: verdicts, causes, threads, changes; nothing where they were not recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.live_fakes import INTERLEAVE, NODES, at
from tests.unit.report_recordings import HOSTILE, INFO, history, opened, story
from tests.unit.ruled import ARENA, MISPLACED, changed, ruled, sample_at, with_policies
from tests.unit.snapshots import TIME, sample, snapshot, vma
from tests.unit.test_report_page import Reader, made, words
from tracer.model.policies import TaskPolicy
from tracer.model.policy import DEFAULT, Policy
from tracer.model.sample import Sample
from tracer.model.verdict import findings
from tracer.report import rulings as reading
from tracer.report.gather import gather
from tracer.report.history import History
from tracer.report.policies import Told, told

RULED = replace(INFO, node_ids=NODES, policies=True)


def of(directory: Path, samples: Iterable[Sample]) -> History:
    return history(directory, samples, RULED)


def tables(known: History) -> Told:
    found = told(known.rulings, known.node_ids)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def page_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    samples = [sample_at(step) for step in range(4)]
    return made(of(tmp_path_factory.mktemp("ruled"), samples))


def test_the_section_says_what_is_promised_and_why_it_is_not_so(page_text: str) -> None:
    text = words(Reader(page_text).text["verdicts"])
    assert "1 as promised, 1 too small to say, 1 skewed , 0 cannot apply, 4 no policy." in text
    assert "7f3c00000000-7f3c40000000 interleave:0-3 , its own can use nodes 0-3 skewed" in text
    # 262052 pages over four nodes are 65513 each.
    assert "57.2 % promised 25.0 % +84,487 15.3 % promised 25.0 % −25,513" in text  # noqa: RUF001
    assert "75,000 pages (N0=75000): " in text
    assert "MPOL_MF_MOVE" in text
    assert "8,457 pages (N0=8457): " in text
    assert "postgres 4711 default 2 4711 postgres, 4712 writer" in text
    assert "interleave:0-3 not that of the main thread 2 4713 worker <1>, 4714 worker \\033[2" in text
    assert "node 0 11.7 MiB 16.0 MiB 1,000" in text
    mbind = "2025-03-01T12:00:00.950Z postgres 4711 7f3c00000000-7f3c40000000 none of its own interleave:0-3"
    assert f"{mbind} mbind by thread 4712" in text
    assert "postgres 4711 thread 4713 default interleave:0-3 found by a look" in text


def test_the_worst_areas_come_first(page_text: str) -> None:
    text = Reader(page_text).text["verdicts"]
    assert text.index("[anon:shared buffers]") < text.index("7f3cc1000000-") < text.index("/dev/hugepages/pool")
    # What has no policy has no verdict.
    assert "[heap]" not in text


def test_it_can_be_reached_by_link_and_by_keyboard(page_text: str) -> None:
    read = Reader(page_text)
    assert "verdicts" in read.ids
    assert ("a", "href", "#verdicts") in read.attributes
    tables = [value for tag, name, value in read.attributes if tag == "div" and name == "aria-label"]
    assert {"table of verdicts", "table of threads", "table of changes"} <= set(tables)
    assert "script" not in read.tags
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]


def test_without_policies_there_is_no_such_section(tmp_path: Path) -> None:
    known = history(tmp_path, story())
    assert known.rulings is None
    text = made(known)
    assert "verdicts" not in Reader(text).ids
    assert "#verdicts" not in text
    # The recording may have what it was not asked for: then it is left out as well.
    known = history(tmp_path, [sample_at(0)], replace(RULED, policies=False))
    assert "verdicts" not in Reader(made(known)).ids


def test_names_are_text_whatever_they_are(tmp_path: Path) -> None:
    vmas = [vma(0x1000000 * (at + 1), 4096, INTERLEAVE, path=name) for at, name in enumerate(HOSTILE)]
    threads = tuple(TaskPolicy(at + 1, name[:15], DEFAULT) for at, name in enumerate(HOSTILE))
    printed = Policy.parse("<script>window.__pwned=1</script>")
    change = changed(TIME, old=printed, new=None, call="<b>mbind</b>")
    shot = with_policies(
        snapshot(vmas, [(1000, 0, 0, 0)] * len(vmas), NODES, comm=b"<i onclick=1>$a$"),
        threads=threads,
        changes=(change,),
    )
    text = made(of(tmp_path, [sample(shot)]))
    read = Reader(text)
    assert not {"script", "img", "i onclick", "b onclick"} & set(read.tags)
    assert not [value for _, name, value in read.attributes if name in ("onclick", "onload", "onerror")]
    shown = read.text["verdicts"]
    assert "<script>window.__pwned=1</script>" in shown
    assert "<b>mbind</b>" in shown
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_process_that_has_ended_is_told_of_as_it_was_last_seen(tmp_path: Path) -> None:
    other = ruled(pid=9, comm=b"worker")
    alive = [at(step, ruled(step), replace(other, time=TIME + timedelta(seconds=step))) for step in range(3)]
    ended = at(3, ruled(3), ended=(replace(other, time=TIME + timedelta(seconds=3)),))
    known = of(tmp_path, [*alive, ended, at(4, ruled(4))])
    assert known.rulings is not None
    assert {(shot.pid, shot.time) for shot in known.rulings.shots} == {
        (4711, TIME + timedelta(seconds=4)),
        (9, TIME + timedelta(seconds=2)),
    }
    found = tables(known)
    assert [row.process for row in found.areas[:2]] == ["postgres 4711", "worker 9"]


def test_all_have_ended(tmp_path: Path) -> None:
    gone = replace(ruled(1), time=TIME + timedelta(seconds=1))
    known = of(tmp_path, [at(0, ruled()), replace(at(1), snapshots=(), ended=(gone,))])
    assert known.rulings is not None
    assert [shot.pid for shot in known.rulings.shots] == [4711]
    assert "skewed" in made(known)


def test_verdicts_are_those_of_the_last_sample(tmp_path: Path) -> None:
    even = with_policies(snapshot(ruled().vmas, [(1000, 1000, 1000, 1000)] * 7, NODES, pid=4711), MISPLACED[:0])
    known = of(tmp_path, [at(0, ruled()), at(1, replace(even, time=TIME + timedelta(seconds=1)))])
    found = tables(known)
    assert "skewed" not in {row.verdict for row in found.areas if row.policy == "interleave:0-3"}
    assert [row.why for row in found.areas if row.address.startswith(f"{ARENA:x}")] == [
        it.why for it in findings(even) if it.vma.start == ARENA
    ]


def test_the_last_changes_are_told_and_the_others_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHANGES", 5)
    monkeypatch.setattr(reading, "_SAMPLES_AT_ONCE", 3)
    samples = []
    for step in range(10):
        when = TIME + timedelta(seconds=step)
        samples.append(at(step, ruled(step, changes=(changed(when, thread=step), changed(when, thread=100 + step)))))
    known = of(tmp_path, samples)
    assert known.rulings is not None
    assert [change.thread for change in known.rulings.changes] == [107, 8, 108, 9, 109]
    assert known.rulings.count == 20
    assert "The first 15 are left out." in words(Reader(made(known)).text["verdicts"])


def test_a_part_of_a_recording_has_the_changes_of_that_part(tmp_path: Path) -> None:
    samples = [
        at(step, ruled(step, changes=(changed(TIME + timedelta(seconds=step), thread=step),))) for step in range(6)
    ]
    with opened(tmp_path / "x.parquet", samples, RULED) as recording:
        known = gather(recording, 2, 4)
    assert known.rulings is not None
    assert [change.thread for change in known.rulings.changes] == [2, 3, 4]
    assert [shot.time for shot in known.rulings.shots] == [TIME + timedelta(seconds=4)]


def test_very_many_processes_and_areas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TARGETS", 2)
    monkeypatch.setattr("tracer.report.policies._AREAS", 3)
    shots = [replace(ruled(pid=pid), pages=ruled().pages * pid) for pid in range(1, 5)]
    known = of(tmp_path, [at(0, *shots)])
    assert known.rulings is not None
    assert [shot.pid for shot in known.rulings.shots] == [4, 3]
    text = words(Reader(made(known)).text["verdicts"])
    assert "The 2 largest of 4 processes are told of." in text
    assert "3 more, none of them worse, are left out." in text


def test_there_may_be_no_policy_and_no_change(tmp_path: Path) -> None:
    plain = with_policies(snapshot([vma(0x1000000, 16)], [(1, 0, 0, 0)], NODES))
    text = words(Reader(made(of(tmp_path, [sample(plain)]))).text["verdicts"])
    assert "No area had a policy." in text
    assert "No policy changed." in text


def test_nobody_was_there(tmp_path: Path) -> None:
    known = of(tmp_path, [replace(at(0), snapshots=())])
    assert "No area had a policy." in made(known)
