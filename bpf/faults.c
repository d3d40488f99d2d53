/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Page faults. The tracepoint fires before the fault is handled, so each one is kept as pending on its CPU and looked
 * up at the next fault there: the entry that it left behind tells the node, and so the counters are live with nothing
 * but this tracepoint. A fault that is still unfinished when another one overtakes it on its CPU (it sleeps on a disk
 * or on userfaultfd) moves to the map `blocked`, keyed by thread, until user space has seen it finished.
 */
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define FAULT_WRITE 2 /* X86_PF_WRITE, arch/x86/include/asm/trap_pf.h */

/*
 * The leaf entry at an address. One fault's neighbour is usually close, so the region's page table is remembered for an
 * epoch. Should it be freed meanwhile (the region collapses into a huge page, or is unmapped), an entry is misjudged:
 * the count of a fault may be wrong then, what is mapped is read at the refresh all the same.
 */
static __always_inline u64 fault_entry(const struct control *c, struct cpu *cpu, u64 pgd, u64 address)
{
	u64 region = address >> REGION_SHIFT, entry, upper;

	if (cpu->table_region == region && cpu->table_pgd == pgd && cpu->table_epoch == c->epoch + 1)
		return entry_at(cpu->table, address, PAGE_SHIFT);
	cpu->table_epoch = 0;
	if (!cpu->middle_entry || cpu->table_region >> 9 != region >> 9 || cpu->table_pgd != pgd ||
	    cpu->middle_epoch != c->epoch + 1) {
		cpu->middle_entry = 0;
		upper = pud_table(&c->paging, pgd, address);
		if (!upper)
			return 0;
		entry = entry_at(upper, address, 30);
		if (is_leaf(entry) || !(entry & ENTRY_PRESENT))
			return entry;
		cpu->middle_entry = table_at(&c->paging, entry);
		cpu->middle_epoch = c->epoch + 1;
	}
	cpu->table_region = region;
	cpu->table_pgd = pgd;
	entry = entry_at(cpu->middle_entry, address, REGION_SHIFT);
	if (is_leaf(entry) || !(entry & ENTRY_PRESENT))
		return entry;
	cpu->table = table_at(&c->paging, entry);
	cpu->table_epoch = c->epoch + 1;
	return entry_at(cpu->table, address, PAGE_SHIFT);
}

/* The access that faulted would succeed now. */
static __always_inline bool satisfied(u64 entry, u32 write)
{
	return (entry & ENTRY_PRESENT) && (!write || (entry & ENTRY_WRITE));
}

static __always_inline void resolve(struct control *c, struct cpu *cpu, u32 number, u64 next_task)
{
	u32 zero = 0, epoch = c->epoch, index = cpu->pending_record, target = cpu->pending_target;
	u64 entry = fault_entry(c, cpu, cpu->pending_pgd, cpu->pending_address);
	struct node_table *nodes = node_table.lookup(&zero);
	struct record *record;

	if (cpu->pending_epoch == epoch + 1)
		record = records.lookup(&index);
	else
		record = touch(cpu, number, epoch, target, cpu->pending_address >> REGION_SHIFT, &index);
	if (!record || !nodes)
		return;
	if (satisfied(entry, cpu->pending_write)) {
		if (maps_page(entry))
			record->faults[(nodes->bin[block_of(entry)] / BIN_STEP) & (BINS - 1)]++;
		return;
	}
	record->unresolved++;
	if (cpu->pending_task != next_task) {
		struct overtaken it = {
			.address = cpu->pending_address,
			.target = target,
			.write = cpu->pending_write,
			.sequence = cpu->sequence,
			.cpu = number,
		};
		u32 tid = read_u32(cpu->pending_task + TASK_PID);

		if (blocked.update(&tid, &it))
			cpu->dropped++;
		c->blocked++;
	}
}

/*
 * The mm of the present task. A task keeps it until it executes another program, and a new task may take the place of
 * one that is gone: both change the generation (life.c). Between such changes one look serves a run of faults. Tasks without an mm (kernel threads that borrow one) are asked each time.
 */
static __always_inline u64 mm_of_task(const struct control *c, struct cpu *cpu, u64 task)
{
	u64 mm;

	if (cpu->last_task == task && cpu->generation == c->generation)
		return cpu->last_mm;
	mm = read_u64(task + TASK_MM);
	cpu->last_task = mm && !(read_u32(task + TASK_FLAGS) & PF_KTHREAD) ? task : 0;
	cpu->last_mm = mm;
	cpu->generation = c->generation;
	return mm;
}

static __always_inline int on_fault(struct bpf_raw_tracepoint_args *ctx, bool user)
{
	u64 task = bpf_get_current_task(), address = ctx->args[0], region = address >> REGION_SHIFT;
	struct control *c = get_control();
	struct target *target;
	struct record *record;
	struct cpu *cpu;
	u32 number, index;

	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	target = target_of(mm_of_task(c, cpu, task));
	if (!target || !enter(cpu))
		return 0;
	if (cpu->pending_open)
		resolve(c, cpu, number, task);
	cpu->pending_open = 0;
	if (address >> 56 == 0) { /* not one of the kernel's own addresses */
		index = cpu->pending_record;
		if (cpu->pending_epoch == c->epoch + 1 && cpu->pending_target == target->number &&
		    cpu->pending_address >> REGION_SHIFT == region)
			record = records.lookup(&index);
		else
			record = touch(cpu, number, c->epoch, target->number, region, &index);
		if (record)
			record->touches++;
		cpu->faults++;
		cpu->sequence++;
		cpu->pending_address = address;
		cpu->pending_pgd = target->pgd;
		cpu->pending_task = task;
		cpu->pending_frame = ctx->args[1];
		cpu->pending_ip = user ? 0 : read_u64(ctx->args[1] + REGS_IP);
		cpu->pending_write = ctx->args[2] & FAULT_WRITE;
		cpu->pending_target = target->number;
		cpu->pending_record = record ? index : 0;
		cpu->pending_epoch = record ? c->epoch + 1 : 0;
		cpu->pending_open = 1;
	}
	leave(cpu);
	return 0;
}

int fault_user(struct bpf_raw_tracepoint_args *ctx)
{
	return on_fault(ctx, true);
}

int fault_kernel(struct bpf_raw_tracepoint_args *ctx)
{
	return on_fault(ctx, false);
}
