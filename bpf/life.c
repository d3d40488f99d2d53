/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Lives of targets. A child has its parent's pages from the first moment and an exec gives a process a new mm; both are
 * traced before they run their first instruction. mmap:exit_mmap is the one sure end of an mm.
 */
#define COMM 16 /* TASK_COMM_LEN, include/linux/sched.h; there are at least 8 bins of 4 bytes */
#define CLONE_THREAD 0x00010000 /* include/uapi/linux/sched.h */

static __always_inline void born(struct control *c, u32 kind, u64 mm, u32 tgid)
{
	u32 number, name = admit(c, mm, tgid);
	struct cpu *cpu = this_cpu(&number);
	struct record *record;

	if (!name || !cpu || !enter(cpu))
		return;
	record = note(cpu, number, c->epoch, kind, name, mm, tgid);
	if (record) /* a child goes by its parent's name, and it is the parent who runs */
		bpf_get_current_comm(record->faults, COMM);
	leave(cpu);
}

/* sched:sched_process_exec(task, old_pid, bprm): fires in the task, after it took the new mm. */
int executed(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct control *c = get_control();
	u32 tgid;

	if (!c)
		return 0;
	__sync_fetch_and_add(&c->generation, 1); /* whoever it is, the task has another mm now */
	tgid = read_u32(task + TASK_TGID);
	if (followed.lookup(&tgid))
		born(c, RECORD_EXEC, read_u64(task + TASK_MM), tgid);
	return 0;
}

/*
 * task:task_newtask(task, clone_flags): fires in the parent, when nothing can fail any more and the child does not run
 * yet. Whoever it is, its task_struct may be one that a CPU remembers from a task that is gone.
 */
int task_made(struct bpf_raw_tracepoint_args *ctx)
{
	u64 child = ctx->args[0], mm;
	struct control *c = get_control();
	u32 parent = bpf_get_current_pid_tgid() >> 32, tgid, *flags, copy;

	if (!c)
		return 0;
	__sync_fetch_and_add(&c->generation, 1);
	if (ctx->args[1] & CLONE_THREAD)
		return 0;
	flags = followed.lookup(&parent);
	if (!flags || !(*flags & FOLLOW_FORKS))
		return 0;
	copy = *flags;
	tgid = read_u32(child + TASK_TGID);
	if (followed.update(&tgid, &copy))
		__sync_fetch_and_add(&c->untraced, 1);
	mm = read_u64(child + TASK_MM);
	/* A child of vfork shares its parent's mm, which is traced already, until it executes something. */
	if (mm && slot_of(mm) == NO_SLOT)
		born(c, RECORD_FORK, mm, tgid);
	return 0;
}

/* sched:sched_process_exit(task): fires in each thread; the process ends with its last one. */
int task_ended(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (followed.lookup(&tgid) && !read_u32(read_u64(task + TASK_SIGNAL) + SIGNAL_LIVE))
		followed.delete(&tgid);
	return 0;
}

/* mmap:exit_mmap(mm) */
int mm_ended(struct bpf_raw_tracepoint_args *ctx)
{
	u64 mm = ctx->args[0];
	struct control *c;
	struct cpu *cpu;
	u32 number, name;

	if (slot_of(mm) == NO_SLOT)
		return 0;
	c = get_control();
	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	name = expel(c, mm);
	if (!name || !enter(cpu))
		return 0;
	note(cpu, number, c->epoch, RECORD_EXIT, name, mm, 0);
	leave(cpu);
	return 0;
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
