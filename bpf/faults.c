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

static __always_inline u32 bin_of(u64 entry)
{
	u32 zero = 0;
	struct node_table *nodes = node_table.lookup(&zero);

	return nodes ? nodes->bin[block_of(entry)] / BIN_STEP & (BINS - 1) : NOWHERE;
}

/* Its address space has not come to an end, after which its page tables may be anything. */
static __always_inline bool is_alive(u32 number)
{
	u32 slot = number % TARGETS;
	struct target *target = targets.lookup(&slot);

	return target && target->number == number;
}

#if FOLLOWED
/* tracer/model/events.py */
enum fault_kind { KIND_NEW, KIND_HUGE, KIND_COW, KIND_HINT, KIND_MAJOR, KIND_OTHER };

static __always_inline u64 frame_of(const struct control *c, u64 entry, u64 address)
{
	u64 frame = (upright(entry) & c->paging.address) >> PAGE_SHIFT;

	return is_leaf(entry) ? frame & ~511ULL | (address >> PAGE_SHIFT & 511) : frame;
}

/* What a fault was about, from the entries before and after it. */
static __always_inline u32 kind_of(const struct control *c, u64 address, u64 before, u64 after, bool major)
{
	if (major)
		return KIND_MAJOR;
	if (!maps_page(after))
		return KIND_OTHER;
	/* Nothing, a page table, or the zero page. */
	if (!before || before & ENTRY_PRESENT && !maps_page(before))
		return is_leaf(after) ? KIND_HUGE : KIND_NEW;
	if (!maps_page(before))
		return KIND_OTHER;
	if (!(before & ENTRY_PRESENT))
		return KIND_HINT;
	return frame_of(c, before, address) == frame_of(c, after, address) ? KIND_OTHER : KIND_COW;
}

#if FAULTS
static __always_inline void tally_fault(const struct control *c, struct cpu *cpu, u32 number, const struct finished *f)
{
	u32 bin = maps_page(f->after) ? bin_of(f->after) : NOWHERE, index;
	u64 value = f->kind | (u64)f->cpu << 8 | (FAULTS > 1 ? (u64)f->thread << 32 : 0);
	struct record *record = tally(cpu, number, c->epoch, f->target, RECORD_FAULTS, f->key, value, &index);

	if (record)
		record->faults[bin & (BINS - 1)]++;
}
#endif

#if POLICIES
#define VM_HUGETLB 0x400000 /* include/linux/mm.h */

/* A number for a policy that fits a record; 0 for none and for nothing else (policy_hash() in tracer/kernel/epoch.py). */
static __always_inline u32 policy_hash(u64 policy)
{
	u64 hash = policy * 0x9E3779B97F4A7C15ULL >> 48;

	return hash + (!hash & !!policy);
}

/* Where the hugetlb page begins that holds an address of the VMA. */
static __always_inline u64 hugetlb_start(u64 vma, u64 address)
{
	u64 inode = read_u64(read_u64(vma + VMA_FILE) + FILE_INODE);

	return address & -read_u64(read_u64(inode + INODE_SUPER) + SUPER_BLOCK_SIZE);
}

/*
 * The fault put a page there. A huge page is all pages of its region; one of hugetlb is the first page of its own, for that
 * is where it counts.
 */
static __always_inline void mark_placed(const struct control *c, struct cpu *cpu, u32 number, struct finished *f)
{
	struct record *record;
	u32 index, page;

	if (is_leaf(f->after) && read_u64(cpu->vma + VMA_FLAGS) & VM_HUGETLB) {
		f->address = hugetlb_start(cpu->vma, f->address);
		f->key = f->address >> PAGE_SHIFT;
		f->after &= ~ENTRY_LEAF;
	}
	record = tally(cpu, number, c->epoch, f->target, RECORD_PLACED, f->key, f->kind | f->policy | (u64)f->thread << 32,
		       &index);
	if (!record)
		return;
	page = f->address >> PAGE_SHIFT & (PLACED_BITS - 1);
	if (is_leaf(f->after))
		__builtin_memset(record->faults, 0xff, PLACED_BITS / 8);
	else
		record->faults[page / 32] |= 1U << (page & 31);
}
#endif

static __always_inline void count_fault(const struct control *c, struct cpu *cpu, u32 number, struct finished *f)
{
	f->kind = kind_of(c, f->address, f->before, f->after, f->major);
	f->key = span_of(cpu, f->mm, f->address);
#if FAULTS
	tally_fault(c, cpu, number, f);
#endif
#if POLICIES
	if (f->kind != KIND_HINT && f->kind != KIND_OTHER && maps_page(f->after))
		mark_placed(c, cpu, number, f);
#endif
}

/*
 * Count the faults that were found finished just now. In one place, and from memory that the verifier does not follow:
 * otherwise each way to here would be a program of its own from here on.
 */
