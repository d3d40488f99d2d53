/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Lives of targets. An exec gives a traced process a new mm, which is traced from that moment on, before its first
 * instruction; mmap:exit_mmap is the one sure end of an mm.
 */

/* sched:sched_process_exec(task, old_pid, bprm): fires in the task, after it took the new mm. */
int executed(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct control *c = get_control();
	struct cpu *cpu;
	u32 number, tgid;
	bool traced = false;

	if (!c)
		return 0;
	__sync_fetch_and_add(&c->generation, 1); /* whoever it is, the task has another mm now */
	if (!c->active)
		return 0;
	tgid = read_u32(task + TASK_TGID);
	for (u32 i = 0; i < ACTIVE; i++) {
		u32 slot;
		struct target *target;

		if (i >= c->active)
			break;
		slot = c->slots[i];
		target = targets.lookup(&slot);
		if (target && target->tgid == tgid)
			traced = true;
	}
	if (!traced)
		return 0;
	cpu = this_cpu(&number);
	if (!cpu || !enter(cpu))
		return 0;
	u64 mm = read_u64(task + TASK_MM);
	u32 slot = target_slot(mm), name = c->next_number;
	struct target *fresh = targets.lookup(&slot);

	if (fresh && (!fresh->mm || fresh->tgid == tgid)) {
		c->next_number = name + 1;
		fresh->pgd = read_u64(mm + MM_PGD);
		fresh->tgid = tgid;
		fresh->number = name;
		fresh->mm = mm;
		note(cpu, number, c->epoch, RECORD_EXEC, name, mm, tgid);
	} else {
		cpu->dropped++;
		note(cpu, number, c->epoch, RECORD_EXEC, 0, mm, tgid);
	}
	leave(cpu);
	return 0;
}

/* task:task_newtask(task, clone_flags): a task_struct may be one that a CPU remembers from a task that is gone. */
int task_made(struct bpf_raw_tracepoint_args *ctx)
{
	struct control *c = get_control();

	if (c)
		__sync_fetch_and_add(&c->generation, 1);
	return 0;
}

/* mmap:exit_mmap(mm) */
int mm_ended(struct bpf_raw_tracepoint_args *ctx)
{
	struct target *target = target_of(ctx->args[0]);
	struct control *c;
	struct cpu *cpu;
	u32 number;

	if (!target)
		return 0;
	c = get_control();
	cpu = this_cpu(&number);
	if (!c || !cpu || !enter(cpu))
		return 0;
	note(cpu, number, c->epoch, RECORD_EXIT, target->number, target->mm, 0);
	leave(cpu);
	return 0;
}
