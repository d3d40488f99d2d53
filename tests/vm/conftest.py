"""What the guests' tests left behind, printed when all is over: it is what the tests are read for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.fleet import Fleet

FLEET = pytest.StashKey[Fleet]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables of every machine that ran."""
    fleet = config.stash.get(FLEET, None)
    for name, text in fleet.tables() if fleet else ():
        terminalreporter.section(name)
        terminalreporter.write(text)


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The machines of the tests that were selected, started in their order; all are off when the tests end."""
    selected = (item for item in request.session.items if isinstance(item, pytest.Function))
    names = [str(item.callspec.params["name"]) for item in selected if "fleet" in item.fixturenames]
    fleet = Fleet(names)
    request.config.stash[FLEET] = fleet
    yield fleet
    fleet.stop()
