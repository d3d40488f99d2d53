"""The VMA list of a target, kept up to date: only what changed is read again, and only unknown names are asked for.

The kernel's tree of VMAs gives one digest a leaf (bpf/vmas.c). Leaves whose digest is known already are not read, and
a VMA whose own digest is known keeps its `Vma`. Names come from maps (`tracer.kernel.procmap`) once for each file.

A list is proven when it was there, as a whole, at one moment:

- With mm_lock_seq as a sequence count: it is even, and the same before and after.
- Without (6.1, and kernels where it is a plain number): the digests are the same when they are taken once more, what
  was read in between has these digests, too, and nobody held mmap_lock for writing at a moment between the two. Each
  VMA was seen before that moment and after it, so it was there at that moment, unless it was replaced meanwhile and
  put back as it was: same place, file, anon_vma and policy. Such a list is right all the same as soon as it is read
  again, which without mm_lock_seq happens at every refresh. A list equal to the known one needs no second time: the
  known one is the other look.

A target that changes its list all the time cannot be seen like that. Then a list that is sane is given as unproven:
its VMAs ascend, none overlaps another, all belong to this mm, and each was there at some moment of the reading.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tracer.kernel import procfs
from tracer.kernel.procfs import MapsEntry
from tracer.kernel.procmap import entries_at
from tracer.kernel.walk import EVERYWHERE, PageTables
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.spans import FILLED, RESTLESS, SHARING, SPECIAL, VmaList
from tracer.model.vma import Kind, Vma

__all__ = ["Layout", "VmaListReader", "effective_policy", "leaf_digests", "lists_of"]

# vm_flags, include/linux/mm.h
VM_READ, VM_WRITE, VM_EXEC, VM_MAYSHARE = 0x1, 0x2, 0x4, 0x80
VM_PFNMAP, VM_IO, VM_HUGETLB, VM_MIXEDMAP, VM_MERGEABLE = 0x400, 0x4000, 0x400000, 0x10000000, 0x80000000
VM_MAYSHARE, VM_UFFD_MISSING = 0x80, 0x200
GIB = 1 << 30  # of which a page table of huge pages is made
PAGE_KB = 4

TRIES = 4  # readings of a list that changes underneath, before an unproven one is taken
PATIENCE_S = 0.02  # ... or this time is over
FEW_CUTS = 32  # places of a list that are cheaper to change in place, though each moves what follows
MOST_NAMES = 1 << 16  # kept, before those that nobody uses any more are dropped

LAST_ADDRESS = 1 << 56  # of user space, with five levels of page tables
MIX = 0x9E3779B97F4A7C15  # mix() in bpf/vmas.c

# What a VMA without file and operations is (numa_maps' word); ASK: the kernels differ, so the text has to tell.
PLAIN, HEAP, STACK, ASK = 0, 1, 2, 3
NAMELESS = -1

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Records = npt.NDArray[np.void]
Cut = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """A VMA list: what outputs print, and what the counting needs. own_policy: False where the VMA has no policy of
    its own, so that the task's shows.

    consistent: False when the list changed while it was read, time and again; each of its VMAs was seen, but not all
    at one moment. lists: the value of `Glance.lists` under which it was read, None if nothing tells of changes.
    Two layouts with the same object as `vmas`, or as `spans`, have equal ones.
    """

    vmas: tuple[Vma, ...]
    spans: VmaList
    own_policy: Bools
    consistent: bool = True
    lists: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Name:
    """What maps tells of a VMA beyond the kernel's structures; reserved: see `procfs.may_hold_reserved`."""

    device: str
    inode: int
    path: bytes
    reserved: bool

    @staticmethod
    def of(entry: MapsEntry, is_file: bool) -> _Name:
        path = procfs.file_path(entry) if is_file else entry.path
        return _Name(entry.device, entry.inode, path, procfs.may_hold_reserved(entry))


NO_NAME = _Name("00:00", 0, b"", False)


@dataclass(slots=True)
class _Rows:
    """VMAs in address order: arrays of equal length. For start to anon see `VmaList`.

    bare: neither file nor operations. word: PLAIN to ASK, before anybody was asked. digest: of everything printed but
    the name; 0 for "read it again". name: index into the reader's names, or NAMELESS. The `Vma`s are kept apart.
    """

    start: Int64s
    end: Int64s
    huge: Int64s
    special: Int64s
    file: Int64s
    bias: Int64s
    anon: Int64s
    own: Bools
    bare: Bools
    word: npt.NDArray[np.int8]
    digest: Uint64s
    name: Int64s


