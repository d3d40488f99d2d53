/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Migration. The events give an address and an entry but no mm, and they fire for every process; an event is a
 * target's when the target's own entry at that address is the one that the event shows. They fire under the page table
 * lock, after the entry was written, once for each place where a page is mapped.
 *
 * All targets are looked at, GROUP slots a program; a tail call goes on with those that match, or with the next group.
 *
 * FLOWS: the page is followed from the event that takes it away to the one that puts the new page in its place, by
 * target and address. Forked twins map the same page at the same address, so each one's event matches the other as
 * well: the pair is made twice and ended once, and so is counted once.
 */
#define NO_REASON (REASONS - 1)
#define MIGRATION_FIRST_BIT 9 /* of a swap entry's offset: SWP_OFFSET_FIRST_BIT, arch/x86/include/asm/pgtable_64.h */
#define MATCHES 4 /* targets dealt with by one program */

/* Slots of the program array; tracer/kernel/hooks.py fills them. */
#define SCAN_SET 0
#define SCAN_REMOVED 1
#define DEAL_SET 2
#define DEAL_REMOVED 3

struct place {
	u64 page; /* address */
	u64 target;
};

BPF_PROG_ARRAY(scan_again, 4);

#if FLOWS
/*
 * Physical address of the page that is being taken away. Few are under way at a time; one whose mapping is removed
 * meanwhile stays behind, and makes room when it is the oldest.
 */
BPF_TABLE("lru_hash", struct place, u64, leaving, 65536);
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

	leaving.update(&place, &page);
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

/*
 * Note which of a group's slots, a bit each, hold a target whose entry at the address is the given one. Straight into
 * the map, whose content the verifier does not follow: it would go on with each set of slots by itself.
 */
static __always_inline void match(const struct control *c, struct cpu *cpu, u32 group, u64 address, u64 entry)
{
	/*
	 * The same page, or the same migration entry to its last bit. Access and dirty bits of an entry that is present may
	 * be set by the CPU between the write and this read.
	 */
	u64 mask = entry & (ENTRY_PRESENT | ENTRY_PROT_NONE) ? c->paging.address : ~0ULL << MIGRATION_FIRST_BIT;

	for (u32 i = 0; i < GROUP; i++) {
		u32 slot = group * GROUP + i;
		struct target *target = targets.lookup(&slot);
		u64 found;

		if (!target || !target->mm)
			continue;
		found = leaf_entry(&c->paging, target->pgd, address);
		if (found && !((found ^ entry) & mask))
			cpu->scan_matches |= 1ULL << i;
	}
}

/* The number of the lowest bit that is set. */
static __always_inline u32 lowest(u64 bits)
{
	u32 at = 0, step;

	for (u32 width = 32; width; width >>= 1) {
		step = (((bits & ((1ULL << width) - 1)) - 1) >> 63) * width; /* none of the lower ones */
		opaque(step);
		bits >>= step;
		at += step;
	}
	return at & (GROUP - 1);
}

/*
 * The first group from the given one on that has a target, GROUPS when there is none. Without branches, so that the
 * verifier has one way to follow.
 */
static __always_inline u32 occupied(const struct control *c, u32 group)
{
	u64 first = group, found = GROUPS, take;

	for (u32 i = GROUPS; i-- > 0;) {
		take = ((0 - (u64)c->live[i]) >> 63) & ((first - i - 1) >> 63); /* live[i] != 0 and i >= first */
		opaque(take);
		take = 0 - take;
		found = (found & ~take) | (i & take);
	}
	return found;
}

static __always_inline void deal_with(const struct control *c, struct cpu *cpu, u32 number, u32 slot, u64 address,
				      u64 entry, bool removed)
{
	struct target *target = targets.lookup(&slot);
	u32 index;

	if (!target)
		return;
	touch(cpu, number, c->epoch, target->number, address >> REGION_SHIFT, &index);
#if FLOWS
	if (removed)
		arrive(c, cpu, number, target, address, entry);
	else
		leave_page(c, cpu, target, address, entry);
#endif
}

/* Go on with another program; `cpu` is left when there is none. */
static __always_inline int go_on(struct bpf_raw_tracepoint_args *ctx, struct cpu *cpu, u32 program)
{
	scan_again.call(ctx, program);
	cpu->dropped++; /* a chain of tail calls has an end: too many groups, or too many who map the page */
	leave(cpu);
	return 0;
}

static __always_inline int scan(struct bpf_raw_tracepoint_args *ctx, u32 deal)
{
	struct control *c = get_control();
	u32 number, group;
	struct cpu *cpu;

	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	group = occupied(c, cpu->scan_next);
	if (group >= GROUPS) {
		leave(cpu);
		return 0;
	}
	cpu->scan_group = group;
	cpu->scan_next = group + 1;
	match(c, cpu, group, ctx->args[0], ctx->args[1]);
	return go_on(ctx, cpu, deal);
}

static __always_inline int deal(struct bpf_raw_tracepoint_args *ctx, bool removed)
{
	struct control *c = get_control();
	struct cpu *cpu;
	u64 matches;
	u32 number;

	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	for (u32 i = 0; i < MATCHES; i++) {
		matches = cpu->scan_matches;
		if (!matches)
			break;
		deal_with(c, cpu, number, cpu->scan_group * GROUP + lowest(matches), ctx->args[0], ctx->args[1], removed);
		cpu->scan_matches = matches & (matches - 1);
	}
	if (cpu->scan_matches)
		return go_on(ctx, cpu, removed ? DEAL_REMOVED : DEAL_SET);
	return go_on(ctx, cpu, removed ? SCAN_REMOVED : SCAN_SET);
}

int scan_set(struct bpf_raw_tracepoint_args *ctx)
{
	return scan(ctx, DEAL_SET);
}

int scan_removed(struct bpf_raw_tracepoint_args *ctx)
{
	return scan(ctx, DEAL_REMOVED);
}

int deal_set(struct bpf_raw_tracepoint_args *ctx)
{
	return deal(ctx, false);
}

int deal_removed(struct bpf_raw_tracepoint_args *ctx)
{
	return deal(ctx, true);
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
	cpu->scan_matches = 0;
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
