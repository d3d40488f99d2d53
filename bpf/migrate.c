/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Migration. The events give an address and an entry but no mm, and they fire for every process; an event is a
 * target's when the target's own entry at that address is the one that the event shows. They fire under the page table
 * lock, after the entry was written.
 */
static __always_inline int migrated(struct bpf_raw_tracepoint_args *ctx)
{
	u64 address = ctx->args[0];
	struct control *c = get_control();
	struct cpu *cpu;
	u32 number, index;

	if (!c || !c->active)
		return 0;
	cpu = this_cpu(&number);
	if (!cpu || !enter(cpu))
		return 0;
	for (u32 i = 0; i < ACTIVE; i++) {
		u32 slot;
		struct target *target;
		struct leaf leaf;

		if (i >= c->active)
			break;
		slot = c->slots[i];
		target = targets.lookup(&slot);
		if (!target || !target->mm)
			continue;
		leaf = walk_to_leaf(&c->paging, target->pgd, address);
		/* Access and dirty bits may be set by the CPU between the write and this read. */
		if (!leaf.entry || (leaf.entry ^ ctx->args[1]) & c->paging.address)
			continue;
		touch(cpu, number, c->epoch, target->number, address >> REGION_SHIFT, &index);
	}
	leave(cpu);
	return 0;
}

int migration_set(struct bpf_raw_tracepoint_args *ctx)
{
	return migrated(ctx);
}

int migration_removed(struct bpf_raw_tracepoint_args *ctx)
{
	return migrated(ctx);
}
