"""The running kernel's facts as `-D` constants for the programs in bpf/.

Every name here is used in bpf/*.c or bpf/*.h; a required member that the kernel lacks means that the programs cannot
be built for it, an optional one that the code guarded by its #ifdef is left out.
"""

from __future__ import annotations

from tracer.errors import NumatraceError
from tracer.kernel.btf import Btf
from tracer.kernel.topology import Topology, possible_cpus

__all__ = ["NOWHERE_EXTRA", "bins_of", "layout", "node_words", "preemption"]

REQUIRED = {
    "TASK_MM": "task_struct.mm",
    "TASK_STACK": "task_struct.stack",
    "TASK_PID": "task_struct.pid",
    "TASK_TGID": "task_struct.tgid",
    "TASK_FLAGS": "task_struct.flags",
    "TASK_MAJORS": "task_struct.maj_flt",
    "TASK_MINORS": "task_struct.min_flt",
    "TASK_SIGNAL": "task_struct.signal",
    "TASK_COMM": "task_struct.comm",
    "TASK_THREAD_NODE": "task_struct.thread_node",
    "SIGNAL_LIVE": "signal_struct.live",
    "SIGNAL_THREADS": "signal_struct.thread_head",
    "MM_PGD": "mm_struct.pgd",
    "MM_TREE": "mm_struct.mm_mt",
    "TREE_ROOT": "maple_tree.ma_root",
    "RANGE_SLOT": "maple_range_64.slot",
    "RANGE_PIVOT": "maple_range_64.pivot",
    "ARANGE_SLOT": "maple_arange_64.slot",
    "MM_USERS": "mm_struct.mm_users",
    "MM_MAP_COUNT": "mm_struct.map_count",
    "MM_TOTAL_VM": "mm_struct.total_vm",
    "MM_START_BRK": "mm_struct.start_brk",
    "MM_BRK": "mm_struct.brk",
    "MM_START_STACK": "mm_struct.start_stack",
    "REGS_ORIG_AX": "pt_regs.orig_ax",
    "REGS_DI": "pt_regs.di",
    "REGS_SI": "pt_regs.si",
    "REGS_DX": "pt_regs.dx",
    "REGS_R10": "pt_regs.r10",
    "REGS_R8": "pt_regs.r8",
    "REGS_R9": "pt_regs.r9",
    "REGS_IP": "pt_regs.ip",
    "VMA_START": "vm_area_struct.vm_start",
    "VMA_END": "vm_area_struct.vm_end",
    "VMA_MM": "vm_area_struct.vm_mm",
    "VMA_FLAGS": "vm_area_struct.vm_flags",
    "VMA_PGOFF": "vm_area_struct.vm_pgoff",
    "VMA_FILE": "vm_area_struct.vm_file",
    "VMA_OPS": "vm_area_struct.vm_ops",
    "VMA_ANON_VMA": "vm_area_struct.anon_vma",
    "VMA_PRIVATE": "vm_area_struct.vm_private_data",
    "FILE_INODE": "file.f_inode",
    "FILE_DENTRY": "file.f_path.dentry",
    "DENTRY_NAME": "dentry.d_name.hash_len",
    "DENTRY_HASHED": "dentry.d_hash.pprev",
    "INODE_SUPER": "inode.i_sb",
    "INODE_NUMBER": "inode.i_ino",
    "SUPER_MAGIC": "super_block.s_magic",
    "SUPER_BLOCK_SIZE": "super_block.s_blocksize",
    "SUPER_DEVICE": "super_block.s_dev",
}
NUMA = {  # CONFIG_NUMA
    "TASK_POLICY": "task_struct.mempolicy",
    "VMA_POLICY": "vm_area_struct.vm_policy",
    "OPS_GET_POLICY": "vm_operations_struct.get_policy",
    "POLICY_MODE": "mempolicy.mode",
    "POLICY_FLAGS": "mempolicy.flags",
    "POLICY_NODES": "mempolicy.nodes",
    "SHMEM_INODE": "shmem_inode_info.vfs_inode",
    "SHMEM_POLICY": "shmem_inode_info.policy",
    "SHARED_ROOT": "shared_policy.root",
    "ROOT_NODE": "rb_root.rb_node",
    "NODE_LEFT": "rb_node.rb_left",
    "NODE_RIGHT": "rb_node.rb_right",
    "SP_NODE": "sp_node.nd",
    "SP_START": "sp_node.start",
    "SP_END": "sp_node.end",
    "SP_POLICY": "sp_node.policy",
}
OPTIONAL = {
    "MM_LOCK_SEQ": "mm_struct.mm_lock_seq",  # CONFIG_PER_VMA_LOCK, 6.4
    "MM_LOCK_SEQCOUNT": "mm_struct.mm_lock_seq.sequence",  # odd while somebody writes; a plain number before
    "MM_LOCK_COUNT": "mm_struct.mmap_lock.count",  # not on PREEMPT_RT
    "MM_HUGETLB": "mm_struct.hugetlb_usage",  # CONFIG_HUGETLB_PAGE
    "MM_OWNER": "mm_struct.owner",  # CONFIG_MEMCG
    "TASK_STATUS": "task_struct.thread_info.status",
}
ANON_NAME = {  # CONFIG_ANON_VMA_NAME
    "VMA_ANON_NAME": "vm_area_struct.anon_name",
    "ANON_NAME_TEXT": "anon_vma_name.name",
}
SPLIT_RSS = {  # SPLIT_RSS_COUNTING, gone in 6.2
    "TASK_RSS": "task_struct.rss_stat.count",
    "MM_RSS": "mm_struct.rss_stat.count",
}
RSS_COUNTERS = {  # since 6.2
    "MM_RSS_COUNTERS": "mm_struct.rss_stat",
    "COUNTER_COUNT": "percpu_counter.count",
    "COUNTER_CPUS": "percpu_counter.counters",
    "ARRAY_PPTRS": "bpf_array.pptrs",
}

