/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What happened in an epoch: per CPU a log of records, one per region that was touched (with the faults seen there, by the
 * node of the page that each left behind) and one per range or life event. A small direct-mapped table finds a region's
 * record again, so a region that faults a thousand times takes one record; two regions that share a slot take turns and
 * more records, which the reader adds up. Two logs per CPU take turns by epoch. A full log drops the record and counts
 * it.
 *
 * Variants: FAULTS=1 tells faults apart by span, kind and CPU, FAULTS=2 by thread as well; FLOWS=1 follows each page
 * that migrates; POLICIES=1 notes which pages were placed by which thread under which policies. Then a region has a
 * record for each of these, told apart by `value`. POLICIES follows faults as FAULTS does, without counting them. CALLS=1
 * notes the system calls that set policies.
 *
 * Everything is per CPU and written without atomics. One program can interrupt another on its CPU: a fault in an
 * interrupt (a profiler that reads user stacks). It finds the CPU busy, counts itself as missed and leaves.
 *
 * Another task's programs must not come in between, or all that it does until the first task goes on would be missed.
 * Until 7.0 tracepoints see to that. Now the programs do it, by hold(); those of faults need not, whose tracepoints fire
 * with interrupts off (arch/x86/mm/fault.c), nor those of migrations, which fire under the page table lock. (With
 * PREEMPT_RT that lock leaves preemption on.)
 */
#pragma once

enum record_kind {
	RECORD_REGION = 1, /* key: region number << 9; faults per bin */
	RECORD_RANGE = 2,  /* key: first address, value: end */
	RECORD_EXEC = 3,   /* key: new mm, value: tgid; target: the new number; its name in place of faults */
	RECORD_EXIT = 4,   /* key: mm */
	RECORD_FORK = 5,   /* as RECORD_EXEC */
	RECORD_FAULTS = 6, /* key: page number where the span begins; value: kind, CPU << 8, thread << 32; faults per bin */
	RECORD_FLOW = 7,   /* key: as above; value: source bin, destination bin << 16, reason << 32; touches: pages moved,
			      unresolved: pages put back */
	RECORD_PLACED = 8, /* key: as above; value: kind, policies (POLICY_ below), thread << 32; bit n of `faults`: page n of
			      the region */
	RECORD_CALL = 9,   /* key, value: range of addresses, 0 without one; struct called in place of faults */
};

/* How many calls had set policies of the target, and a hash of the thread's own policy, before a fault was handled. */
#define POLICY_SEQUENCE 4 /* 12 bits from here on */
#define POLICY_HASH 16
#define PLACED_BITS 512 /* pages of a region: BINS is 16 or more */

#define MASK_WORDS 4

/* A system call that sets policies (calls.c): 64 bytes, as many as a bitmap. */
struct called {
	u64 time; /* CLOCK_MONOTONIC, ns */
	u32 thread;
	u32 call;
	u32 sequence; /* how many have succeeded, with this one; RECORD_PLACED has 12 bits of it */
	u32 mode;     /* with mode flags */
	u32 flags;    /* of mbind */
	s32 result;
	u64 nodes[MASK_WORDS];
};

/* Faults are followed until it is known what they left. */
#define FOLLOWED (FAULTS || POLICIES)

struct record {
	u64 key;
	u64 value;
	u32 kind;
	u32 target;
	u32 touches;
	u32 unresolved;
	u32 faults[BINS]; /* by the node of the page that they left behind */
};

struct remembered {
	u64 key;
	u64 value;
	u32 kind;
	u32 target;
	u32 epoch; /* epoch of the record plus 1, so that zeroed memory matches nothing */
	u32 record;
};

/* A fault that is over, under the CPU where it began. */
struct finished {
	u64 mm;
	u64 address;
	u64 before; /* the entry, before and after */
	u64 after;
	u32 target; /* 0: none, or counted already */
	u32 cpu;
	u32 thread;
	u32 major;
	u32 policy; /* as in RECORD_PLACED's value */
	u32 kind;
	u64 key; /* of its records */
};

#define PENDING 0
#define OVERTAKEN 1

struct cpu {
	/* the last fault of a target on this CPU, whose outcome is not known yet */
	u64 pending_address;
	u64 pending_pgd;
	u64 pending_task;
	u64 pending_frame; /* address of its struct pt_regs */
	u64 pending_ip;    /* a fault in the kernel: instruction pointer in that frame, 0 for one in user mode */
	u64 pending_ended; /* how many the task had come to the end of, before */
	u32 pending_write;
	u32 pending_open; /* 1: not seen to be mapped */
	u32 pending_target;
	u32 pending_record;
	u32 pending_epoch; /* plus 1, as in struct remembered */
	u32 pending_majors; /* of the task, before */
	u64 pending_before; /* the entry, before */
	u64 pending_mm;
	u32 pending_tid;
	u32 pending_policy; /* as in RECORD_PLACED's value */
	/* the page table of the region last looked up, and where its PMD entry is */
	u64 table;
	u64 table_region;
	u64 table_pgd;
	u64 middle_entry;
	u32 table_epoch;  /* plus 1: both are looked up again in each epoch */
	u32 middle_epoch;
	/* the range last noted */
	u64 range_start;
	u64 range_end;
	u32 range_epoch; /* plus 1 */
	u32 range_target;
	u32 sequence; /* counts faults */
	u32 busy;
	u32 missed;  /* events that found the CPU busy */
	u32 dropped; /* records that found the log full, threads that found `blocked` full */
	u32 used[2]; /* records in each log */
	u64 faults;
	u64 unexplained; /* changes that nobody located, of any target */
	u64 doubt_call;  /* of the last one: system call number, -1: none, and thread */
	u64 doubt_tid;
	/* a look at all targets, which goes on from program to program (migrate.c) */
	u32 scan_next; /* group */
	u32 scan_group;
	u32 scan_pages;
	u32 pad3;
	u64 scan_matches; /* slots of scan_group that are still to be dealt with, a bit each */
	/* the VMA last looked up (maple.h) */
	u64 vma;
	u64 vma_list;
	/* from here on not a target's alone, so not part of what tells whether anything happened (Hooks.token) */
	u64 last_task;   /* whose fault came last, of whatever process */
	u64 last_mm;     /* its mm */
	u32 last_slot;   /* of the target that this is, or NO_SLOT */
	u32 generation;  /* of these three */
#if FOLLOWED
	struct finished finished[2]; /* found so just now: the one that was pending here, one that was overtaken */
#endif
	u64 pad[3];      /* CPUs do not share cache lines */
};

