/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The tripwire. kmem:rss_stat fires under the page table lock on almost every change of an mm's RSS, whoever makes it.
 * A change is explained by a page fault in flight, or by the arguments of the system call that makes it, which stand in
 * the user registers at the top of the task's kernel stack (orig_ax is -1 inside a fault from user mode). Everything
 * else is counted as unexplained, and an audit of the target has to find it.
 */

/* arch/x86/entry/syscalls/syscall_64.tbl */
enum system_call {
	SYS_READ = 0,
	SYS_MMAP = 9,
	SYS_MUNMAP = 11,
	SYS_BRK = 12,
	SYS_PREAD64 = 17,
	SYS_MREMAP = 25,
	SYS_MADVISE = 28,
	SYS_RECVFROM = 45,
	SYS_EXECVE = 59,
	SYS_MLOCK = 149,
	SYS_GETRANDOM = 318,
	SYS_EXECVEAT = 322,
	SYS_MLOCK2 = 325,
};

/* include/uapi/asm-generic/mman-common.h */
#define MADV_DONTNEED 4
#define MADV_FREE 8
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#define MADV_DONTNEED_LOCKED 24
#define MADV_GUARD_INSTALL 102

#define BRK_BELOW (1ULL << 30)
#define BRK_ABOVE (1ULL << 36)

struct call {
	u64 number;
	u64 argument[5]; /* di, si, dx, r10, r8 */
};

/*
 * A fault of this task is between its tracepoint and its end: the task's count of faults is as it was, so that it is not an
 * older one that happens to be this CPU's last; and the exception frame is still there. Of a fault in the kernel that is
 * below the stack pointer, and may outlive its fault, for what the task calls next need not write there; where that failed,
 * the instruction pointer is another one (ex_handler_default() in arch/x86/mm/extable.c).
 */
static __always_inline bool in_flight(const struct cpu *cpu, u64 task, u64 stack_pointer)
{
	if (cpu->pending_task != task || faults_ended(task) != cpu->pending_ended)
		return false;
	if (cpu->pending_ip)
		return stack_pointer < cpu->pending_frame && read_u64(cpu->pending_frame + REGS_IP) == cpu->pending_ip;
	return (s64)read_u64(cpu->pending_frame + REGS_ORIG_AX) == -1;
}

/* Mark the pending fault's region in the present epoch as well: now its page is being mapped. */
static __always_inline void mark_pending(struct cpu *cpu, u32 number, u32 epoch)
{
	u32 index;

	if (cpu->pending_epoch == epoch + 1)
		return;
	if (touch(cpu, number, epoch, cpu->pending_target, cpu->pending_address >> REGION_SHIFT, &index)) {
		cpu->pending_record = index;
		cpu->pending_epoch = epoch + 1;
	}
}

/*
 * A fault that slept and went on elsewhere: it is in `blocked`, or still the last one of the CPU where it began. Or in neither,
 * when its page came by another thread meanwhile; then an older fault of the thread may be there in its place.
 */
static __always_inline bool mark_elsewhere(struct cpu *cpu, u32 number, u32 epoch, u64 task, u32 target)
{
	u32 tid = (u32)bpf_get_current_pid_tgid(), index;
	struct overtaken *it = blocked.lookup(&tid);
	u64 ended = faults_ended(task);

	if (it && it->target == target && it->task == task && it->ended == ended) {
		touch(cpu, number, epoch, it->target, it->address >> REGION_SHIFT, &index);
		return true;
	}
	for (u32 i = 0; i < CPUS && i < 256; i++) {
		u32 other = i;
		struct cpu *begun = cpus.lookup(&other);

		if (begun && begun->pending_task == task && begun->pending_target == target &&
		    begun->pending_ended == ended) {
			touch(cpu, number, epoch, begun->pending_target, begun->pending_address >> REGION_SHIFT, &index);
			return true;
		}
	}
	return false;
}

static __always_inline void note_range(struct cpu *cpu, u32 number, u32 epoch, u32 target, u64 start, u64 length)
{
	u64 end = start + length;

	if (!length || end < start)
		return;
	if (cpu->range_start == start && cpu->range_end == end && cpu->range_epoch == epoch + 1 &&
	    cpu->range_target == target)
		return;
	cpu->range_start = start;
	cpu->range_end = end;
	cpu->range_epoch = epoch + 1;
	cpu->range_target = target;
	note(cpu, number, epoch, RECORD_RANGE, target, start, end);
}