SPAN_COLUMNS = ("start", "end", "huge", "special", "file", "bias", "anon")
COLUMNS = (*SPAN_COLUMNS, "own", "bare", "word", "digest", "name")


def _no_rows() -> _Rows:
    none = np.empty(0, np.int64)
    flags, digest = np.empty(0, bool), np.empty(0, np.uint64)
    return _Rows(none, none, none, none, none, none, none, flags, flags, np.empty(0, np.int8), digest, none)


@dataclass(slots=True)
class _List:
    """A list that was read. spans: those of its rows. marks: start_brk, brk and start_stack that its words belong to.

    cuts, vmas, changed: what it takes to make the known `Vma`s those of this list (`_cuts`), and whether that
    changes any.
    asked: rows (indices) whose name was asked for this very time. whole: False when a VMA had to be left out, because
    it was gone before its name was known, or was another one than the digests had told.
    """

    leaves: Records | None = None
    rows: _Rows = field(default_factory=_no_rows)
    spans: VmaList = field(default_factory=VmaList.empty)
    cuts: list[Cut] = field(default_factory=list)
    vmas: list[Vma] = field(default_factory=list)
    changed: bool = False
    marks: tuple[int, ...] = ()
    asked: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    whole: bool = True


def effective_policy(mode: int, flags: int, words: npt.NDArray[np.uint64]) -> Policy:
    """A policy of the kernel (struct mempolicy); mode 0 is that of a task without any."""
    if not mode:
        return DEFAULT
    if mode == Mode.LOCAL:  # its node mask means nothing, and mpol_to_str() leaves it out
        return Policy(mode, flags)
    nodes = tuple(64 * i + bit for i, word in enumerate(words) if word for bit in range(64) if int(word) >> bit & 1)
    return Policy(mode, flags, nodes)


def _marks(glance: np.void) -> tuple[int, ...]:
    """Where heap and stack are; prctl(PR_SET_MM) moves them without changing any VMA."""
    return int(glance["start_brk"]), int(glance["brk"]), int(glance["start_stack"])


def lists_of(glance: np.void) -> tuple[int, ...]:
    """Equal values of it mean that the VMA list cannot have changed, on a kernel with mm_lock_seq."""
    return int(glance["lock_seq"]), int(glance["map_count"]), *_marks(glance)


