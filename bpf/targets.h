/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which address spaces are traced, and which processes hand that on to their children and to the programs they execute.
 *
 * Every fault and every RSS change on the machine passes here, so the first test is one look-up in a small table of
 * counters; a hash then tells the target's slot. By mm and not by process, since threads, vfork children and kernel
 * threads that borrow the mm change it all the same. Forks, execs and exits change the tables from any CPU; user space
 * goes through the same routines (`admit_target`, `expel_target` in life.c), so counters are only ever added to
 * atomically.
 */
#pragma once

#define TARGETS 4096 /* slots: address spaces traced at once */
#define GROUP 64     /* slots that share a counter of those in use */
#define GROUPS (TARGETS / GROUP)
#define FILTER 4096  /* counters; a power of two */
#define NO_SLOT 0xffffffff
#define REASONS 16   /* include/linux/migrate_mode.h has fewer; the last one stands for none */

struct target {
	u64 mm;  /* 0: free */
	u64 pgd;
	u32 tgid;
	u32 number; /* the session's name for this address space; number % TARGETS is the slot, and the rest how often that
		       was used, so that no name comes again within a million uses */
	u64 uses;
	u64 unexplained; /* changes that nobody located */
#if CALLS
	u64 policy_calls; /* system calls that have set policies */
#endif
};

struct control {
	struct paging paging;
	u64 registers; /* offset of the user's struct pt_regs in a kernel stack */
	u32 epoch;     /* even or odd chooses the log that is written to */
	u32 blocked;   /* counts additions to the map of that name (log.h); a lost count costs one late look */
	u32 generation;  /* changes with the tables: what a CPU remembers of a task is then void */
	u32 untraced;    /* address spaces that found no slot, processes that found no place in `followed` */
	u32 alive;       /* slots in use, for the events that do not name an mm */
	u32 pad;
	u32 live[GROUPS]; /* the same for each group of slots */
	u64 migrated[REASONS]; /* pages, of the whole machine */
	u64 failed[REASONS];
#if CALLS
	u64 calls_seen; /* system calls that set policies, of whatever process; a lost count does not matter */
#endif
};

struct filter {
	u32 count[FILTER];
};

/* A request of user space to `admit_target` and its kin. */
struct admission {
	u64 mm;
	u32 tgid;
	u32 number; /* out: 0 when there was no room */
};

BPF_F_TABLE("array", u32, struct target, targets, TARGETS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct control, control, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct admission, admission, 1, BPF_F_MMAPABLE);
BPF_ARRAY(filter, struct filter, 1);
BPF_HASH(slots, u64, u32, TARGETS);
BPF_STACK(free_slots, u32, TARGETS);
BPF_HASH(followed, u32, u32, 16384); /* by tgid: FOLLOW_ flags */

#define FOLLOW_FORKS 2 /* its children, too; otherwise only the programs that it executes */

static __always_inline struct control *get_control(void)
{
	u32 zero = 0;

	return control.lookup(&zero);
}

static __always_inline u32 *filter_of(u64 mm)
{
	u32 zero = 0;
	struct filter *f = filter.lookup(&zero);

	return f ? &f->count[(mm >> 6 ^ mm >> 14 ^ mm >> 22) & (FILTER - 1)] : NULL;
}

static __always_inline u32 slot_of(u64 mm)
{
	u32 *counted = filter_of(mm), *slot;

	if (!mm || !counted || !*counted)
		return NO_SLOT;
	slot = slots.lookup(&mm);
	return slot ? *slot : NO_SLOT;
}

static __always_inline struct target *target_at(u32 slot, u64 mm)
{
	struct target *target = targets.lookup(&slot);

	return target && target->mm == mm && mm ? target : NULL;
}

static __always_inline struct target *target_of(u64 mm)
{
	u32 slot = slot_of(mm);

	return slot == NO_SLOT ? NULL : target_at(slot, mm);
}

/* Trace an address space; gives its number, also when it is traced already, or 0 when there is no room. */
static __always_inline u32 admit(struct control *c, u64 mm, u32 tgid)
{
	u32 slot, *have = slots.lookup(&mm), *counted = filter_of(mm);
	struct target *target;

	if (have) {
		slot = *have;
		target = targets.lookup(&slot);
		return target ? target->number : 0;
	}
	if (!counted || free_slots.pop(&slot)) {
		__sync_fetch_and_add(&c->untraced, 1);
		return 0;
	}
	target = targets.lookup(&slot);
	if (!target)
		return 0;
	target->uses++;
	target->uses += !(target->uses & (~0U / TARGETS)); /* no number is 0 */
	target->pgd = read_u64(mm + MM_PGD);
	target->tgid = tgid;
	target->unexplained = 0;
#if CALLS
	target->policy_calls = 0;
#endif
	target->number = target->uses * TARGETS + slot;
	target->mm = mm;
	if (slots.insert(&mm, &slot)) { /* user space and a fork may try at the same time */
		target->mm = 0;
		target->number = 0;
		free_slots.push(&slot, 0);
		target = target_of(mm);
		return target ? target->number : 0;
	}
	__sync_fetch_and_add(&c->live[slot / GROUP & (GROUPS - 1)], 1);
	__sync_fetch_and_add(&c->alive, 1);
	__sync_fetch_and_add(counted, 1);
	__sync_fetch_and_add(&c->generation, 1);
	return target->number;
}

/* Stop tracing an address space; gives the number that it had, or 0. Of several that try, one succeeds. */
static __always_inline u32 expel(struct control *c, u64 mm)
{
	u32 slot = slot_of(mm), number, *counted = filter_of(mm);
	struct target *target;

	if (slot == NO_SLOT || !counted)
		return 0;
	target = target_at(slot, mm);
	if (!target)
		return 0;
	number = target->number;
	if (slots.delete(&mm))
		return 0;
	target->mm = 0;
	target->number = 0;
	__sync_fetch_and_add(&c->live[slot / GROUP & (GROUPS - 1)], -1);
	__sync_fetch_and_add(&c->alive, -1);
	__sync_fetch_and_add(counted, -1);
	__sync_fetch_and_add(&c->generation, 1);
	free_slots.push(&slot, 0);
	return number;
}
