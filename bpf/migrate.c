/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Migration. The events give an address and an entry but no mm, and they fire for every process; an event is a
 * target's when the target's own entry at that address is the one that the event shows. They fire under the page table
 * lock, after the entry was written, once for each place where a page is mapped.
 *
 * All targets are looked at, GROUP slots a program: the first one found is dealt with, and a tail call goes on behind it.
 *
 * FLOWS: the page is followed from the event that takes it away to the one that puts the new page in its place, by
 * target and address. Forked twins map the same page at the same address, so each one's event matches the other as
 * well: the pair is made twice and ended once, and so is counted once.
 */
#define NO_REASON (REASONS - 1)
#define SCAN_SET 1
#define SCAN_REMOVED 2

struct place {
	u64 page; /* address */
	u64 target;
};

BPF_PROG_ARRAY(scan_again, 4);

#if FLOWS
BPF_HASH(leaving, struct place, u64, 65536); /* physical address of the page that is being taken away */
BPF_HASH(migrating, u32, u32, 16384);        /* by thread: why it migrates pages */

/*
 * A migration entry: the offset field of a swap entry, stored inverted, holds the page frame number in its low bits,
 * with flags above it (arch/x86/include/asm/pgtable_64.h, include/linux/swapops.h).
 */
static __always_inline u64 leaving_page(const struct control *c, u64 entry)
{
	u64 offset = (~entry << 5) >> 14;

	return (offset & ((1ULL << (c->paging.five ? 40 : 34)) - 1)) << PAGE_SHIFT;
}

static __always_inline u32 bin_at(u64 physical)
{
	u32 zero = 0;
	struct node_table *nodes = node_table.lookup(&zero);

	return nodes ? nodes->bin[physical >> BLOCK_SHIFT & (BLOCKS - 1)] / BIN_STEP & (BINS - 1) : NOWHERE;
}

static __always_inline void leave_page(const struct control *c, struct cpu *cpu, const struct target *target,
				       u64 address, u64 entry)
{
	struct place place = {.page = address, .target = target->number};
	u64 page = leaving_page(c, entry);

	if (leaving.update(&place, &page))
		cpu->dropped++;
}

static __always_inline void arrive(const struct control *c, struct cpu *cpu, u32 number, const struct target *target,
				   u64 address, u64 entry)
{
	struct place place = {.page = address, .target = target->number};
	u64 *left = leaving.lookup(&place), old, now = upright(entry) & c->paging.address;
	u32 tid = (u32)bpf_get_current_pid_tgid(), *known, reason = NO_REASON, index;
	struct record *record;
	u64 value;

	if (!left)
		return;
	old = *left;
	if (leaving.delete(&place))
		return;
	if (is_leaf(entry))
		now &= ~((1ULL << REGION_SHIFT) - 1);
	known = migrating.lookup(&tid);
	if (known)
		reason = *known;
	value = bin_at(old) | (u64)bin_at(now) << 16 | (u64)reason << 32;
	record = tally(cpu, number, c->epoch, target->number, RECORD_FLOW, span_of(cpu, target->mm, address), value,
		       &index);
	if (!record)
		return;
	if (old == now)
		record->unresolved += cpu->scan_pages;
	else
		record->touches += cpu->scan_pages;
}
#endif

/* The slot of the next target whose entry at the address is the given one, TARGETS when there is none in this group. */
static __always_inline u32 matching_slot(const struct control *c, u32 first, u64 address, u64 entry)
{
	for (u32 i = 0; i < GROUP; i++) {
		u32 slot = (first & ~(GROUP - 1)) + i, passed;
		struct target *target;
		u64 found;

		passed = (slot - first) >> 31;
		opaque(passed);
		if (passed)
			continue;
		target = targets.lookup(&slot);
		if (!target || !target->mm)
			continue;
		found = leaf_entry(&c->paging, target->pgd, address);
		/* Access and dirty bits may be set by the CPU between the write and this read. */
		if (found && !((found ^ entry) & c->paging.address))
			return slot;
	}
	return TARGETS;
}

