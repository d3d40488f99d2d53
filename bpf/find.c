/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a pid to its mm: while the caller reads one entry of the target's pagemap, the mmap_lock event of that read
 * shows the mm. Attached for that instant only, and deaf to every other thread.
 */
struct finding {
	u64 thread; /* in: the calling thread's tid, 0 when nothing is looked for */
	u64 mm;     /* out */
};
BPF_F_TABLE("array", u32, struct finding, finding, 1, BPF_F_MMAPABLE);

int find_mm(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct finding *f = finding.lookup(&zero);

	if (!f || (u32)bpf_get_current_pid_tgid() != f->thread)
		return 0;
	if (ctx->args[0] != read_u64(bpf_get_current_task() + TASK_MM))
		f->mm = ctx->args[0];
	return 0;
}
