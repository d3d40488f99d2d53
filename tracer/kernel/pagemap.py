"""/proc/PID/pagemap: what is mapped at every page of a process, and a reader that counts it as numa_maps does.

The reader is the seed of every session and the fallback where page tables cannot be walked by BPF. Which entries
count is decided by fs/proc/task_mmu.c can_gather_numa_stats(); pagemap shows some present pages that it leaves
out: the zero page, the huge zero page, reserved pages such as the vDSO, and device memory.

Out of reach here: private copies of pages inside a VM_PFNMAP mapping, which pagemap does not show at all
(pagemap_test_walk) and numa_maps counts from 6.12 on.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tracer.kernel.move_pages import nodes_of_addresses
from tracer.kernel.pageflags import KPF_NOPAGE, KPF_RESERVED, KPF_THP, KPF_ZERO_PAGE, has_flag, page_counts, page_flags
from tracer.kernel.pagemap_file import PM_EXCLUSIVE, PM_FILE, PM_PFN_MASK, PM_PRESENT, Pagemap
from tracer.kernel.procfs import resident_pages
from tracer.kernel.topology import AMBIGUOUS, NO_MEMORY, Topology
from tracer.kernel.zero_pages import ZeroPages

__all__ = [
    "PM_EXCLUSIVE",
    "PM_FILE",
    "PM_PFN_MASK",
    "PM_PRESENT",
    "CountedPages",
    "Pagemap",
    "PagemapReader",
    "Span",
    "ZeroPages",
    "page_counts",
    "page_flags",
]

_PAGE = mmap.PAGESIZE

U64Array = npt.NDArray[np.uint64]
I64Array = npt.NDArray[np.int64]
NodeArray = npt.NDArray[Any]  # np.uint8, or np.uint16 for more than 254 nodes
T = TypeVar("T")
G = TypeVar("G", bound=np.generic)


class Span(NamedTuple):
    """Addresses to count, end excluded. hugetlb: bytes of a huge page in a hugetlbfs VMA, else 0.

    special: reserved or device pages may be mapped here, so every page's flags are looked at.
    """

    start: int
    end: int
    hugetlb: int = 0
    special: bool = False


@dataclass(frozen=True, slots=True)
class CountedPages:
    """One element for every entry that numa_maps counts, in address order within a span.

    span: index into the spans asked for. exclusive: mapped exactly once. anon: neither file nor shared memory.
    node: node id. address: of the page. A transparent huge page has an element for each of its small pages, a hugetlb
    page one.
    """

    pfn: U64Array
    span: I64Array
    node: I64Array
    exclusive: npt.NDArray[np.bool_]
    anon: npt.NDArray[np.bool_]
    address: I64Array


class _Piece(NamedTuple):
    """A part of span number `row`: one entry every `stride` bytes."""

    row: int
    start: int
    end: int
    stride: int
    special: bool
    entries: int


def _piece(row: int, start: int, end: int, stride: int, special: bool) -> _Piece:
    return _Piece(row, start, end, stride, special, -(-(end - start) // stride))


class _Batch(NamedTuple):
    """Pieces that are read and counted together, at most `_BATCH_ENTRIES` entries in all."""

    pieces: list[_Piece]
    entries: int

    def of_pieces(self, values: npt.NDArray[G]) -> npt.NDArray[G]:
        """One value per piece spread over the entries of the batch."""
        return np.repeat(values, [piece.entries for piece in self.pieces])

    def piece_indices(self) -> I64Array:
        """For each entry of the batch the index of its piece."""
        return self.of_pieces(np.arange(len(self.pieces)))

    def addresses(self) -> U64Array:
        """For each entry of the batch its address."""
        return np.concatenate([np.arange(p.start, p.end, p.stride, dtype=np.uint64) for p in self.pieces])


_BATCH_ENTRIES = 1 << 17  # 1 MiB of entries: it stays in the second-level cache while it is worked on
_BATCH_PIECES = 1024
_TABLE_ENTRIES = 512  # of a page table, x86-64; elsewhere merely a common size of a piece
_LARGE_PIECE = 1 << 13  # entries: from here on a piece makes a batch of its own, which counts faster
_PARALLEL_ENTRIES = 1 << 18  # below this, starting threads costs more than they save
_MAX_THREADS = 8
_REGION_BYTES = 2 << 20
_SCAN_SLACK = 1 << 16  # pages: below this nothing is worth a scan
_SCAN_SPAN = 16 << 20  # bytes: a smaller span is not worth a scan of its own
_SCAN_GAP = 256 << 10  # bytes: a shorter hole costs less to read than to start another read


class _Scratch:
    """Buffers for one batch, used again and again: fresh ones would cost a page fault for every 512 entries."""

    def __init__(self, size: int, node_type: type[np.uint8] | type[np.uint16]) -> None:
        self.entries = np.empty(size, dtype=np.uint64)
        self.pfn = np.empty(size, dtype=np.uint64)
        self.index = np.empty(size, dtype=np.uint64)
        self.node = np.empty(size, dtype=node_type)


class _Found(NamedTuple):
    """The present entries of a batch. node: node id, or `nr_node_ids` for an entry that does not count.

    which: indices of these entries among all the entries of the batch; None when it is all of them.
    """

    entries: U64Array
    pfn: U64Array
    node: NodeArray
    which: npt.NDArray[np.intp] | None

    def pick(self, of_all: npt.NDArray[G]) -> npt.NDArray[G]:
        """Of an array with an element for every entry of the batch, those that belong to `entries`."""
        return of_all if self.which is None else of_all[self.which]


class PagemapReader:
    """Counts pages by node as numa_maps does, from pagemap and a table of page frames to nodes.

    threads: None for one per CPU, at most eight; they only run for large inputs. zero_pages: None to learn them.
    """

    def __init__(self, topology: Topology, *, threads: int | None = None, zero_pages: ZeroPages | None = None) -> None:
        self.topology = topology
        self.zero_pages = zero_pages or ZeroPages.learn()
        self._threads = threads or min(_MAX_THREADS, len(os.sched_getaffinity(0)))
        self._shift, table = topology.node_table()
        self._nodes = topology.nr_node_ids
        self._uncounted, self._ambiguous = self._nodes, self._nodes + 1
        # A last entry for every frame above the table: take(mode="clip") sends them there.
        self._node_type: type[np.uint8] | type[np.uint16] = np.uint8 if self._ambiguous < 256 else np.uint16
        self._table = np.append(table, np.uint8(NO_MEMORY)).astype(self._node_type)
        no_memory, ambiguous = self._table == NO_MEMORY, self._table == AMBIGUOUS
        self._table[no_memory], self._table[ambiguous] = self._uncounted, self._ambiguous
        self._table_is_ambiguous = bool(ambiguous.any())
        self._scratch: SimpleQueue[_Scratch] = SimpleQueue()

    def counts(
        self,
        pagemap: Pagemap,
        spans: Sequence[Span | tuple[int, int, int, bool]],
        progress: Callable[[int, int], None] | None = None,
    ) -> I64Array:
        """Pages per node: int64, shape (len(spans), nr_node_ids); a hugetlb page counts 1.

        A huge page of hugetlbfs belongs to the span that holds its first address. `progress` is called in this
        thread with (entries read, entries in all). Raises `TargetGone` if the address space has come to its end.
        """
        counts = np.zeros((len(spans), self._nodes), dtype=np.int64)
        batches = list(_batches(self._pieces(pagemap, spans)))
        total, done = sum(batch.entries for batch in batches), 0

        def count(batch: _Batch, scratch: _Scratch) -> tuple[_Batch, I64Array]:
            return batch, self._count(pagemap, batch, scratch)

        for batch, found in self._map(count, batches, total):
            np.add.at(counts, [piece.row for piece in batch.pieces], found)
            done += batch.entries
            if progress:
                progress(done, total)
        return counts

    def counted_pages(self, pagemap: Pagemap, spans: Sequence[Span | tuple[int, int, int, bool]]) -> CountedPages:
        """Every entry that `counts` counts, one by one: 34 bytes for each page, so for what fits."""
        batches = list(_batches(self._pieces(pagemap, spans)))
        total = sum(batch.entries for batch in batches)

        def collect(batch: _Batch, scratch: _Scratch) -> CountedPages:
            return self._collect(pagemap, batch, scratch)

        parts = list(self._map(collect, batches, total))
        if not parts:
            none = np.empty(0, dtype=np.int64)
            no, pfn = none.astype(np.bool_), none.astype(np.uint64)
            return CountedPages(pfn, none, none, no, no, none)
        return CountedPages(
            np.concatenate([part.pfn for part in parts]),
            np.concatenate([part.span for part in parts]),
            np.concatenate([part.node for part in parts]),
            np.concatenate([part.exclusive for part in parts]),
            np.concatenate([part.anon for part in parts]),
            np.concatenate([part.address for part in parts]),
        )

    def _map(self, work: Callable[[_Batch, _Scratch], T], batches: list[_Batch], total: int) -> Iterator[T]:
        """`work` done on every batch, results in order; by several threads if there is enough of it."""

        def with_scratch(batch: _Batch) -> T:
            try:
                scratch = self._scratch.get_nowait()
            except Empty:
                scratch = _Scratch(_BATCH_ENTRIES, self._node_type)
            try:
                return work(batch, scratch)
            finally:
                self._scratch.put(scratch)

        threads = min(self._threads, len(batches)) if total >= _PARALLEL_ENTRIES else 1
        if threads <= 1:
            yield from map(with_scratch, batches)
            return
        with ThreadPoolExecutor(threads, "pagemap") as pool:
            yield from pool.map(with_scratch, batches)

    def _pieces(self, pagemap: Pagemap, spans: Sequence[Span | tuple[int, int, int, bool]]) -> Iterator[_Piece]:
        """The spans, without the holes of large ones if the target maps far more than it holds."""
        named = [Span(*span) for span in spans]
        asked = sum(span.end - span.start for span in named if not span.hugetlb) // _PAGE
        sparse = asked > _SCAN_SLACK and asked > 2 * resident_pages(pagemap.pid, pagemap.proc_root) + _SCAN_SLACK
        for row, (start, end, hugetlb, special) in enumerate(named):
            if hugetlb:
                # Every page of a huge page is mapped or none is, and gather_hugetlb_stats() tests nothing else.
                start = -(-start // hugetlb) * hugetlb
                ranges: Iterable[tuple[int, int]] = [(start, end)]
            else:
                ranges = _populated(pagemap, start, end) if sparse and end - start >= _SCAN_SPAN else [(start, end)]
            yield from (_piece(row, *found, hugetlb or _PAGE, special) for found in ranges if found[0] < found[1])

    def _count(self, pagemap: Pagemap, batch: _Batch, scratch: _Scratch) -> I64Array:
        """Pages per node of each piece: shape (len(batch.pieces), nr_node_ids)."""
        found = self._read(pagemap, batch, scratch)
        if len(batch.pieces) == 1:
            # One comparison for each node is far cheaper than bincount, which takes 3 ns for an entry.
            counts = np.zeros((1, self._nodes), dtype=np.int64)
            for node in self.topology.has_memory:
                counts[0, node] = np.count_nonzero(found.node == node)
            return counts
        if found.which is None and all(piece.entries == _TABLE_ENTRIES for piece in batch.pieces):
            return self._count_tables(found.node, len(batch.pieces))
        width = self._nodes + 1
        keys = found.node + width * found.pick(batch.piece_indices())
        counts = np.bincount(keys, minlength=len(batch.pieces) * width)
        return counts.reshape(len(batch.pieces), width)[:, : self._nodes]

    def _count_tables(self, node: NodeArray, tables: int) -> I64Array:
        """Pages per node of page tables that are present as a whole.

        Eight comparisons are added at once, as the bytes of one number; none can overflow, as 64 words are added.
        """
        counts = np.zeros((tables, self._nodes), dtype=np.int64)
        for number in self.topology.has_memory:
            words = (node == number).view(np.uint64).reshape(tables, _TABLE_ENTRIES // 8)
            counts[:, number] = words.sum(axis=1, dtype=np.uint64).view(np.uint8).reshape(tables, 8).sum(axis=1)
        return counts

    def _collect(self, pagemap: Pagemap, batch: _Batch, scratch: _Scratch) -> CountedPages:
        found = self._read(pagemap, batch, scratch)
        counted = found.node < self._nodes
        rows = batch.of_pieces(np.array([piece.row for piece in batch.pieces], dtype=np.int64))
        entries = found.entries[counted]
        return CountedPages(
            pfn=found.pfn[counted],
            span=found.pick(rows)[counted],
            node=found.node[counted].astype(np.int64),
            exclusive=(entries & np.uint64(PM_EXCLUSIVE)) != 0,
            anon=(entries & np.uint64(PM_FILE)) == 0,
            address=found.pick(batch.addresses())[counted].view(np.int64),
        )

    def _read(self, pagemap: Pagemap, batch: _Batch, scratch: _Scratch) -> _Found:
        """Read the entries of a batch and find the node of every present one."""
        entries = scratch.entries[: batch.entries]
        _fill(pagemap, batch, entries)
        common = int(np.bitwise_and.reduce(entries))
        which = None
        if not common & PM_PRESENT:
            which = np.flatnonzero(entries.view(np.int64) < 0)  # PM_PRESENT is the sign bit
            entries = entries[which]
        size = entries.size
        pfn = np.bitwise_and(entries, np.uint64(PM_PFN_MASK), out=scratch.pfn[:size])
        index = np.right_shift(pfn, np.uint64(self._shift), out=scratch.index[:size])
        node = np.take(self._table, index.view(np.int64), out=scratch.node[:size], mode="clip")
        found = _Found(entries, pfn, node, which)
        if not common & PM_EXCLUSIVE:  # the zero pages have no map count, so they never have this bit
            self._leave_out_zero_pages(found, pagemap)
        if any(piece.special for piece in batch.pieces):
            self._leave_out_reserved(found, batch, pagemap)
        if self._table_is_ambiguous:
            self._ask_for_ambiguous(found, batch, pagemap)
        return found

    def _leave_out_zero_pages(self, found: _Found, pagemap: Pagemap) -> None:
        zero = found.pfn == np.uint64(self.zero_pages.pfn)
        order = np.uint64(self.zero_pages.huge_order)
        huge_pfn = self.zero_pages.huge_pfn
        for head in self._huge_zero_suspects(found, pagemap) if huge_pfn is None else [huge_pfn]:
            zero |= (found.pfn >> order) == np.uint64(head) >> order
        if zero.any():
            found.node[zero] = self._uncounted

    def _huge_zero_suspects(self, found: _Found, pagemap: Pagemap) -> list[int]:
        """Huge zero pages that this batch maps: left from the time before huge pages were switched off."""
        inside = np.uint64((1 << self.zero_pages.huge_order) - 1)
        heads = np.unique(found.pfn[(found.pfn & inside == 0) & (found.entries & np.uint64(PM_EXCLUSIVE) == 0)])
        flags = page_flags(heads, pagemap.proc_root)
        heads = heads[has_flag(flags, KPF_ZERO_PAGE) & has_flag(flags, KPF_THP)]
        return [int(head) for head in heads]

    def _leave_out_reserved(self, found: _Found, batch: _Batch, pagemap: Pagemap) -> None:
        special = np.array([piece.special and piece.stride == _PAGE for piece in batch.pieces])
        at = np.flatnonzero(found.pick(batch.of_pieces(special)))
        flags = page_flags(found.pfn[at], pagemap.proc_root)
        # KPF_NOPAGE: not an online page, so device memory.
        found.node[at[has_flag(flags, KPF_RESERVED) | has_flag(flags, KPF_NOPAGE)]] = self._uncounted

    def _ask_for_ambiguous(self, found: _Found, batch: _Batch, pagemap: Pagemap) -> None:
        """Replace `_ambiguous` by what move_pages says of the address; a page gone meanwhile does not count."""
        at = np.flatnonzero(found.node == self._ambiguous)
        if at.size:
            nodes = nodes_of_addresses(pagemap.pid, found.pick(batch.addresses())[at])
            counts = np.isin(nodes, self.topology.has_memory)
            found.node[at] = np.where(counts, nodes, self._uncounted)


def _populated(pagemap: Pagemap, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The present parts of a range, short holes included; all of it where the kernel cannot tell."""
    for found in pagemap.scan(start, end):
        if found is None:
            yield start, end
        elif found.size:
            starts, ends = found["start"], found["end"]
            cuts = np.flatnonzero(starts[1:] - ends[:-1] > _SCAN_GAP)
            firsts, lasts = starts[[0, *(cuts + 1)]], ends[[*cuts, -1]]
            yield from zip(firsts.tolist(), lasts.tolist(), strict=True)