struct overtaken {
	u64 address;
	u64 mm;
	u64 pgd;
	u64 before;
	u32 target;
	u32 write;
	u32 sequence;
	u32 cpu;
	u32 majors;
	u32 kernel; /* a fault in the kernel */
	u64 task;
	u64 ended;
	u32 policy; /* as in RECORD_PLACED's value */
	u32 pad;
};

BPF_F_TABLE("array", u32, struct cpu, cpus, CPUS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct record, records, CPUS * 2 * LOG, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct remembered, remembered, CPUS * MEMORY, BPF_F_MMAPABLE);
BPF_HASH(blocked, u32, struct overtaken, 16384);

static __always_inline struct cpu *this_cpu(u32 *number)
{
	*number = bpf_get_smp_processor_id();
	return cpus.lookup(number);
}

#ifdef PREEMPT_DISABLE
static void (*preempt_disable)(void) = (void *)(u64)(KFUNC | PREEMPT_DISABLE);
static void (*preempt_enable)(void) = (void *)(u64)(KFUNC | PREEMPT_ENABLE);
#endif

/* No other task on this CPU until release(). Within one program: the verifier allows no tail call in between. */
static __always_inline void hold(void)
{
#ifdef PREEMPT_DISABLE
	preempt_disable();
#endif
}

static __always_inline void release(void)
{
#ifdef PREEMPT_DISABLE
	preempt_enable();
#endif
}

static __always_inline bool enter(struct cpu *cpu)
{
	if (cpu->busy) {
		cpu->missed++;
		return false;
	}
	cpu->busy = 1;
	return true;
}

static __always_inline void leave(struct cpu *cpu)
{
	cpu->busy = 0;
}

static __always_inline struct record *append(struct cpu *cpu, u32 number, u32 epoch, u32 *index)
{
	u32 used = cpu->used[epoch & 1];
	struct record *record;

	if (used >= LOG) {
		cpu->dropped++;
		return NULL;
	}
	*index = (number * 2 + (epoch & 1)) * LOG + used;
	record = records.lookup(index);
	if (record) {
		__builtin_memset(record, 0, sizeof(*record));
		cpu->used[epoch & 1] = used + 1;
	}
	return record;
}

static __always_inline struct record *note(struct cpu *cpu, u32 number, u32 epoch, u32 kind, u32 target, u64 key, u64 value)
{
	u32 index;
	struct record *record = append(cpu, number, epoch, &index);

	if (!record)
		return NULL;
	record->kind = kind;
	record->target = target;
	record->key = key;
	record->value = value;
	return record;
}

static __always_inline bool is_of(const struct remembered *seen, u32 epoch, u32 target, u32 kind, u64 key, u64 value)
{
	return seen->key == key && seen->epoch == epoch + 1 && seen->target == target && seen->value == value &&
	       seen->kind == kind;
}

/*
 * The record of this kind, key and value in this epoch, made if there is none yet. It is remembered in one of two places:
 * with one, two records that share it and are wanted in turn, page by page, would fill the log.
 */
static __always_inline struct record *tally(struct cpu *cpu, u32 number, u32 epoch, u32 target, u32 kind, u64 key,
					    u64 value, u32 *index)
{
	/* With the target: processes of a family touch the same regions in turn. */
	u64 hash = ((key >> 9 ^ key << 32 ^ value << 16 ^ (u64)target << 24 ^ kind) * 0x9E3779B97F4A7C15ULL) >> 40;
	u32 slot = number * MEMORY + (hash & (MEMORY - 1)), other = slot ^ 1;
	struct remembered *seen = remembered.lookup(&slot), *second;
	struct record *record;

	if (!seen)
		return NULL;
	if (is_of(seen, epoch, target, kind, key, value)) {
		*index = seen->record;
		return records.lookup(index);
	}
	second = remembered.lookup(&other);
	if (!second)
		return NULL;
	if (is_of(second, epoch, target, kind, key, value)) {
		*index = second->record;
		return records.lookup(index);
	}
	record = append(cpu, number, epoch, index);
	if (!record)
		return NULL;
	record->key = key;
	record->value = value;
	record->kind = kind;
	record->target = target;
	if (seen->epoch == epoch + 1 && (second->epoch != epoch + 1 || second->record < seen->record))
		seen = second; /* the older one makes room */
	seen->key = key;
	seen->value = value;
	seen->kind = kind;
	seen->target = target;
	seen->epoch = epoch + 1;
	seen->record = *index;
	return record;
}

/* The record that says that a region was touched. */
static __always_inline struct record *touch(struct cpu *cpu, u32 number, u32 epoch, u32 target, u64 region, u32 *index)
{
	return tally(cpu, number, epoch, target, RECORD_REGION, region << 9, 0, index);
}
