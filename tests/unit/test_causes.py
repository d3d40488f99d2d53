"""Causes in words: one line each, for every cause, and the calls and files in them are those that exist."""

from __future__ import annotations

import re

import pytest

from tracer.model.cause import Cause
from tracer.render.causes import explain, remedy

# enum migrate_reason of include/linux/migrate_mode.h, 6.1 to 7.3, in lower case, and what the session adds.
REASONS = ["compaction", "memory_failure", "memory_hotplug", "syscall", "syscall_or_cpuset", "mempolicy_mbind"]
REASONS += ["numa_misplaced", "contig_range", "longterm_pin", "demotion", "damon", "promotion"]

FILES = {
    "/proc/sys/vm/drop_caches",
    "/proc/sys/kernel/numa_balancing",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/mempolicy/weighted_interleave",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/numa/demotion_enabled",
    "/sys/kernel/mm/damon/admin",
}


@pytest.mark.parametrize("words", [explain, remedy])
def test_every_cause_has_one_line_of_its_own(words: object) -> None:
    assert callable(words)
    lines = [words(cause) for cause in Cause] + [words(Cause.MOVED, reason) for reason in REASONS]
    for line in lines:
        assert line
        assert "\n" not in line
        assert len(line) <= 110
        assert not line.endswith(".")
    assert len({words(cause) for cause in Cause}) == len(Cause)


@pytest.mark.parametrize("reason", REASONS)
def test_a_migration_says_who_moved_it_and_how_to_stop_that(reason: str) -> None:
    assert explain(Cause.MOVED, reason).startswith("moved after allocation, by ")
    assert reason not in explain(Cause.MOVED, reason) or reason in ("compaction", "demotion")
    assert remedy(Cause.MOVED, reason) != remedy(Cause.MOVED)


def test_a_reason_that_a_newer_kernel_has_is_shown_as_it_is() -> None:
    assert explain(Cause.MOVED, "teleport") == "moved after allocation, by teleport"
    assert remedy(Cause.MOVED, "teleport") == remedy(Cause.MOVED)


def test_only_migrations_have_a_reason() -> None:
    assert explain(Cause.MERGED, "compaction") == explain(Cause.MERGED)
    assert remedy(Cause.MERGED, "compaction") == remedy(Cause.MERGED)


def test_remedies_name_files_that_the_kernel_has() -> None:
    lines = [remedy(cause) for cause in Cause] + [remedy(Cause.MOVED, reason) for reason in REASONS]
    named = {path.rstrip(".,;:") for line in lines for path in re.findall(r"/(?:proc|sys)/[\w/]+", line)}
    assert named == FILES
