"""What a session works with on this kernel: hooks and readers, chosen by trying, with a plain word for what is missing.

A choice that the user made by name is kept or refused; `auto` takes the best that works.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.errors import NumatraceError, UsageError
from tracer.kernel.btf import Btf
from tracer.kernel.hooks import Detail, Hooks, PreparedHooks
from tracer.kernel.pagemap import PagemapReader
from tracer.kernel.programs import check_permitted
from tracer.kernel.selftest import check_walk
from tracer.kernel.topology import Topology, read_topology
from tracer.kernel.walk import PageTables, Prepared

__all__ = ["Machinery", "Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """The words of the command line. details: read `Details` for every snapshot (`--full`).

    audit_cpu: share of one CPU that audits may take, as a fraction. flows: follow each page that migrates. faults: tell
    page faults apart by kind and place; threads: by thread, too. regions: snapshots carry the counts of each region.
    policies: snapshots carry `Policies`; policy_calls: the system calls that set policies are traced, too.
    check: share of the populated regions that each refresh compares with pagemap, as a fraction.
    """

    hooks: str = "auto"
    reader: str = "auto"
    seed: str = "auto"
    details: bool = False
    audit_cpu: float = 0.05
    flows: bool = False
    faults: bool = False
    threads: bool = False
    regions: bool = False
    policies: bool = False
    policy_calls: bool = False
    check: float = 0.0


class Machinery:
    """Loaded programs and readers. tables and hooks are None when the session has to poll without BPF.

    counts_by_ilx: how this kernel numbers pages for interleaving; see `tracer.model.rule.Backing`.
    notes: gets a line for everything that `auto` could not have. Raises NumatraceError for a named choice that fails.
    """

    def __init__(self, options: Options, notes: list[str]) -> None:
        self.options, self.notes = options, notes
        self.topology: Topology = read_topology()
        self.tables: PageTables | None = None
        self.hooks: Hooks | None = None
        self.counts_by_ilx = False
        self._frames: PagemapReader | None = None
        self.reader = self._choose()

    def _choose(self) -> str:
        options = self.options
        if options.hooks == "none" and options.reader == "walk":
            raise UsageError(
                "`--hooks none` works without BPF, and the walk is BPF",
                "use `--reader pagemap`, or leave `--hooks` away",
            )
        if options.hooks == "tracepoint" and options.reader == "numa_maps":
            raise UsageError(
                "numa_maps has no regions that hooks could point at",
                "use `--reader walk` or `--reader pagemap`, or `--hooks none`",
            )
        if options.hooks == "none" or options.reader == "numa_maps":
            return self._without_bpf()
        try:
            self._start_bpf()
        except NumatraceError as error:
            self.close()
            if options.hooks == "tracepoint" or options.reader == "walk":
                raise
            reader = self._without_bpf()
            self.notes.append(
                f"{error.message}; polling {reader} instead: no history between two looks"
                + (f" ({error.hint})" if error.hint else "")
            )
            return reader
        return self._proved_reader()

    def _without_bpf(self) -> str:
        """pagemap needs the right to see page frame numbers; numa_maps only that to look at the process."""
        if self.options.reader != "auto":
            return self.options.reader
        try:
            assert self.frames is not None
        except NumatraceError:
            return "numa_maps"
        return "pagemap"

    def _start_bpf(self) -> None:
        check_permitted()
        btf = Btf()
        tables = Prepared(btf, self.topology)
        options = self.options
        self.counts_by_ilx = btf.arguments("vm_operations_struct.get_policy") == 3
        faults = options.faults or options.threads
        flows = options.flows or options.policies or options.policy_calls  # why a page has moved is one of the causes
        detail = Detail(flows, faults, options.threads, options.policies, options.policy_calls)
        hooks = PreparedHooks(btf, self.topology, tables, detail)
        try:
            self.tables = PageTables(tables)
            self.hooks = Hooks(hooks, self.tables)
        finally:
            tables.compilation.abandon()
            hooks.compilation.abandon()
        btf.save()
        if self.hooks.slows_calls:
            self.notes.append(
                "this kernel does not let programs be attached to its functions: while the calls that set policies are "
                "traced, every system call of the machine takes about a tenth of a microsecond longer"
            )
        if self.hooks.missing:
            self.notes.append(
                "this kernel lacks the tracepoints "
                + ", ".join(self.hooks.missing)
                + ": such changes are found by audits only"
            )

    def _proved_reader(self) -> str:
        """The reader of spans: the walk when it agrees with pagemap on our own pages."""
        if self.options.reader == "pagemap":
            return "pagemap"
        assert self.tables is not None
        try:
            self.tables.set_huge_zero(self.frames.zero_pages.huge_pfn)
            check_walk(self.tables, self.frames)
        except NumatraceError as error:
            if self.options.reader == "walk":
                raise
            self.notes.append(f"{error.message}; reading pagemap instead")
            return "pagemap"
        return "walk"

    @property
    def frames(self) -> PagemapReader:
        """The pagemap reader, made when it is first needed. Raises NumatraceError without the right to see PFNs."""
        if self._frames is None:
            self._frames = PagemapReader(self.topology)
        return self._frames

    def close(self) -> None:
        """Unload everything."""
        if self.hooks is not None:
            self.hooks.close()
            self.hooks = None
        if self.tables is not None:
            self.tables.close()
            self.tables = None