class VmaListReader:
    """The list of one mm (its kernel address) of process `pid`."""

    def __init__(self, tables: PageTables, pid: int, mm: int) -> None:
        self._tables, self._pid, self._mm = tables, pid, mm
        self._has_seq = "MM_LOCK_SEQ" in tables.constants
        self._seq_proves = "MM_LOCK_SEQCOUNT" in tables.constants
        self._known = _List()
        self._vmas: list[Vma] = []
        self._layout = Layout((), VmaList.empty(), np.empty(0, bool))
        self._names: list[_Name] = []
        self._by_key: dict[bytes, int] = {}
        self._policies: dict[tuple[int, int, bytes], Policy] = {}

    # --- the list ---

    def read(self) -> Layout | None:
        """The present list; None when not even an unproven one could be had."""
        found: _List | None = None
        limit = time.monotonic() + PATIENCE_S
        for _ in range(TRIES):
            before = self._look()
            read = self._read_once(_marks(before))
            if read is not None:
                if self._proven(before, read):
                    return self._take(read, True, lists_of(before) if self._has_seq else None)
                self._forget_names(read)
                found = read
            if time.monotonic() > limit:
                break
        return None if found is None else self._take(found, False, None)

    def _look(self) -> np.void:
        glance: np.void = self._tables.look(self._mm).copy()
        return glance

    def _read_once(self, marks: tuple[int, ...]) -> _List | None:
        """What is there now, with the parts that are known already. None: the tree made no sense, or the list."""
        self._doubt_words(marks)
        leaves = self._tables.vma_leaves(self._mm)
        if leaves is None:
            return None
        known = self._known
        ranges = changed_ranges(known.leaves, leaves)
        if not len(ranges[0]):
            return known
        found = self._tables.vmas(self._mm, *ranges)
        if found is None or not _are_vmas(found):
            return None
        read = self._spliced(leaves, ranges, found, marks)
        if read is not None and not self._seq_proves:
            read.whole &= _as_summed(found, leaves, ranges)
        return read

    def _proven(self, before: np.void, read: _List) -> bool:
        after = self._look()
        if not read.whole or not _same(before, after, "map_count", "total_vm"):
            return False
        if len(read.rows.start) != int(before["map_count"]):
            return False
        if self._seq_proves:
            return _same(before, after, "lock_seq") and not int(before["lock_seq"]) & 1
        if before["writer"] or after["writer"]:
            return False
        if read is self._known:
            return True
        again = self._tables.vma_leaves(self._mm)
        return (
            again is not None
            and read.leaves is not None
            and again.tobytes() == read.leaves.tobytes()
            and _same(before, self._look(), "map_count", "total_vm")
        )

    def _take(self, read: _List, consistent: bool, lists: tuple[int, ...] | None) -> Layout:
        """Make it the known list. What is equal to the known one stays the same object."""
        before = self._layout
        vmas, own = before.vmas, before.own_policy
        if read is not self._known:
            self._vmas = _splice_list(self._vmas, read.vmas, read.cuts)
            if read.changed:
                vmas = tuple(self._vmas)
            if not np.array_equal(own, read.rows.own):
                own = read.rows.own
        if not consistent:
            self._disbelieve(read)
        self._known = read
        self._layout = Layout(vmas, read.spans, own, consistent, lists)
        self._drop_names()
        return self._layout

    def _disbelieve(self, read: _List) -> None:
        """What was read anew for an unproven list is read once more the next time."""
        if read is self._known or read.leaves is None:
            return
        starts, ends = changed_ranges(self._known.leaves, read.leaves)
        low = np.searchsorted(read.leaves["from"], starts)
        high = np.searchsorted(read.leaves["from"], ends)
        for first, last in zip(low.tolist(), high.tolist(), strict=True):
            read.leaves["digest"][first:last] = 0
        read.rows.digest[read.asked] = 0

    # --- names ---

    def renamed(self, layout: Layout) -> Layout:
        """The same list as it would be printed now: names change without a change of the list, when a directory is
        renamed, and so does the policy of memory that is shared with another process."""
        rows = self._known.rows
        used, first = np.unique(rows.name, return_index=True)
        first, used = first[used != NAMELESS], used[used != NAMELESS]
        order = np.argsort(first)
        entries = entries_at(self._pid, rows.start[first[order]].tolist())
        for name, row, entry in zip(used[order].tolist(), first[order].tolist(), entries, strict=True):
            if entry is None or entry.end != rows.end[row]:
                continue
            told, known = _Name.of(entry, bool(rows.file[row])), self._names[name]
            # Another device or inode: another mapping is there by now, which the list will tell.
            if told != known and (told.device, told.inode) == (known.device, known.inode):
                self._names[name] = told
                self._doubt(np.flatnonzero(rows.name == name))
        now = self.read()
        return now if now is not None and now.consistent and now.spans is layout.spans else layout

    def _doubt(self, rows: npt.NDArray[np.intp]) -> None:
        """Read these VMAs again the next time, whatever their leaves say."""
        known = self._known
        if known.leaves is None or not len(rows):
            return
        known.rows.digest[rows] = 0
        starts = known.rows.start[rows].astype(np.uint64)
        known.leaves["digest"][np.searchsorted(known.leaves["from"], starts, "right") - 1] = 0

    def _doubt_words(self, marks: tuple[int, ...]) -> None:
        known = self._known
        if known.marks != marks:
            word = _words(known.rows.start, known.rows.end, known.rows.bare, marks)
            self._doubt(np.flatnonzero(word != known.rows.word))
            known.rows.word, known.marks = word, marks

    def _forget_names(self, read: _List) -> None:
        """Those that were asked for while the list changed may belong to another file."""
        if not len(read.asked):
            return
        doubtful = set(read.rows.name[read.asked].tolist())
        self._by_key = {key: name for key, name in self._by_key.items() if name not in doubtful}

    def _drop_names(self) -> None:
        """Those that nobody uses any more, once there are too many."""
        if len(self._names) <= MOST_NAMES:
            return
        name = self._known.rows.name
        used = np.unique(name[name != NAMELESS])
        place = {old: new for new, old in enumerate(used.tolist())}
        self._by_key = {key: place[old] for key, old in self._by_key.items() if old in place}
        self._names = [self._names[old] for old in used.tolist()]
        self._known.rows.name = np.where(name == NAMELESS, NAMELESS, np.searchsorted(used, name))

    # --- putting a list together ---

    def _spliced(
        self, leaves: Records, ranges: tuple[Uint64s, Uint64s], found: Records, marks: tuple[int, ...]
    ) -> _List | None:
        """The known list with the VMAs of some ranges of addresses replaced by those found there."""
        known = self._known
        fresh, vmas, asked, built, whole = self._rows_of(found, marks)
        cuts = _cuts(known.rows.start, fresh.start, ranges)
        rows = _splice(known.rows, fresh, cuts)
        if (rows.end <= rows.start).any() or (rows.start[1:] < rows.end[:-1]).any():
            return None
        at = np.searchsorted(rows.start, fresh.start[asked])
        changed = built or len(rows.start) != len(known.rows.start)
        return _List(leaves, rows, _spans(rows, known.spans), cuts, vmas, changed, marks, at, whole)

    def _rows_of(
        self, found: Records, marks: tuple[int, ...]
    ) -> tuple[_Rows, list[Vma], npt.NDArray[np.intp], bool, bool]:
        """Rows of records and their `Vma`s; which of them had their names asked for; whether any was not known
        before; and whether all could be named."""
        rows = _plain_rows(found, marks)
        old = self._known.rows
        at = np.minimum(np.searchsorted(old.start, rows.start), max(len(old.start) - 1, 0))
        same = (
            (old.start[at] == rows.start) & (old.digest[at] == rows.digest)
            if len(old.start)
            else np.zeros(len(rows.start), bool)
        )
        rows.name[same], rows.special[same] = old.name[at[same]], old.special[at[same]]
        fresh = np.flatnonzero(~same)
        missing, asked, words = self._name(rows, found, fresh)
        vmas: list[Vma | None] = [None] * len(found)
        for row, before in zip(np.flatnonzero(same).tolist(), at[same].tolist(), strict=True):
            vmas[row] = self._vmas[before]
        for row, vma in zip(fresh.tolist(), self._built(rows, found, fresh, words), strict=True):
            vmas[row] = vma
        if len(missing):
            keep = np.ones(len(found), bool)
            keep[missing] = False
            for row in missing.tolist():
                vmas[row] = None
            for name in COLUMNS:
                setattr(rows, name, getattr(rows, name)[keep])
            asked = (np.cumsum(keep) - 1)[asked[keep[asked]]]
        return rows, [vma for vma in vmas if vma is not None], asked, bool(len(fresh)), not len(missing)

    def _name(
        self, rows: _Rows, found: Records, fresh: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.int8]]:
        """Name the fresh rows. Gives those that are gone already, those that were asked for, and the words of all
        rows, now without ASK."""
        words = rows.word.copy()
        named = (found["file"] != 0) | (found["ops"] != 0) | ((found["name"] != 0) & np.isin(rows.word, (PLAIN, ASK)))
        keys = np.stack([found[name] for name in ("file", "ops", "inode", "ino", "name", "device")], 1, dtype=np.uint64)
        first: dict[bytes, int] = {}
        for row in fresh[named[fresh]].tolist():
            name = self._by_key.get(key := keys[row].tobytes())
            if name is None:
                first.setdefault(key, row)
            else:
                rows.name[row] = name
        wanted = np.union1d(np.fromiter(first.values(), np.intp), fresh[rows.word[fresh] == ASK])
        entries = dict(zip(wanted.tolist(), entries_at(self._pid, rows.start[wanted].tolist()), strict=True))
        missing = []
        for row, entry in entries.items():
            if entry is None or entry.end != rows.end[row]:
                missing.append(row)
            elif rows.word[row] == ASK and entry.path == b"[heap]":
                words[row] = HEAP
            elif named[row]:
                self._by_key[keys[row].tobytes()] = len(self._names)
                self._names.append(_Name.of(entry, bool(found["file"][row])))
        words[words == ASK] = PLAIN
        asked = [row for row in fresh[named[fresh]].tolist() if rows.name[row] == NAMELESS and words[row] == PLAIN]
        for row in asked:
            rows.name[row] = self._by_key.get(keys[row].tobytes(), NAMELESS)
            if rows.name[row] == NAMELESS:
                missing.append(row)
        reserved = [row for row in fresh[rows.name[fresh] >= 0].tolist() if self._names[rows.name[row]].reserved]
        rows.special[reserved] |= SPECIAL
        return np.unique(np.array(missing, np.intp)), np.array(asked, np.intp), words

    def _built(
        self, rows: _Rows, found: Records, fresh: npt.NDArray[np.intp], words: npt.NDArray[np.int8]
    ) -> list[Vma]:
        """The `Vma` of each fresh row."""
        columns = [rows.start, rows.end, found["flags"], found["pgoff"], rows.file, rows.name, words, rows.huge]
        policies = self._policies_of(found[fresh], rows.own[fresh])
        return [
            self._vma(start, end, flags, pgoff, file, name, word, huge, policy)
            for start, end, flags, pgoff, file, name, word, huge, policy in zip(
                *(column[fresh].tolist() for column in columns), policies, strict=True
            )
        ]

    def _vma(
        self, start: int, end: int, flags: int, pgoff: int, file: int, name: int, word: int, huge: int, policy: Policy
    ) -> Vma:
        told = self._names[name] if name != NAMELESS else NO_NAME
        kind, path = (Kind.FILE if file else Kind.ANON), told.path
        if word == HEAP:
            kind, path = Kind.HEAP, b"[heap]"
        elif word == STACK:
            kind, path = Kind.STACK, b"[stack]"
        perms = PERMS[flags & (VM_READ | VM_WRITE | VM_EXEC) | (8 if flags & VM_MAYSHARE else 0)]
        offset = pgoff << 12 if file else 0
        page_kb = huge // 1024 if huge else PAGE_KB
        return Vma(start, end, perms, offset, told.device, told.inode, path, kind, policy, bool(huge), page_kb)

    def _policies_of(self, found: Records, own: Bools) -> list[Policy]:
        policies = [DEFAULT] * len(found)
        for row in np.flatnonzero(own).tolist():
            mode, flags, nodes = found["policy_mode"][row], found["policy_flags"][row], found["nodes"][row]
            key = int(mode), int(flags), nodes.tobytes()
            if key not in self._policies:
                self._policies[key] = effective_policy(key[0], key[1], nodes)
            policies[row] = self._policies[key]
        return policies


