/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The threads of a target with their policies (set_mempolicy(2) is for one thread), from the list of the mm's owner. Run
 * on demand, as count.c; threads that come or go meanwhile may be missed. The list is not left under RCU: a run takes as
 * many threads as tail calls allow, and the next one goes on from a thread of which it makes sure that it is still there.
 */
#define THREADS_FOUND 2048
#define THREADS_A_RUN 64
#define COMM_BYTES 16 /* TASK_COMM_LEN, include/linux/sched.h */

struct thread_request {
	u64 mm;
	u64 head;    /* in and out: of the list, 0 to begin */
	u64 node;    /* in and out: where to go on */
	u32 tid;     /* in and out: of the thread that stands there, 0: the program has not left the list */
	u32 count;   /* in and out: threads found */
	u32 done;    /* out */
	u32 broken;  /* out: the list was lost on the way */
};

struct thread_found {
	u64 policy; /* address, 0: none */
	u64 nodes[NODE_WORDS];
	u16 mode;
	u16 flags;
	u32 tid;
	u32 tgid;
	u32 pad;
	u8 comm[COMM_BYTES];
};

BPF_F_TABLE("array", u32, struct thread_request, thread_request, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct thread_found, threads_found, THREADS_FOUND, BPF_F_MMAPABLE);
BPF_PROG_ARRAY(threads_again, 1);

#ifdef MM_OWNER
static __always_inline void read_thread(u64 task, struct thread_found *out)
{
	out->tid = read_u32(task + TASK_PID);
	out->tgid = read_u32(task + TASK_TGID);
	bpf_probe_read_kernel(out->comm, COMM_BYTES, (void *)(task + TASK_COMM));
	/* Replaced while it was read: its place may have become another one's. */
	for (u32 i = 0; i < POLICY_TRIES; i++) {
		out->policy = read_u64(task + TASK_POLICY);
		out->mode = 0;
		if (!out->policy)
			break;
		read_policy(out->policy, &out->mode, &out->flags, out->nodes);
		if (out->policy == read_u64(task + TASK_POLICY))
			break;
	}
}

/* Where the list begins, or where it was left. */
static __always_inline bool find_place(struct thread_request *request)
{
	u64 task;

	if (!request->head) {
		task = read_u64(request->mm + MM_OWNER);
		if (!task)
			return false;
		request->head = read_u64(task + TASK_SIGNAL) + SIGNAL_THREADS;
		request->node = read_u64(request->head);
		return true;
	}
	if (!request->tid)
		return true;
	task = request->node - TASK_THREAD_NODE;
	return read_u64(task + TASK_SIGNAL) + SIGNAL_THREADS == request->head &&
	       read_u32(task + TASK_PID) == request->tid;
}

int list_threads(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0, at;
	struct thread_request *request = thread_request.lookup(&zero);
	struct thread_found *out;
	u64 task;

	if (!request)
		return 0;
	if (!find_place(request)) {
		request->broken = 1;
		return 0;
	}
	request->tid = 0;
	for (u32 i = 0; i < THREADS_A_RUN; i++) {
		if (request->node == request->head) {
			request->done = 1;
			return 0;
		}
		if (!request->node) {
			request->broken = 1;
			return 0;
		}
		task = request->node - TASK_THREAD_NODE;
		at = request->count;
		out = threads_found.lookup(&at);
		if (!out) { /* the caller takes what is there */
			request->tid = read_u32(task + TASK_PID);
			return 0;
		}
		if (read_u64(task + TASK_MM) == request->mm) {
			read_thread(task, out);
			request->count = at + 1;
		}
		request->node = read_u64(request->node);
	}
	threads_again.call(ctx, 0);
	/* A chain of tail calls has an end. */
	if (request->node == request->head)
		request->done = 1;
	else
		request->tid = read_u32(request->node - TASK_THREAD_NODE + TASK_PID);
	return 0;
}
#endif
