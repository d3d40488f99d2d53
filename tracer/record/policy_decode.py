"""Policies back from the rows: the reverse of `tracer.record.policy_rows`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.model.cause import Cause
from tracer.model.policies import Misplaced, Policies, PolicyChange, Pressure, TaskPolicy
from tracer.model.policy import Policy, Spelling
from tracer.record.buffers import dictionary, numpy_array
from tracer.record.chunk import Chunk
from tracer.record.happened import Reasons
from tracer.record.heads import Head, Life
from tracer.record.known_vmas import SPELLINGS
from tracer.record.ledger import Ledger
from tracer.record.words import nodes_from, policy_from, raw_bytes

__all__ = ["PolicyRows", "Promises"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_START = np.empty(0, np.uint64)
_OWN, _GOVERNED, _HUGE, _UNITS, _RULE = range(5)
"""Columns of the ledger; those from the last on are by node. Of units it has the bits."""
_MISPLACED = ("node", "expected", "cause", "reason", "pages")
_KERNELS_WEIGHT = 1
"""Of a node that nobody gave another one: here of one that the file does not know."""


@dataclass(frozen=True, slots=True)
class Promises:
    """What the rows so far say of the policies of a target, and what snapshots get of it where nothing was changed.

    vmas: by address; its things are the misplaced pages of each, the bytes of int64s of shape (rows, 5).
    """

    vmas: Ledger
    policies: Policies


class PolicyRows:
    """Those of a chunk. node_ids: those that snapshots get; own_ids: those of the file."""

    def __init__(self, chunk: Chunk, reasons: Reasons, node_ids: Sequence[int], own_ids: Sequence[int]) -> None:
        self._vmas, self._heads, self._gone = chunk.vmas, chunk.heads, chunk.gone
        self._reasons, self._nodes = reasons, len(node_ids)
        self._place_of = {node: place for place, node in enumerate(node_ids)}
        self._lists: dict[str, Any] = {}
        self._places = [self._place_of[node] for node in own_ids]

    def after(self, head: Head, base: Promises | None, old: Promises | None) -> Promises | None:
        """As this head has them; None where they were not read. base: what its rows are changes to. old: what to share
        what is equal with; it is returned itself where all is."""
        if not head.has_policies:
            return None
        (first, last), (gone, end) = head.vmas, head.gone
        vmas = base.vmas if base is not None else self._empty()
        if first < last or gone < end:
            vmas = vmas.updated(*self._of_vmas(np.arange(first, last)), self._gone.starts[gone:end])
        threads = self._threads(head) if head.has_threads else _known(base).threads
        pressure = self._pressure(head) if head.has_pressure else _known(base).pressure
        return self._promises(head, vmas, threads, pressure, old)

    def at_end(self, life: Life, rows: Rows) -> Promises | None:
        """As they are at the end of the chunk. rows: of VMAs, the last of each."""
        if not life.head.has_policies:
            return None
        if life.threads is None or life.pressure is None:
            raise ValueError("a target has no threads, or no pressure")
        vmas = self._empty().updated(*self._of_vmas(rows), _NO_START)
        return self._promises(life.head, vmas, self._threads(life.threads), self._pressure(life.pressure), None)

    def changes(self, head: Head) -> tuple[PolicyChange, ...]:
        """Those that this head tells of."""
        if not head.has_changes:
            return ()
        structs = self._list(head, "policy_changes")
        spelling = _spelling(head)
        times = structs.field("time").cast(pa.int64()).to_pylist()
        names = ("exact", "thread", "start", "end", "call")
        rest = zip(*(structs.field(name).to_pylist() for name in names), strict=True)
        pairs = zip(*(_policies(structs.field(name), spelling) for name in ("old", "new")), strict=True)
        return tuple(
            PolicyChange(_EPOCH + timedelta(microseconds=time), exact, thread, start, end, old, new, call or "")
            for time, (exact, thread, start, end, call), (old, new) in zip(times, rest, pairs, strict=True)
        )

    # --- VMAs ---

    def _empty(self) -> Ledger:
        return Ledger.empty(_RULE + self._nodes)

    def _of_vmas(self, rows: Rows) -> tuple[Uint64s, Int64s, list[bytes]]:
        """What these rows say, for a ledger."""
        offsets, elements = self._misplaced
        misplaced = [elements[offsets[row] : offsets[row + 1]].tobytes() for row in rows.tolist()]
        return self._vmas.starts[rows], self._counts[rows], misplaced

    @cached_property
    def _counts(self) -> Int64s:
        counts = np.zeros((len(self._vmas), _RULE + self._nodes), np.int64)
        for column, name in ((_OWN, "own"), (_GOVERNED, "governed"), (_HUGE, "huge_pages")):
            counts[:, column] = self._vmas.numbers(name)
        counts[:, _UNITS] = self._vmas.numbers("units").view(np.int64)
        rule = self._vmas.scalars("rule")
        lengths = numpy_array(rule.value_lengths())
        there = np.flatnonzero(lengths)
        if (lengths[there] != len(self._places)).any():
            raise ValueError("a rule is of other nodes")
        pages = numpy_array(rule.flatten()).reshape(len(there), len(self._places))
        counts[np.ix_(there, _RULE + np.array(self._places, np.int64))] = pages
        return counts

    @cached_property
    def _misplaced(self) -> tuple[list[int], Int64s]:
        """Where the elements of each row begin, and one more; and all elements."""
        lists = self._vmas.lists("misplaced")
        codes: dict[str, Callable[[str], int]] = {"cause": _cause, "reason": self._reasons.number}
        columns = [
            _coded(lists.values[name], codes[name]) if name in codes else numpy_array(lists.values[name])
            for name in _MISPLACED
        ]
        return lists.offsets.tolist(), np.column_stack([column.astype(np.int64) for column in columns])

    # --- targets ---

    @cached_property
    def _observed(self) -> list[bool]:
        observed: list[bool] = self._heads.numbers("observed").tolist()
        return observed

    @cached_property
    def _allowed(self) -> list[str | None]:
        return self._heads.words("allowed")

    def _list(self, head: Head, name: str) -> Any:
        """What this head has in a column of lists; None where it is null."""
        if name not in self._lists:
            self._lists[name] = self._heads.scalars(name)
        return self._lists[name][head.number].values

    def _weights(self, head: Head) -> tuple[int, ...] | None:
        weights = self._list(head, "weights")
        if weights is None:
            return None
        every = [_KERNELS_WEIGHT] * self._nodes
        for place, weight in zip(self._places, weights.to_pylist(), strict=True):
            every[place] = int(weight)
        return tuple(every)

    def _threads(self, head: Head) -> tuple[TaskPolicy, ...]:
        structs = self._list(head, "threads")
        columns = (structs.field(name).to_pylist() for name in ("thread", "comm", "comm_raw"))
        rows = zip(*columns, _policies(structs, _spelling(head)), strict=True)
        return tuple(TaskPolicy(thread, raw_bytes(comm, raw), policy) for thread, comm, raw, policy in rows)

    def _pressure(self, head: Head) -> Pressure:
        structs = self._list(head, "pressure")
        places = [self._place_of[node] for node in structs.field("node").to_pylist()]
        columns = []
        for it in fields(Pressure):
            column = np.zeros(self._nodes, np.int64)
            column[places] = numpy_array(structs.field(it.name))
            columns.append(column)
        return Pressure(*columns)

    def _promises(
        self, head: Head, vmas: Ledger, threads: tuple[TaskPolicy, ...], pressure: Pressure, old: Promises | None
    ) -> Promises:
        was = old.policies if old is not None else None
        allowed, weights = nodes_from(self._allowed[head.number]), self._weights(head)
        if was is not None and old is not None:
            threads, pressure = _like(threads, was.threads), _like(pressure, was.pressure)
            same = (allowed, weights, self._observed[head.number]) == (was.allowed, was.weights, was.observed)
            if same and vmas is old.vmas and threads is was.threads and pressure is was.pressure:
                return old
        counts = vmas.counts
        given = Policies(
            own=counts[:, _OWN].astype(np.bool_),
            governed=counts[:, _GOVERNED].astype(np.bool_),
            allowed=allowed,
            weights=weights,
            threads=threads,
            changes=(),
            rule=counts[:, _RULE:],
            units=counts[:, _UNITS].view(np.float64),
            huge=counts[:, _HUGE],
            misplaced=_misplaced_of(vmas.things, self._reasons.names),
            pressure=pressure,
            observed=self._observed[head.number],
        )
        given = _like(given, was)
        if old is not None and given is was and np.array_equal(vmas.starts, old.vmas.starts):
            return old
        return Promises(vmas, given)


def _known(base: Promises | None) -> Policies:
    if base is None:
        raise ValueError("a target does not begin with its threads and the pressure")
    return base.policies


def _like(new: Any, old: Any) -> Any:
    """The same, made of the parts of `old` where they are equal; `old` itself where all are."""
    if old is None:
        return new
    if isinstance(new, np.ndarray):
        return old if np.array_equal(new, old) else new
    if not isinstance(new, Policies | Misplaced | Pressure):
        return old if new == old else new
    parts = {it.name: _like(getattr(new, it.name), getattr(old, it.name)) for it in fields(new)}
    return old if all(part is getattr(old, name) for name, part in parts.items()) else replace(new, **parts)


def _misplaced_of(vmas: Sequence[bytes], reasons: tuple[str, ...]) -> Misplaced:
    """vmas: the things of a ledger."""
    elements = np.array(memoryview(b"".join(vmas)).cast("q") if any(vmas) else (), np.int64).reshape(
        -1, len(_MISPLACED)
    )
    counts = [len(it) // (8 * len(_MISPLACED)) for it in vmas]
    of = np.repeat(np.arange(len(vmas), dtype=np.int64), counts)
    return Misplaced(reasons, of, **dict(zip(_MISPLACED, elements.T, strict=True)))


def _cause(word: str) -> int:
    return int(Cause.of_word(word))


def _coded(values: Any, code: Callable[[str], int]) -> Int64s:
    """-1 where there is none."""
    words, indices = dictionary(values)
    return np.array([*(code(word) for word in words[:-1]), -1], np.int64)[indices]


def _spelling(head: Head) -> Spelling:
    return SPELLINGS.get(head.spelling, Spelling.NAMED)


def _policies(structs: Any, spelling: Spelling) -> list[Policy | None]:
    """None where there is no struct."""
    columns = [structs.field(name).to_pylist() for name in ("mode", "flags", "nodes", "policy")]
    rows = zip(structs.is_valid().to_pylist(), *columns, strict=True)
    return [policy_from(*row, spelling) if there else None for there, *row in rows]