PERMS = [
    "".join(letter if bits >> i & 1 else "-" for i, letter in enumerate("rwx")) + ("s" if bits & 8 else "p")
    for bits in range(16)
]


def changed_ranges(known: Records | None, now: Records) -> tuple[Uint64s, Uint64s]:
    """Ranges of addresses in which the leaves `now` differ from the known ones. Both cover all addresses, so that a
    boundary of the ranges is one of leaves in both, and no VMA crosses it."""
    if known is None:
        return EVERYWHERE
    at = np.minimum(np.searchsorted(known["from"], now["from"]), len(known) - 1)
    same = np.ones(len(now), bool)
    for name in ("from", "until", "digest", "count"):
        same &= known[name][at] == now[name]
    edge = np.diff(np.concatenate(([True], same, [True])).astype(np.int8))
    return now["from"][edge[:-1] < 0], now["until"][edge[1:] > 0]


def _are_vmas(found: Records) -> bool:
    """Whether the records can be VMAs at all: one that is being made or used again may be anything."""
    ordered = (found["start"] < found["end"]).all() and (found["end"][:-1] <= found["start"][1:]).all()
    return bool(ordered and (found["end"] <= LAST_ADDRESS).all())


def leaf_digests(found: Records, starts: Uint64s) -> Uint64s:
    """Digests of leaves that begin at `starts` and hold the VMAs found, as bpf/vmas.c computes them: list_vmas(). Every
    leaf must hold one, and the first must begin no later than any VMA does."""
    mixed = (found["digest"] ^ found["anon_vma"]) * np.uint64(MIX)
    mixed ^= mixed >> np.uint64(32)
    digests: Uint64s = np.add.reduceat(mixed, np.searchsorted(found["start"], starts)) | np.uint64(1)
    return digests