/*
 * The first slot from the given one on that may be in use: that one, or the first of a group. Without branches, so that
 * the verifier has one way to follow.
 */
static __always_inline u32 occupied(const struct control *c, u32 slot)
{
	u64 own = slot / GROUP, found = TARGETS, take;

	for (u32 i = GROUPS; i-- > 0;) {
		take = ((0 - (u64)c->live[i]) >> 63) & ((own - i - 1) >> 63); /* live[i] != 0 and i >= own */
		opaque(take);
		take = 0 - take;
		found = (found & ~take) | (i * GROUP & take);
	}
	return found < slot ? slot : found;
}

static __always_inline int scan(struct bpf_raw_tracepoint_args *ctx, bool removed)
{
	u64 address = ctx->args[0], entry = ctx->args[1];
	struct control *c = get_control();
	u32 number, index, slot;
	struct target *target;
	struct cpu *cpu;

	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	slot = occupied(c, cpu->scan_next);
	if (slot >= TARGETS) {
		leave(cpu);
		return 0;
	}
	/* Without these two the verifier follows each group, and each slot of it, by itself. */
	opaque(slot);
	cpu->scan_next = (slot & ~(GROUP - 1)) + GROUP;
	slot = matching_slot(c, slot, address, entry);
	opaque(slot);
	target = targets.lookup(&slot);
	if (target) {
		cpu->scan_next = slot + 1;
		touch(cpu, number, c->epoch, target->number, address >> REGION_SHIFT, &index);
#if FLOWS
		if (removed)
			arrive(c, cpu, number, target, address, entry);
		else
			leave_page(c, cpu, target, address, entry);
#endif
	}
	scan_again.call(ctx, removed ? SCAN_REMOVED : SCAN_SET);
	cpu->dropped++; /* a chain of tail calls has an end: too many targets */
	leave(cpu);
	return 0;
}

int scan_set(struct bpf_raw_tracepoint_args *ctx)
{
	return scan(ctx, false);
}

int scan_removed(struct bpf_raw_tracepoint_args *ctx)
{
	return scan(ctx, true);
}

static __always_inline int migrated(struct bpf_raw_tracepoint_args *ctx, u32 program, u32 pages)
{
	struct control *c = get_control();
	struct cpu *cpu;
	u32 number;

	cpu = this_cpu(&number);
	if (!c || !cpu || !c->alive || !enter(cpu))
		return 0;
	cpu->scan_next = 0;
	cpu->scan_pages = pages;
	scan_again.call(ctx, program);
	leave(cpu);
	return 0;
}

/* migrate:set_migration_pte(address, entry, order), remove_migration_pte: one page, or one hugetlb page. */
int migration_set(struct bpf_raw_tracepoint_args *ctx)
{
	return migrated(ctx, SCAN_SET, 1);
}

int migration_removed(struct bpf_raw_tracepoint_args *ctx)
{
	return migrated(ctx, SCAN_REMOVED, 1);
}

/* thp:set_migration_pmd(address, entry), remove_migration_pmd: a transparent huge page. */
int migration_set_huge(struct bpf_raw_tracepoint_args *ctx)
{
	return migrated(ctx, SCAN_SET, ENTRIES);
}

int migration_removed_huge(struct bpf_raw_tracepoint_args *ctx)
{
	return migrated(ctx, SCAN_REMOVED, ENTRIES);
}

#if FLOWS
/* migrate:mm_migrate_pages_start(mode, reason): a task migrates for one reason at a time. */
int migration_begins(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid(), reason = ctx->args[1] & (REASONS - 1);

	migrating.update(&tid, &reason);
	return 0;
}

/* migrate:mm_migrate_pages(succeeded, failed, ..., mode, reason): in pages, also those of huge ones. */
int migration_ends(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid(), reason = ctx->args[REASON_ARGUMENT] & (REASONS - 1);
	struct control *c = get_control();

	migrating.delete(&tid);
	if (!c)
		return 0;
	__sync_fetch_and_add(&c->migrated[reason], ctx->args[0]);
	__sync_fetch_and_add(&c->failed[reason], ctx->args[1]);
	return 0;
}
#endif
