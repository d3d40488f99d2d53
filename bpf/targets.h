/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which address spaces are traced. Every fault and every RSS change on the machine passes here, so the test is one
 * look-up in a small direct-mapped table: by mm and not by process, since threads, vfork children and kernel threads
 * that borrow the mm change it all the same.
 */
#pragma once

#define TARGETS 256 /* slots; a power of two */
#define ACTIVE 8    /* address spaces traced at once */

struct target {
	u64 mm;  /* 0: free */
	u64 pgd;
	u32 tgid;
	u32 number; /* the session's name for this address space, never used twice */
};

struct control {
	struct paging paging;
	u64 registers; /* offset of the user's struct pt_regs in a kernel stack */
	u32 epoch;     /* even or odd chooses the log that is written to */
	u32 blocked;   /* counts additions to the map of that name (log.h); a lost count costs one late look */
	u32 next_number; /* number for an address space that an exec makes */
	u32 generation;  /* changes with the table of targets: what a CPU remembers of a task is then void */
	u32 pad;
	u32 active;      /* how many of the following are in use */
	u32 slots[ACTIVE]; /* slots in use, for the events that do not name an mm */
};

BPF_F_TABLE("array", u32, struct target, targets, TARGETS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct control, control, 1, BPF_F_MMAPABLE);

static __always_inline u32 target_slot(u64 mm)
{
	return (mm >> 6 ^ mm >> 14 ^ mm >> 22) & (TARGETS - 1);
}

static __always_inline struct target *target_of(u64 mm)
{
	u32 slot = target_slot(mm);
	struct target *target = targets.lookup(&slot);

	return target && target->mm == mm && mm ? target : NULL;
}

static __always_inline struct control *get_control(void)
{
	u32 zero = 0;

	return control.lookup(&zero);
}
