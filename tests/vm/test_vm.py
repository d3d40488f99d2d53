"""The kernel tests pass on real NUMA kernels: one virtual machine for each, see `fleet.py` for which."""

from __future__ import annotations

import pytest

from tests.vm.fleet import MACHINES, Fleet
from tests.vm.machine import TIMED_OUT


@pytest.mark.parametrize("name", MACHINES)
def test_kernel_suite_in_a_virtual_machine(name: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    report = fleet.report(name)
    counts = report.counts()
    with capsys.disabled():
        boots = f", started {report.boots} times" if report.boots > 1 else ""
        print(f"\n{name}: Linux {report.release}, {report.seconds:.0f} s{boots}, {counts}")
    assert report.outcome.status != TIMED_OUT, f"the machine was stopped after {report.seconds:.0f} s\n{report.log()}"
    assert report.outcome.status == 0, f"exit status {report.outcome.status}\n{report.log()}"
    assert counts["tests"] > 0, report.log()
    assert (counts["failures"], counts["errors"], counts["skipped"]) == (0, 0, 0), report.log()
