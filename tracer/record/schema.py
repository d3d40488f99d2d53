"""What a recording holds: the columns of its one table, and what stands in the file's metadata.

Meanings, units and null rules are in docs/recording.md; a test holds that page against this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from tracer import __version__
from tracer.errors import NumatraceError

__all__ = [
    "DETAILS",
    "FAULTS_TYPE",
    "FLOWS_TYPE",
    "METADATA_KEY",
    "MISPLACED_TYPE",
    "POLICY_CHANGES_TYPE",
    "POLICY_TYPE",
    "PRESSURE_TYPE",
    "SCHEMA_VERSION",
    "THREADS_TYPE",
    "TIME_TYPE",
    "Info",
    "arrow_schema",
    "node_column",
]

SCHEMA_VERSION = 1
"""Changes only when a column changes its meaning; new columns, events and metadata keys may come without."""

METADATA_KEY = b"numatrace"

DETAILS = ("anon", "dirty", "mapmax", "swapcache", "active", "writeback")
"""Columns with the names of the fields of `Details`, in their order."""

TIME_TYPE = pa.timestamp("us", tz="UTC")

FLOWS_TYPE = pa.list_(
    pa.struct(
        [
            ("source", pa.int32()),
            ("destination", pa.int32()),
            ("reason", pa.string()),
            ("pages", pa.int64()),
            ("failed", pa.int64()),
        ]
    )
)

FAULTS_TYPE = pa.list_(
    pa.struct(
        [
            ("cpu_node", pa.int32()),
            ("page_node", pa.int32()),
            ("kind", pa.string()),
            ("thread", pa.int32()),
            ("count", pa.int64()),
        ]
    )
)

MISPLACED_TYPE = pa.list_(
    pa.struct(
        [
            ("cause", pa.string()),
            ("reason", pa.string()),
            ("node", pa.int32()),
            ("expected", pa.int32()),
            ("pages", pa.int64()),
        ]
    )
)

_POLICY_FIELDS = (("policy", pa.string()), ("mode", pa.int8()), ("flags", pa.int32()), ("nodes", pa.string()))

POLICY_TYPE = pa.struct(_POLICY_FIELDS)
"""With the meanings of the columns `policy`, `policy_mode` and so on."""

THREADS_TYPE = pa.list_(
    pa.struct([("thread", pa.int32()), ("comm", pa.string()), ("comm_raw", pa.binary()), *_POLICY_FIELDS])
)

POLICY_CHANGES_TYPE = pa.list_(
    pa.struct(
        [
            ("time", TIME_TYPE),
            ("exact", pa.bool_()),
            ("thread", pa.int32()),
            ("start", pa.uint64()),
            ("end", pa.uint64()),
            ("old", POLICY_TYPE),
            ("new", POLICY_TYPE),
            ("call", pa.string()),
        ]
    )
)

PRESSURE_TYPE = pa.list_(
    pa.struct(
        [
            ("node", pa.int32()),
            ("foreign", pa.int64()),
            ("free", pa.int64()),
            ("low", pa.int64()),
            ("high", pa.int64()),
        ]
    )
)

_BEFORE_NODES: tuple[tuple[str, Any], ...] = (
    ("time", TIME_TYPE),
    ("event", pa.string()),
    ("key", pa.bool_()),
    ("pid", pa.int32()),
    ("ns_pid", pa.int32()),
    ("comm", pa.string()),
    ("comm_raw", pa.binary()),
    ("hooks", pa.string()),
    ("reader", pa.string()),
    ("spelling", pa.string()),
    ("start", pa.uint64()),
    ("end", pa.uint64()),
    ("perms", pa.string()),
    ("offset", pa.uint64()),
    ("device", pa.string()),
    ("inode", pa.uint64()),
    ("kind", pa.string()),
    ("name", pa.string()),
    ("name_raw", pa.binary()),
    ("huge", pa.bool_()),
    ("page_kb", pa.int32()),
    ("policy", pa.string()),
    ("policy_mode", pa.int8()),
    ("policy_flags", pa.int32()),
    ("policy_nodes", pa.string()),
    ("pages", pa.int64()),
)

_AFTER_NODES: tuple[tuple[str, Any], ...] = (
    *((name, pa.int64()) for name in DETAILS),
    ("settling", pa.int64()),
    ("unexplained", pa.int64()),
    ("lost", pa.int64()),
    ("drift", pa.int64()),
    ("oldest_read_s", pa.float64()),
    ("regions_read", pa.int64()),
    ("cpu_ns", pa.int64()),
    ("regions", pa.int64()),
    ("untraced", pa.int64()),
    ("flows", FLOWS_TYPE),
    ("faults", FAULTS_TYPE),
)

_POLICIES: tuple[tuple[str, Any], ...] = (
    ("own", pa.bool_()),
    ("governed", pa.bool_()),
    ("units", pa.float64()),
    ("huge_pages", pa.int64()),
    ("rule", pa.list_(pa.int64())),
    ("misplaced", MISPLACED_TYPE),
    ("observed", pa.bool_()),
    ("allowed", pa.string()),
    ("weights", pa.list_(pa.int32())),
    ("threads", THREADS_TYPE),
    ("policy_changes", POLICY_CHANGES_TYPE),
    ("pressure", PRESSURE_TYPE),
)
"""Only in files that have policies: a dozen columns of nothing would cost each sample of all others."""


@dataclass(frozen=True, slots=True)
class Info:
    """What the metadata of a file says about the recording.

    version: of numatrace. schema: `SCHEMA_VERSION` of the writer. kernel: `uname -r`. node_ids: ids of the nodes with
    memory, ascending. distances: SLIT distances between them, a row per node. cpus: node id to the kernel's list of
    its CPUs (`0-7`). reasons: names of the reasons of flows. command_line: the words of the recorder's own. targets:
    words for people. every_s: seconds between two samples. spelling: of policies, as the last sample had it.
    details, flows, faults, threads, regions, policies: what was asked for. started: RFC 3339. complete: the recorder
    came to its orderly end; ended_by: what that was.
    """

    version: str = __version__
    schema: int = SCHEMA_VERSION
    host: str = ""
    kernel: str = ""
    node_ids: tuple[int, ...] = (0,)
    distances: tuple[tuple[int, ...], ...] = ()
    cpus: dict[int, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    command_line: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    every_s: float = 1.0
    spelling: str = "named"
    details: bool = False
    flows: bool = False
    faults: bool = False
    threads: bool = False
    regions: bool = False
    policies: bool = False
    started: str = ""
    complete: bool = False
    ended_by: str = ""

    def to_json(self) -> str:
        """One line. Bytes of words that are not UTF-8 (surrogates) are kept."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Info:
        """The reverse. Unknown keys are ignored, missing ones have their defaults.

        Raises NumatraceError for a newer schema, ValueError for what is not the JSON of an `Info`.
        """
        given = json.loads(text)
        if not isinstance(given, Mapping):
            raise ValueError("not an object")
        try:
            schema = int(given.get("schema", 0))
            if schema > SCHEMA_VERSION:
                raise NumatraceError(
                    f"the recording has schema {schema}, and this numatrace knows {SCHEMA_VERSION} at most",
                    f"open it with numatrace {given.get('version', 'of a later version')!s:.40} or later",
                )
            return cls(**{it.name: _FROM_JSON[it.name](given[it.name]) for it in fields(cls) if it.name in given})
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error


def _numbers(given: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in given)


def _words(given: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in given)


def _matrix(given: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(_numbers(row) for row in given)


def _cpus(given: Any) -> dict[int, str]:
    return {int(node): str(cpus) for node, cpus in given.items()}


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "version": str,
    "schema": int,
    "host": str,
    "kernel": str,
    "node_ids": _numbers,
    "distances": _matrix,
    "cpus": _cpus,
    "reasons": _words,
    "command_line": _words,
    "targets": _words,
    "every_s": float,
    "spelling": str,
    "details": bool,
    "flows": bool,
    "faults": bool,
    "threads": bool,
    "regions": bool,
    "policies": bool,
    "started": str,
    "complete": bool,
    "ended_by": str,
}


def node_column(node_id: int) -> str:
    """The column with the pages on a node."""
    return f"N{node_id}"


def arrow_schema(info: Info) -> Any:
    """The `pyarrow.Schema` of a recording, with `info` as its metadata."""
    nodes = [(node_column(node), pa.int64()) for node in info.node_ids]
    policies = _POLICIES if info.policies else ()
    return pa.schema(
        [*_BEFORE_NODES, *nodes, *_AFTER_NODES, *policies], metadata={METADATA_KEY: info.to_json().encode()}
    )
