"""What the tests on the machine's own kernel share: the machine at rest, its nodes, and a place for files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import machine


@pytest.fixture(scope="session")
def quiet_machine() -> Iterator[None]:
    """Nothing moves or merges pages unasked, and the pools of huge pages are filled, until the tests are over."""
    with machine.owned(), machine.quiet(), machine.huge_pages(16), machine.gigantic_pages():
        yield


@pytest.fixture(scope="session")
def nodes() -> list[int]:
    """Ids of the nodes with memory."""
    return machine.nodes_with_memory()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for files whose pages are ordinary page cache."""
    with machine.cached_files(tmp_path_factory.mktemp("files")) as directory:
        yield directory
