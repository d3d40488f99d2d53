/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The system calls by which threads of targets set policies, as they return. One program for two places: the end of the
 * kernel's function for each of the calls, which costs nobody else anything; and where the kernel does not allow that, the
 * tracepoint of all system calls of all processes, which makes each of them take the slow way out of the kernel.
 */
#define SYS_MBIND 237 /* arch/x86/entry/syscalls/syscall_64.tbl */
#define SYS_SET_MEMPOLICY 238
#define SYS_SET_MEMPOLICY_HOME_NODE 450
#define TS_COMPAT 2 /* arch/x86/include/asm/thread_info.h: a call by the table of 32-bit programs */

/* The mask that the caller gave, as far as there is room; whose last bit is not used (get_nodes() in mm/mempolicy.c). */
static __always_inline void read_mask(struct called *it, u64 mask, u64 bits)
{
	u64 word;

	if (!mask || !bits)
		return;
	bits--;
	for (u32 i = 0; i < MASK_WORDS; i++) {
		if (bits <= i * 64)
			break;
		word = 0;
		bpf_probe_read_user(&word, sizeof(word), (void *)(mask + i * 8));
		if (bits < (i + 1) * 64)
			word &= (1ULL << (bits & 63)) - 1;
		it->nodes[i] = word;
	}
}

/* By the table of 32-bit programs, whose numbers and masks are others. */
static __always_inline bool is_compat(u64 task)
{
#ifdef TASK_STATUS
	return read_u32(task + TASK_STATUS) & TS_COMPAT;
#else
	return false;
#endif
}

static __always_inline void note_call(const struct control *c, struct cpu *cpu, u32 number, const struct target *target,
				      u64 regs, u64 call, s64 result)
{
	u64 start = 0, end = 0, node;
	struct record *record;
	struct called *it;

	if (call != SYS_SET_MEMPOLICY) {
		start = read_u64(regs + REGS_DI);
		end = (start + read_u64(regs + REGS_SI) + 4095) & ~4095ULL;
	}
	record = note(cpu, number, c->epoch, RECORD_CALL, target->number, start, end);
	if (!record)
		return;
	it = (struct called *)record->faults;
	it->time = bpf_ktime_get_ns();
	it->thread = (u32)bpf_get_current_pid_tgid();
	it->call = call;
	it->sequence = target->policy_calls;
	it->result = result;
	if (call == SYS_MBIND) {
		it->mode = read_u64(regs + REGS_DX);
		it->flags = read_u64(regs + REGS_R9);
		read_mask(it, read_u64(regs + REGS_R10), read_u64(regs + REGS_R8));
	} else if (call == SYS_SET_MEMPOLICY) {
		it->mode = read_u64(regs + REGS_DI);
		read_mask(it, read_u64(regs + REGS_SI), read_u64(regs + REGS_DX));
	} else {
		node = read_u64(regs + REGS_DX);
		if (node < MASK_WORDS * 64)
			it->nodes[node / 64 & (MASK_WORDS - 1)] = 1ULL << (node & 63);
	}
}

/*
 * __x64_sys_mbind(regs) and its kin with their result, or raw_syscalls:sys_exit(regs, result). The registers are as the
 * caller set them.
 */
int call_returned(struct bpf_raw_tracepoint_args *ctx)
{
	u64 regs = ctx->args[0], call = read_u64(regs + REGS_ORIG_AX), task;
	struct target *target;
	struct control *c;
	struct cpu *cpu;
	u32 number;

	if (call != SYS_MBIND && call != SYS_SET_MEMPOLICY && call != SYS_SET_MEMPOLICY_HOME_NODE)
		return 0;
	c = get_control();
	cpu = this_cpu(&number);
	if (!c || !cpu)
		return 0;
	c->calls_seen++;
	task = bpf_get_current_task();
	target = target_of(read_u64(task + TASK_MM));
	if (!target || is_compat(task))
		return 0;
	if (!ctx->args[1])
		__sync_fetch_and_add(&target->policy_calls, 1);
	hold();
	if (enter(cpu)) {
		note_call(c, cpu, number, target, regs, call, ctx->args[1]);
		leave(cpu);
	}
	release();
	return 0;
}
