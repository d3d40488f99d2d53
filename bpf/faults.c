/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Page faults. The tracepoint fires before the fault is handled, so each one is kept as pending on its CPU and looked
 * up at the next fault there: the entry that it left behind tells the node, and so the counters are live with nothing
 * but this tracepoint. A fault that is still unfinished when another one overtakes it on its CPU (it sleeps on a disk
 * or on userfaultfd) moves to the map `blocked`, keyed by thread, until user space has seen it finished.
 */
#define FAULT_WRITE 2 /* X86_PF_WRITE, arch/x86/include/asm/trap_pf.h */

/* The leaf entry at an address; remembers the PMD entry's place, since one fault's neighbour is usually close. */
static __always_inline u64 fault_entry(const struct paging *paging, struct cpu *cpu, u64 pgd, u64 address)
{
	u64 region = address >> REGION_SHIFT, entry, table;

	if (cpu->middle_region != region || cpu->middle_pgd != pgd || !cpu->middle_entry) {
		table = pud_table(paging, pgd, address);
		cpu->middle_entry = 0;
		if (!table)
			return 0;
		entry = entry_at(table, address, 30);
		if (is_leaf(entry) || !(entry & ENTRY_PRESENT))
			return entry;
		cpu->middle_entry = table_at(paging, entry) + (region & (ENTRIES - 1)) * 8;
		cpu->middle_region = region;
		cpu->middle_pgd = pgd;
	}
	entry = read_u64(cpu->middle_entry);
	if (is_leaf(entry) || !(entry & ENTRY_PRESENT))
		return entry;
	return entry_at(table_at(paging, entry), address, PAGE_SHIFT);
}

/* The access that faulted would succeed now. */
static __always_inline bool satisfied(u64 entry, u32 write)
{
	return (entry & ENTRY_PRESENT) && (!write || (entry & ENTRY_WRITE));
}

static __always_inline void resolve(struct control *c, struct cpu *cpu, u32 number, u64 next_task)
{
	u32 zero = 0, epoch = c->epoch, index = cpu->pending_record, target = cpu->pending_target;
	u64 entry = fault_entry(&c->paging, cpu, cpu->pending_pgd, cpu->pending_address);
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
		u32 tid = cpu->pending_tid;

		if (blocked.update(&tid, &it))
			cpu->dropped++;
		c->blocked++;
	}
}

static __always_inline int on_fault(struct bpf_raw_tracepoint_args *ctx, bool user)
{
	u64 task = bpf_get_current_task();
	struct target *target = target_of(read_u64(task + TASK_MM));
	struct control *c;
	struct cpu *cpu;
	struct record *record;
	u64 address;
	u32 number, index;

	if (!target)
		return 0;
	c = get_control();
	cpu = this_cpu(&number);
	if (!c || !cpu || !enter(cpu))
		return 0;
	address = ctx->args[0];
	if (cpu->pending_open)
		resolve(c, cpu, number, task);
	cpu->pending_open = 0;
	if (address >> 56 == 0) { /* not one of the kernel's own addresses */
		record = touch(cpu, number, c->epoch, target->number, address >> REGION_SHIFT, &index);
		if (record)
			record->touches++;
		cpu->faults++;
		cpu->sequence++;
		cpu->pending_address = address;
		cpu->pending_pgd = target->pgd;
		cpu->pending_task = task;
		cpu->pending_tid = (u32)bpf_get_current_pid_tgid();
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
