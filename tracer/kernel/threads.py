"""The memory policies of a process's threads: set_mempolicy(2) is for the thread that calls it."""

from __future__ import annotations

from typing import NamedTuple

from tracer.kernel.epoch import policy_hash
from tracer.kernel.vma_list import effective_policy
from tracer.kernel.walk import PageTables
from tracer.model.policy import DEFAULT, Policy

__all__ = ["ThreadPolicy", "policy_hash", "thread_policies"]

TRIES = 4  # readings of a list that is lost because threads end


class ThreadPolicy(NamedTuple):
    """thread: its id. comm: its name, at most 15 bytes. pointer: kernel address of its struct mempolicy, 0 for none;
    `policy_hash` of it is what `PlacedRows` calls a policy. Threads do not share one: each has a copy of its maker's.
    """

    thread: int
    comm: bytes
    pointer: int
    policy: Policy


def thread_policies(tables: PageTables, mm: int, pid: int) -> tuple[ThreadPolicy, ...]:
    """Of every thread that uses an mm and belongs to the mm's owner: the main thread first, then by id.

    Where the kernel does not tell the owner of an mm (no CONFIG_MEMCG), or the list gets lost time and again, it is the
    main thread alone (`pid`), without a name, with the policy that a glance at the mm gives.
    """
    for _ in range(TRIES):
        found = tables.threads(mm)
        if found is not None:
            break
    else:
        return (ThreadPolicy(pid, b"", 0, _main_policy(tables, mm)),)
    names = ("tid", "tgid", "policy", "mode", "flags")
    columns = [found[name].tolist() for name in names]
    comms = [comm.tobytes().partition(b"\0")[0] for comm in found["comm"]]
    known: dict[tuple[int, int, bytes], Policy] = {}
    threads = []
    for row, (tid, tgid, pointer, mode, flags) in enumerate(zip(*columns, strict=True)):
        policy = DEFAULT
        if mode:
            nodes = found["nodes"][row]
            key = mode, flags, nodes.tobytes()
            if key not in known:
                known[key] = effective_policy(mode, flags, nodes)
            policy = known[key]
        threads.append((tid != tgid, ThreadPolicy(tid, comms[row], pointer, policy)))
    return tuple(thread for _, thread in sorted(threads, key=lambda it: (it[0], it[1].thread)))


def _main_policy(tables: PageTables, mm: int) -> Policy:
    glance = tables.look(mm)
    return effective_policy(int(glance["policy_mode"]), int(glance["policy_flags"]), glance["policy_nodes"])
