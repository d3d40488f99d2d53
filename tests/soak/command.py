"""`numatrace maps` over the same processes: its JSON lines against their numa_maps, once they are at rest."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from tests.kernel.target import ANSWER_SECONDS, read_truth
from tests.soak.judge import Figures, Wrong
from tests.soak.workload import Soak

__all__ = ["Command", "told_nodes"]

SAMPLES = 200
"""Of a process at rest, at most, until all of its doubts are cleared up."""

Document = dict[str, Any]


def told_nodes(document: Document) -> dict[int, dict[int, int]]:
    """Of each VMA by its start, the pages on each node, as a JSON line has them."""
    return {
        int(vma["start"], 16): {int(node): pages for node, pages in vma["nodes"].items()} for vma in document["vmas"]
    }


class Command:
    """A running `numatrace maps --format json` over some processes."""

    def __init__(self, pids: tuple[int, ...], *arguments: str) -> None:
        targets = [word for pid in pids for word in ("-p", str(pid))]
        command = [sys.executable, "-m", "tracer.cli.main", "maps", "--format", "json", *arguments, *targets]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._documents: queue.Queue[Document | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._documents.put(json.loads(line))
        self._documents.put(None)

    def next(self) -> Document:
        """The next JSON line of a process, as it comes."""
        while True:
            document = self._documents.get(timeout=ANSWER_SECONDS)
            if document is None:
                assert self.process.stderr is not None
                raise AssertionError(f"numatrace ended: {self.process.stderr.read().decode()}")
            if "vmas" in document:
                return document

    def close(self) -> None:
        """Ctrl-C; it must have ended well."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=ANSWER_SECONDS)
        assert self.process.returncode in (0, 128 + signal.SIGINT), said.decode()

    def judge(self, soak: Soak, figures: Figures) -> int:
        """The processes are at rest: each is shown as its numa_maps says, or with a doubt until it is. Raises `Wrong`.

        Gives the number of events that are said to be lost.
        """
        rest = datetime.now(UTC)
        truths = {pid: {a.start: a.line.nodes for a in read_truth(pid).areas} for pid in soak.pids}
        behind: set[int] = set()  # whose sample after the rest may have begun before it
        open_ = set(soak.pids)
        known: dict[int, int] = {}
        for _ in range(SAMPLES * len(open_)):
            document = self.next()
            pid, trust = int(document["pid"]), document["trust"]
            if pid not in open_:
                continue
            if pid not in behind:
                if datetime.fromisoformat(document["time"]) > rest:
                    behind.add(pid)
                known[pid] = trust["lost"]
                continue
            doubt = trust["settling"] or trust["unexplained"] or trust["lost"] > known[pid]
            if told_nodes(document) != truths[pid]:
                if not doubt:
                    figures.off += 1
                    raise Wrong(f"`numatrace maps` is wrong about process {pid}: {document}\n{truths[pid]}")
            elif not doubt:
                open_.remove(pid)
                figures.by_command += 1
            known[pid] = trust["lost"]
            if not open_:
                return max(known.values())
        raise Wrong(f"`numatrace maps` does not lose its doubts about processes {sorted(open_)}")
