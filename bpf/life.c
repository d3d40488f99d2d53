/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Lives of targets. A child has its parent's pages from the first moment and an exec gives a process a new mm; both are
 * traced before they run their first instruction. mmap:exit_mmap is the one sure end of an mm.
 *
 * These tracepoints fire where a task may be preempted. Where they leave that on (7.0), the kernel does not run a program
 * on a CPU for one task while another one was preempted in it there (prog->active, kernel/trace/bpf_trace.c), and a fork,
 * an exec or an end would not be seen. So each has a second program, which does what the first one has left undone.
 */
#define COMM 16 /* TASK_COMM_LEN, include/linux/sched.h; there are at least 8 bins of 4 bytes */
#define CLONE_THREAD 0x00010000 /* include/uapi/linux/sched.h */

/* Make a record of what befell an address space; of a birth with the name of the present process. */
static __always_inline void tell(const struct control *c, u32 kind, u32 name, u64 mm, u32 tgid)
{
	struct record *record;
	struct cpu *cpu;
	u32 number;

	cpu = this_cpu(&number);
	if (!cpu)
		return;
	hold();
	if (enter(cpu)) {
		record = note(cpu, number, c->epoch, kind, name, mm, tgid);
		if (record && kind != RECORD_EXIT) /* a child goes by its parent's name, and it is the parent who runs */
			bpf_get_current_comm(record->faults, COMM);
		leave(cpu);
	}
	release();
}

/* again: the first program, if it ran, has counted the process for which there is no room. */
static __always_inline void born(struct control *c, u32 kind, u64 mm, u32 tgid, bool again)
{
	u32 name, slot;

	if (again && free_slots.peek(&slot))
		return;
	name = admit(c, mm, tgid);
	if (name)
		tell(c, kind, name, mm, tgid);
}

/* sched:sched_process_exec(task, old_pid, bprm): fires in the task, after it took the new mm. */
static __always_inline int program_begins(u64 task, bool again)
{
	struct control *c = get_control();
	u64 mm;
	u32 tgid;

	if (!c)
		return 0;
	__sync_fetch_and_add(&c->generation, 1); /* whoever it is, the task has another mm now */
	tgid = read_u32(task + TASK_TGID);
	mm = read_u64(task + TASK_MM);
	if (followed.lookup(&tgid) && !(again && slot_of(mm) != NO_SLOT))
		born(c, RECORD_EXEC, mm, tgid, again);
	return 0;
}

int executed(struct bpf_raw_tracepoint_args *ctx)
{
	return program_begins(ctx->args[0], false);
}

int executed_again(struct bpf_raw_tracepoint_args *ctx)
{
	return program_begins(ctx->args[0], true);
}

/*
 * task:task_newtask(task, clone_flags): fires in the parent, when nothing can fail any more and the child does not run
 * yet. Whoever it is, its task_struct may be one that a CPU remembers from a task that is gone.
 */
static __always_inline int task_begins(u64 child, u64 clone_flags, bool again)
{
	struct control *c = get_control();
	u32 parent = bpf_get_current_pid_tgid() >> 32, tgid, *flags, copy;
	u64 mm;

	if (!c)
		return 0;
	__sync_fetch_and_add(&c->generation, 1);
	if (clone_flags & CLONE_THREAD)
		return 0;
	flags = followed.lookup(&parent);
	if (!flags || !(*flags & FOLLOW_FORKS))
		return 0;
	copy = *flags;
	tgid = read_u32(child + TASK_TGID);
	if (followed.update(&tgid, &copy) && !again)
		__sync_fetch_and_add(&c->untraced, 1);
	mm = read_u64(child + TASK_MM);
	/* A child of vfork shares its parent's mm, which is traced already, until it executes something. */
	if (mm && slot_of(mm) == NO_SLOT)
		born(c, RECORD_FORK, mm, tgid, again);
	return 0;
}

int task_made(struct bpf_raw_tracepoint_args *ctx)
{
	return task_begins(ctx->args[0], ctx->args[1], false);
}

int task_made_again(struct bpf_raw_tracepoint_args *ctx)
{
	return task_begins(ctx->args[0], ctx->args[1], true);
}

/* sched:sched_process_exit(task): fires in each thread; the process ends with its last one. */
static __always_inline int task_ends(u64 task)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (followed.lookup(&tgid) && !read_u32(read_u64(task + TASK_SIGNAL) + SIGNAL_LIVE))
		followed.delete(&tgid);
	return 0;
}

int task_ended(struct bpf_raw_tracepoint_args *ctx)
{
	return task_ends(ctx->args[0]);
}

int task_ended_again(struct bpf_raw_tracepoint_args *ctx)
{
	return task_ends(ctx->args[0]);
}

/* mmap:exit_mmap(mm) */
static __always_inline int mm_ends(u64 mm)
{
	struct control *c;
	u32 name;

	if (slot_of(mm) == NO_SLOT)
		return 0;
	c = get_control();
	if (!c)
		return 0;
	name = expel(c, mm);
	if (name)
		tell(c, RECORD_EXIT, name, mm, 0);
	return 0;
}

int mm_ended(struct bpf_raw_tracepoint_args *ctx)
{
	return mm_ends(ctx->args[0]);
}

int mm_ended_again(struct bpf_raw_tracepoint_args *ctx)
{
	return mm_ends(ctx->args[0]);
}

/* --- run by user space --- */

int admit_target(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct admission *it = admission.lookup(&zero);
	struct control *c = get_control();

	if (it && c)
		it->number = admit(c, it->mm, it->tgid);
	return 0;
}

int expel_target(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct admission *it = admission.lookup(&zero);
	struct control *c = get_control();

	if (it && c)
		it->number = expel(c, it->mm);
	return 0;
}
