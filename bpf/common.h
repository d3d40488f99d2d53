/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What every program needs: probe reads, constants, and the maps' flags.
 * The -D constants come from the running kernel's BTF and topology (tracer/kernel/layout.py):
 *   struct offsets  TASK_MM, MM_PGD, ...
 *   BINS            power of two: one bin per node id, then NOWHERE (not counted) and MIXED (two nodes in one block)
 *   BLOCK_SHIFT     log2 of the bytes of a block of the PFN-to-node table; BLOCKS its length, a power of two
 */
#pragma once

#define BPF_F_MMAPABLE 1024 /* uapi/linux/bpf.h: user space maps the array and reads it without a system call */

#define ENTRIES 512
#define PAGE_SHIFT 12
#define REGION_SHIFT 21

/* arch/x86/include/asm/pgtable_types.h */
#define ENTRY_PRESENT 0x001ULL
#define ENTRY_WRITE 0x002ULL
#define ENTRY_LEAF 0x080ULL     /* _PAGE_PSE */
#define ENTRY_PROT_NONE 0x100ULL
#define ENTRY_SPECIAL 0x200ULL  /* not a normal page: zero page, PFN map */
#define ENTRY_ADDRESS 0x000ffffffffff000ULL

static __always_inline u64 read_u64(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline u32 read_u32(u64 address)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

/*
 * What marks the number of a call as the BTF id of a kernel function (kfunc). Clang knows of calls to helpers only; the
 * instruction is set right by tracer/kernel/bpf.py.
 */
#define KFUNC 0x40000000

/* Stands for the descriptor of the map `anchor` in bpf_pseudo_fd(1, ...), which BCC knows for its own calls only. */
#define MAP_ANCHOR 0x40000001

/* Keeps clang from reasoning about a value, which leads it to loops that the verifier cannot bound. */
#define opaque(value) asm volatile("" : "+r"(value))