MOST_CPUS = 1024  # that the batches of a counter are added up of
NOWHERE_EXTRA = 2  # bins after the nodes: not counted, and two nodes in one block


def bins_of(topology: Topology) -> int:
    """How many bins a count has: a power of two that holds every node id and the two extra ones."""
    return max(8, 1 << (topology.nr_node_ids + NOWHERE_EXTRA - 1).bit_length())


def node_words(topology: Topology) -> int:
    """64-bit words of a node mask."""
    return (topology.nr_node_ids + 63) // 64


def _offsets(btf: Btf, wanted: dict[str, str]) -> dict[str, int]:
    found = {name: btf.offset(path) for name, path in wanted.items()}
    missing = [wanted[name] for name, offset in found.items() if offset is None]
    if missing:
        raise NumatraceError(
            f"this kernel has no {missing[0]}, which the page-table walk needs",
            "Linux 6.1 or later with CONFIG_NUMA is the floor; `--hooks none --reader numa_maps` works without",
        )
    return {name: offset for name, offset in found.items() if offset is not None}


def preemption(btf: Btf, functions: bool) -> dict[str, int]:
    """The kernel functions that programs need where they can be preempted, and nothing where they cannot, or where the
    kernel has no such functions. functions: there are programs on functions, which always can be.

    The type is that of the guard in tracepoints which took the place of preempt_disable() in 7.0
    (include/linux/tracepoint.h).
    """
    off, on = btf.function("bpf_preempt_disable"), btf.function("bpf_preempt_enable")
    if off is None or on is None or not (functions or btf.has_type("class_srcu_fast_notrace_t")):
        return {}
    return {"PREEMPT_DISABLE": off, "PREEMPT_ENABLE": on}


def _counters(btf: Btf) -> dict[str, int]:
    """What the counters of an mm that have a part on each CPU look like; nothing where they are otherwise."""
    found = {name: btf.offset(path) for name, path in RSS_COUNTERS.items()}
    found["COUNTER_SIZE"] = btf.size("percpu_counter")
    found["POSSIBLE_CPUS"] = cpus = possible_cpus()
    known = {name: number for name, number in found.items() if number is not None}
    return known if len(known) == len(found) and cpus <= MOST_CPUS else {}


def layout(btf: Btf, topology: Topology) -> dict[str, int]:
    """Constants by name. Raises NumatraceError naming the first required member that the kernel lacks."""
    constants = _offsets(btf, REQUIRED | NUMA)
    constants |= {name: offset for name, path in OPTIONAL.items() if (offset := btf.offset(path)) is not None}
    if btf.offset("task_struct.rss_stat.count") is not None:
        constants |= _offsets(btf, SPLIT_RSS)
    else:
        constants |= _counters(btf)
    if btf.offset("vm_area_struct.anon_name") is not None:
        constants |= _offsets(btf, ANON_NAME)
        # Before 6.2 it shares its place with the links of a file mapping.
        constants["ANON_NAME_APART"] = int(constants["VMA_ANON_NAME"] != btf.offset("vm_area_struct.shared"))
    kinds = {"MAPLE_LEAF": "maple_leaf_64", "MAPLE_RANGE": "maple_range_64", "MAPLE_ARANGE": "maple_arange_64"}
    for name, enumerator in kinds.items():
        constants[name] = btf.enumerator("maple_type", enumerator) or 0
    constants["REGS_SIZE"] = btf.size("pt_regs") or 168
    last = max(constants[name] for name in constants if name.startswith("VMA_"))
    constants["VMA_BYTES"] = last + 8
    bins = bins_of(topology)
    constants["BINS"] = bins
    # Six ten-bit fields fit a register: up to four node ids, NOWHERE and MIXED.
    constants["BIN_STEP"] = 10 if topology.nr_node_ids + NOWHERE_EXTRA <= 6 else 1
    constants["NODE_WORDS"] = node_words(topology)
    return constants