def _batches(pieces: Iterable[_Piece]) -> Iterator[_Batch]:
    """Pieces in portions of at most `_BATCH_ENTRIES`, large ones alone, and cut where a page table ends if possible."""
    small: list[_Piece] = []
    size = 0
    for piece in pieces:
        alone = piece.entries >= _LARGE_PIECE
        # Whole page tables are counted faster if nothing else is among them.
        other = small and (piece.entries == _TABLE_ENTRIES) != (small[-1].entries == _TABLE_ENTRIES)
        if small and (alone or other or size + piece.entries > _BATCH_ENTRIES or len(small) == _BATCH_PIECES):
            yield _Batch(small, size)
            small, size = [], 0
        if alone:
            yield from (_Batch([part], part.entries) for part in _parts(piece))
        else:
            small.append(piece)
            size += piece.entries
    if small:
        yield _Batch(small, size)


def _parts(piece: _Piece) -> Iterator[_Piece]:
    row, start, end, stride, special, _ = piece
    while start < end:
        stop = start + _BATCH_ENTRIES * stride
        if stride < _REGION_BYTES:
            stop -= stop % _REGION_BYTES
        yield _piece(row, start, min(stop, end), stride, special)
        start = stop


def _fill(pagemap: Pagemap, batch: _Batch, entries: U64Array) -> None:
    """Read the entries of all pieces, one after the other, those of neighbours with one call."""
    at = 0
    run_start = run_end = 0  # addresses of the run of pieces that is yet to be read
    for piece in batch.pieces:
        if piece.start != run_end or piece.stride != _PAGE:
            at += _read_run(pagemap, run_start, run_end, entries[at:])
            run_start, run_end = piece.start, piece.start
        if piece.stride == _PAGE:
            run_end = piece.end
            continue
        for address in range(piece.start, piece.end, piece.stride):
            pagemap.read_into(address, entries[at : at + 1])
            at += 1
    _read_run(pagemap, run_start, run_end, entries[at:])


def _read_run(pagemap: Pagemap, start: int, end: int, entries: U64Array) -> int:
    pages = (end - start) // _PAGE
    pagemap.read_into(start, entries[:pages])
    return pages