def _as_summed(found: Records, leaves: Records, ranges: tuple[Uint64s, Uint64s]) -> bool:
    """Whether VMAs, read range by range after the digests, are those that the digests are of."""
    at = np.searchsorted(ranges[0], leaves["from"], "right") - 1
    asked = leaves[(at >= 0) & (leaves["from"] < ranges[1][at])]
    full = asked[asked["count"] > 0]
    if len(found) != int(asked["count"].sum()):
        return False
    if not len(full):
        return True
    counts = np.diff(np.searchsorted(found["start"], full["from"]), append=len(found))
    return bool((counts == full["count"]).all() and (leaf_digests(found, full["from"]) == full["digest"]).all())


def _same(one: np.void, other: np.void, *names: str) -> bool:
    return all(one[name] == other[name] for name in names)


def _words(start: Int64s, end: Int64s, bare: Bools, marks: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """The words that numa_maps prints for memory without a file (fs/proc/task_mmu.c show_numa_map). A VMA that touches
    the heap's limits without reaching over them is "heap" up to 6.5 (show_map_vma), and not since
    (vma_is_initial_heap)."""
    start_brk, brk, start_stack = marks
    heap = bare & (start < brk) & (end > start_brk)
    touching = bare & (start <= brk) & (end >= start_brk)
    stack = bare & (start <= start_stack) & (end >= start_stack)
    return np.where(heap, HEAP, np.where(touching, ASK, np.where(stack, STACK, PLAIN))).astype(np.int8)


def _plain_rows(found: Records, marks: tuple[int, ...]) -> _Rows:
    """Rows as far as the records tell, without names and `Vma`s."""
    flags = found["flags"]
    start, end = found["start"].astype(np.int64), found["end"].astype(np.int64)
    odd = (flags & np.uint64(VM_PFNMAP | VM_IO | VM_MIXEDMAP)) != 0
    bare = (found["file"] == 0) & (found["ops"] == 0)
    return _Rows(
        start,
        end,
        np.where(flags & np.uint64(VM_HUGETLB), found["block_size"], 0).astype(np.int64),
        odd * SPECIAL | _movements(flags, bare, start, end),
        found["file"].astype(np.int64),
        found["pgoff"].astype(np.int64) - (start >> 12),
        found["anon_vma"].astype(np.int64),
        found["policy"] != 0,
        bare,
        _words(start, end, bare, marks),
        found["digest"].astype(np.uint64),
        np.full(len(found), NAMELESS, np.int64),
    )


def _movements(flags: Uint64s, bare: Bools, start: Int64s, end: Int64s) -> Int64s:
    """Marks of memory whose pages change without an event."""
    mergeable = (flags & np.uint64(VM_MERGEABLE)) != 0
    filled = bare & ((flags & np.uint64(VM_UFFD_MISSING)) != 0)
    # Only whole page tables are shared (vma_shareable in mm/hugetlb.c).
    shared = (flags & np.uint64(VM_HUGETLB | VM_MAYSHARE)) == np.uint64(VM_HUGETLB | VM_MAYSHARE)
    sharing = shared & (-(-start // GIB) < end // GIB)
    marks: Int64s = mergeable * RESTLESS | filled * FILLED | sharing * SHARING
    return marks


def _cuts(old: Int64s, fresh: Int64s, ranges: tuple[Uint64s, Uint64s]) -> list[Cut]:
    """For each range of addresses: rows of `old` (first, last) that rows of `fresh` (first, last) replace."""
    limits = [np.minimum(limit, np.uint64((1 << 63) - 1)).astype(np.int64) for limit in ranges]
    places = [np.searchsorted(starts, limit).tolist() for starts in (old, fresh) for limit in limits]
    return list(zip(*places, strict=True))


def _splice(old: _Rows, fresh: _Rows, cuts: list[Cut]) -> _Rows:
    def spliced(name: str) -> npt.NDArray[np.int64]:
        before, new = getattr(old, name), getattr(fresh, name)
        parts, at = [], 0
        for first, last, begin, end in cuts:
            parts += [before[at:first], new[begin:end]]
            at = last
        return np.concatenate([*parts, before[at:]])

    return _Rows(**{name: spliced(name) for name in COLUMNS})  # type: ignore[arg-type]


def _splice_list(old: list[Vma], fresh: list[Vma], cuts: list[Cut]) -> list[Vma]:
    """The same for the `Vma`s; `old` itself, where that is cheaper."""
    if len(cuts) <= FEW_CUTS:
        for first, last, begin, end in reversed(cuts):
            old[first:last] = fresh[begin:end]
        return old
    vmas: list[Vma] = []
    at = 0
    for first, last, begin, end in cuts:
        vmas += old[at:first]
        vmas += fresh[begin:end]
        at = last
    return vmas + old[at:]


def _spans(rows: _Rows, before: VmaList) -> VmaList:
    """What the counting needs of the rows; the same object as before, if it is equal."""
    if all(np.array_equal(getattr(rows, name), getattr(before, name)) for name in SPAN_COLUMNS):
        return before
    return VmaList(*(getattr(rows, name) for name in SPAN_COLUMNS))