static __always_inline void count_finished(const struct control *c, struct cpu *cpu, u32 number)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 2; i++) {
		struct finished *f = &cpu->finished[i & 1];

		if (!f->target)
			continue;
		count_fault(c, cpu, number, f);
		f->target = 0;
	}
}

/*
 * A fault from user mode is over if its thread is in a system call now. Of a thread in user mode nothing can be said: its
 * last fault's registers are still there.
 */
static __always_inline bool moved_on(const struct control *c, u64 task, bool kernel)
{
	return !kernel && c->registers &&
	       (s64)read_u64(read_u64(task + TASK_STACK) + c->registers + REGS_ORIG_AX) >= 0;
}

/*
 * A fault of this thread was overtaken on its CPU. over: it has ended, whatever it left; otherwise it is finished if that
 * can be seen.
 */
static __always_inline void finish_overtaken(const struct control *c, struct cpu *cpu, u32 tid, u32 majors, bool over)
{
	struct overtaken *it = blocked.lookup(&tid), copy;
	struct finished *f = &cpu->finished[OVERTAKEN];
	u64 entry;

	if (!it)
		return;
	copy = *it;
	entry = is_alive(copy.target) ? leaf_entry(&c->paging, copy.pgd, copy.address) : 0;
	if (!over && !satisfied(entry, copy.write) && !moved_on(c, copy.task, copy.kernel))
		return;
	if (blocked.delete(&tid)) /* somebody else counts it */
		return;
	f->mm = copy.mm;
	f->address = copy.address;
	f->before = copy.before;
	f->after = entry;
	f->target = copy.target;
	f->cpu = copy.cpu;
	f->thread = tid;
	f->major = majors != copy.majors;
	f->policy = copy.policy;
}

/* The pending fault of this CPU has ended and left this entry. */
static __always_inline void finish_pending(struct cpu *cpu, u32 number, u64 entry)
{
	struct finished *f = &cpu->finished[PENDING];

	f->mm = cpu->pending_mm;
	f->address = cpu->pending_address;
	f->before = cpu->pending_before;
	f->after = entry;
	f->target = cpu->pending_target;
	f->cpu = number;
	f->thread = cpu->pending_tid;
	f->major = read_u32(cpu->pending_task + TASK_MAJORS) != cpu->pending_majors;
	f->policy = cpu->pending_policy;
}
#endif

/* The pending fault is not over, and another thread's comes to this CPU: it goes on elsewhere, or sleeps. */
static __always_inline void overtake(struct control *c, struct cpu *cpu, u32 number)
{
	struct overtaken it = {
		.address = cpu->pending_address,
		.mm = cpu->pending_mm,
		.pgd = cpu->pending_pgd,
		.before = cpu->pending_before,
		.target = cpu->pending_target,
		.write = cpu->pending_write,
		.sequence = cpu->sequence,
		.cpu = number,
		.majors = cpu->pending_majors,
		.kernel = cpu->pending_ip != 0,
		.task = cpu->pending_task,
		.ended = cpu->pending_ended,
		.policy = cpu->pending_policy,
	};
	u32 tid = read_u32(cpu->pending_task + TASK_PID);

	if (blocked.update(&tid, &it))
		cpu->dropped++;
	c->blocked++;
}

static __always_inline void resolve(struct control *c, struct cpu *cpu, u32 number, u64 next_task)
{
	u32 epoch = c->epoch, index = cpu->pending_record, target = cpu->pending_target;
	u64 entry = fault_entry(c, cpu, cpu->pending_pgd, cpu->pending_address);
	struct record *record;

	opaque(entry);
#if FOLLOWED
	if (!is_alive(target)) {
		finish_pending(cpu, number, 0);
		return;
	}
#endif
	if (cpu->pending_epoch == epoch + 1)
		record = records.lookup(&index);
	else
		record = touch(cpu, number, epoch, target, cpu->pending_address >> REGION_SHIFT, &index);
	/* A fault is followed although the log is full: an audit may come before its end, and nothing may come after. */
	if (satisfied(entry, cpu->pending_write)) {
#if FOLLOWED
		finish_pending(cpu, number, entry);
#else
		if (record && maps_page(entry))
			record->faults[bin_of(entry)]++;
#endif
		return;
	}
	if (record)
		record->unresolved++;
	if (!is_alive(target)) /* nobody will ask for it */
		return;
	if (cpu->pending_task != next_task)
		overtake(c, cpu, number);
#if FOLLOWED
	else /* it is over, for the same thread is in the next one: what it left is gone, or is not all that it wanted */
		finish_pending(cpu, number, entry);
#endif
}

/*
 * The target that the present task changes. A task keeps its mm until it executes another program, and a new task may
 * take the place of one that is gone: both change the generation (life.c), as does every change of the targets. Between
 * such changes one look serves a run of faults. Tasks without an mm (kernel threads that borrow one) are asked each
 * time.
 */
