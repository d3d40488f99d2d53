"""What the tests of policies share: the machine at rest, a stage, and a session that sees all that is played on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel import machine
from tests.kernel.conftest import files, nodes, quiet_machine
from tests.policy.stage import Stage, build_examples
from tests.policy.table import Table
from tracer.model.selection import Selection
from tracer.session import Options, Session

__all__ = ["files", "nodes", "quiet_machine", "session", "stage", "table"]


@pytest.fixture(scope="session")
def stage(quiet_machine: None) -> Iterator[Stage]:
    build_examples()
    with Stage() as it:
        yield it


@pytest.fixture(scope="session")
def session(stage: Stage) -> Iterator[Session]:
    options = Options(hooks="tracepoint", reader="walk", flows=True, policies=True)
    with Session(Selection((stage.pid,), follow_forks=True), options) as it:
        it.refresh()
        yield it


@pytest.fixture(scope="session")
def table(nodes: list[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """What was expected and what was told; written at the end, for the summary of a run in virtual machines."""
    it = Table(nodes)
    yield it
    it.write(machine.results(tmp_path_factory.mktemp("policy")))