/* Others change the file, or split its large folios, which unmaps them wherever else they are mapped as well. */
static __always_inline bool stays_in_its_range(u64 advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_POPULATE_READ ||
	       advice == MADV_POPULATE_WRITE || advice == MADV_DONTNEED_LOCKED || advice == MADV_GUARD_INSTALL;
}

/* Which addresses a system call changes. False: it does not say, or not of all. */
static __always_inline bool range_of_call(struct cpu *cpu, u32 number, u32 epoch, u32 target, const struct call *call)
{
	const u64 *a = call->argument;
	u64 start = a[0], length = a[1];

	switch (call->number) {
	case SYS_BRK: /* shrinks from anywhere above, or grows by locked memory from somewhere below */
		start = a[0] > BRK_BELOW ? a[0] - BRK_BELOW : 0;
		length = BRK_BELOW + BRK_ABOVE;
		break;
	case SYS_READ:
	case SYS_PREAD64:
	case SYS_RECVFROM:
		start = a[1];
		length = a[2];
		break;
	case SYS_MREMAP:
		length = a[1] > a[2] ? a[1] : a[2];
		note_range(cpu, number, epoch, target, a[4], a[2]);
		break;
	case SYS_MMAP:
		if (!a[0]) /* the kernel chooses the place: perhaps one that looks as before */
			return false;
		break;
	case SYS_EXECVE:
	case SYS_EXECVEAT: /* the arguments are added to the RSS of the mm that is left, and taken off again (fs/exec.c) */
		return true;
	case SYS_MUNMAP:
	case SYS_MADVISE:
	case SYS_MLOCK:
	case SYS_MLOCK2:
	case SYS_GETRANDOM:
		break;
	default:
		return false;
	}
	note_range(cpu, number, epoch, target, start & ~4095ULL, (length + (start & 4095) + 4095) & ~4095ULL);
	return call->number != SYS_MADVISE || stays_in_its_range(a[2]);
}

static __always_inline void read_call(const struct control *c, u64 task, struct call *call)
{
	u64 registers = read_u64(task + TASK_STACK) + c->registers;

	call->number = read_u64(registers + REGS_ORIG_AX);
	call->argument[0] = read_u64(registers + REGS_DI);
	call->argument[1] = read_u64(registers + REGS_SI);
	call->argument[2] = read_u64(registers + REGS_DX);
	call->argument[3] = read_u64(registers + REGS_R10);
	call->argument[4] = read_u64(registers + REGS_R8);
}

/* Say where the present task changes the target, or count the change as unexplained. */
static __always_inline void explain(const struct control *c, struct cpu *cpu, u32 number, struct target *target,
				    u64 stack_pointer)
{
	u64 task = bpf_get_current_task();
	u32 epoch = c->epoch;
	struct call call = {};

	if (cpu->pending_target == target->number && in_flight(cpu, task, stack_pointer)) {
		mark_pending(cpu, number, epoch);
		return;
	}
	if (c->registers && read_u64(task + TASK_MM) == target->mm) {
		read_call(c, task, &call);
		if ((s64)call.number == -1 ? mark_elsewhere(cpu, number, epoch, task, target->number)
					   : range_of_call(cpu, number, epoch, target->number, &call))
			return;
	}
	if (!read_u32(target->mm + MM_USERS)) /* the mm is being taken down, and nobody can look at it any more */
		return;
	__sync_fetch_and_add(&target->unexplained, 1);
	cpu->unexplained++;
	cpu->doubt_call = call.number;
	cpu->doubt_tid = (u32)bpf_get_current_pid_tgid();
}

/*
 * The context of a raw tracepoint program lies on the kernel stack (bpf_trace_run in kernel/trace/bpf_trace.c), so its
 * address stands for the stack pointer. The program's own stack does not: since 6.13 it may be elsewhere.
 */
static __always_inline int changed(struct bpf_raw_tracepoint_args *ctx, u64 mm)
{
	struct target *target = target_of(mm);
	struct control *c;
	struct cpu *cpu;
	u32 number;

	if (!target)
		return 0;
	c = get_control();
	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	hold();
	if (enter(cpu)) {
		explain(c, cpu, number, target, (u64)ctx);
		leave(cpu);
	}
	release();
	return 0;
}

int rss_changed(struct bpf_raw_tracepoint_args *ctx)
{
	return changed(ctx, ctx->args[0]);
}

/* huge_memory:mm_collapse_huge_page(mm, ...): no address, and RSS need not change. */
int collapsed(struct bpf_raw_tracepoint_args *ctx)
{
	return changed(ctx, ctx->args[0]);
}
