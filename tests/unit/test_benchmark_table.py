"""The tables of the benchmarks: medians, quartiles, and a goal that is met by the median or missed."""

from __future__ import annotations

import pytest

from benchmarks import peers
from benchmarks.table import Row, Section, render
from tracer.errors import NumatraceError


def test_quartiles_and_median_of_the_rounds() -> None:
    row = Row("refresh", (5.0, 1.0, 2.0, 4.0, 3.0), "ms")
    assert row.median == 3.0
    assert row.quartiles == (2.0, 4.0)


def test_one_round_is_its_own_spread() -> None:
    assert Row("refresh", (7.0,), "ms").quartiles == (7.0, 7.0)


@pytest.mark.parametrize(("values", "verdict"), [((1.0, 2.0, 9.0), "met"), ((1.0, 3.0, 3.0), "**missed**")])
def test_the_median_decides_about_the_goal(values: tuple[float, ...], verdict: str) -> None:
    section = Section("Start", "How.")
    section.add("first line", values, "s", 2.0)
    line = render([section], []).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")][-2:] == ["≤ 2 s", verdict]


def test_a_row_without_a_goal_has_no_verdict() -> None:
    section = Section("Start", "How.")
    section.add("first line", (0.5,), "s")
    line = render([section], [("kernel", "1.2")]).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "first line", "0.500 s", "0.500 to 0.500", "1", "", "",
    ]  # fmt: skip


def test_missing_peers_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None if "perf" in program or program == "bpftrace" else program)
    with pytest.raises(NumatraceError, match=r"need bpftrace, /usr/bin/perf") as caught:
        peers.check_installed()
    assert caught.value.hint == "apt-get install bpftrace linux-perf"


def test_a_peer_that_missed_the_storm_is_refused() -> None:
    peers._expect_seen("perf record", 95, 100)
    with pytest.raises(NumatraceError, match="saw 12 of the storm's 100 faults"):
        peers._expect_seen("perf record", 12, 100)