static __always_inline struct target *target_of_task(const struct control *c, struct cpu *cpu, u64 task)
{
	u32 slot, generation = c->generation;
	u64 mm;

	if (cpu->last_task == task && cpu->generation == generation) {
		slot = cpu->last_slot;
		return slot == NO_SLOT ? NULL : target_at(slot, cpu->last_mm);
	}
	mm = read_u64(task + TASK_MM);
	slot = slot_of(mm);
	cpu->last_task = mm && !(read_u32(task + TASK_FLAGS) & PF_KTHREAD) ? task : 0;
	cpu->last_mm = mm;
	cpu->last_slot = slot;
	cpu->generation = generation;
	return slot == NO_SLOT ? NULL : target_at(slot, mm);
}

/* Page faults of a task that have come to a good end: mm_account_fault() in mm/memory.c. */
static __always_inline u64 faults_ended(u64 task)
{
#if TASK_MAJORS == TASK_MINORS + 8
	u64 both[2] = {};

	bpf_probe_read_kernel(both, sizeof(both), (void *)(task + TASK_MINORS));
	return both[0] + both[1];
#else
	return read_u64(task + TASK_MINORS) + read_u64(task + TASK_MAJORS);
#endif
}

/* Keep what is known of a fault before it is handled. */
static __always_inline void suspend(const struct control *c, struct cpu *cpu, u32 number, const struct target *target,
				    u64 task, u64 address, u64 frame, u64 code, bool user)
{
	u64 region = address >> REGION_SHIFT;
	u32 index = cpu->pending_record;
	struct record *record;

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
	cpu->pending_mm = target->mm;
	cpu->pending_task = task;
	cpu->pending_frame = frame;
	cpu->pending_ip = user ? 0 : read_u64(frame + REGS_IP);
	cpu->pending_ended = faults_ended(task);
	cpu->pending_write = code & FAULT_WRITE;
	cpu->pending_target = target->number;
	cpu->pending_record = record ? index : 0;
	cpu->pending_epoch = record ? c->epoch + 1 : 0;
#if FOLLOWED
	cpu->pending_before = fault_entry(c, cpu, target->pgd, address);
	cpu->pending_majors = read_u32(task + TASK_MAJORS);
	cpu->pending_tid = (u32)bpf_get_current_pid_tgid();
#endif
#if POLICIES
	cpu->pending_policy = policy_hash(read_u64(task + TASK_POLICY)) << POLICY_HASH;
#if CALLS
	cpu->pending_policy |= (target->policy_calls & 0xfff) << POLICY_SEQUENCE;
#endif
#endif
	cpu->pending_open = 1;
}

static __always_inline int on_fault(struct bpf_raw_tracepoint_args *ctx, bool user)
{
	u64 task = bpf_get_current_task(), address = ctx->args[0];
	struct control *c = get_control();
	struct target *target;
	struct cpu *cpu;
	u32 number;

	/* One of the kernel's own addresses: nobody's page, and perhaps a read of ours, from a stack that is gone. */
	if (address >> 56)
		return 0;
	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	target = target_of_task(c, cpu, task);
	if (!target || !enter(cpu))
		return 0;
	if (cpu->pending_open)
		resolve(c, cpu, number, task);
	cpu->pending_open = 0;
#if FOLLOWED
	if (c->blocked)
		finish_overtaken(c, cpu, (u32)bpf_get_current_pid_tgid(), read_u32(task + TASK_MAJORS), true);
	count_finished(c, cpu, number);
#endif
	suspend(c, cpu, number, target, task, address, ctx->args[1], ctx->args[2], user);
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

#if FOLLOWED
struct settlement {
	u32 thread; /* of an overtaken fault, or 0 */
	u32 majors; /* of that thread, now */
	u32 gone;   /* 1: the thread has ended */
	u32 pending; /* of the CPU's fault, when it was looked at */
};
BPF_F_TABLE("array", u32, struct settlement, settlement, 1, BPF_F_MMAPABLE);

/*
 * Run by user space on a CPU, whose interrupts are off meanwhile: count its pending fault, or an overtaken one, if it is
 * over, so that none is left uncounted because no other followed it there, or because what it left is gone again.
 */
int settle_faults(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0, number;
	struct settlement *it = settlement.lookup(&zero);
	struct control *c = get_control();
	struct cpu *cpu = this_cpu(&number);
	u64 entry;

	if (!c || !cpu || !it || cpu->busy)
		return 0;
	if (it->thread) {
		finish_overtaken(c, cpu, it->thread, it->majors, it->gone);
	} else if (cpu->pending_open) {
		entry = fault_entry(c, cpu, cpu->pending_pgd, cpu->pending_address);
		opaque(entry);
		if (!satisfied(entry, cpu->pending_write) && !(it->gone && it->pending == cpu->pending_tid) &&
		    !moved_on(c, cpu->pending_task, cpu->pending_ip != 0))
			return 0;
		finish_pending(cpu, number, entry);
		cpu->pending_open = 0;
	}
	count_finished(c, cpu, number);
	return 0;
}
#endif
