/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A glance at a target's mm: whether its VMA list may have changed, its totals, and the policy of its main thread. */
struct glance {
	u64 mm;           /* in */
	u64 pgd;
	u64 owner;        /* task that owns the mm, 0 when the kernel does not keep it */
	u64 owner_mm;     /* its mm: this one, unless that task is moving on to another */
	u64 lock_seq;     /* 0 when the kernel has none */
	u64 map_count;
	u64 total_vm;
	u64 writer;       /* 1 while somebody holds mmap_lock for writing; 0 where that cannot be seen */
	u64 start_brk;
	u64 brk;
	u64 start_stack;
	u64 hugetlb_pages; /* mapped hugetlb memory in 4 KiB pages */
	u64 rss;          /* pages; exact, and only, where each thread caches its part (6.1) */
	u64 dying;        /* 1: nobody uses it any more, and its pages are given back one after another (exit_mmap()) */
	u32 owner_tgid;
	u16 policy_mode;
	u16 policy_flags;
	u64 policy_nodes[NODE_WORDS];
};
BPF_F_TABLE("array", u32, struct glance, glance, 1, BPF_F_MMAPABLE);

#define POLICY_TRIES 3

/* __bpf_trace programs run under RCU, so a policy may be replaced meanwhile but not be freed and used again. */
static __always_inline void read_policy(u64 policy, u16 *mode, u16 *flags, u64 *nodes)
{
	bpf_probe_read_kernel(mode, sizeof(*mode), (void *)(policy + POLICY_MODE));
	bpf_probe_read_kernel(flags, sizeof(*flags), (void *)(policy + POLICY_FLAGS));
	bpf_probe_read_kernel(nodes, NODE_WORDS * 8, (void *)(policy + POLICY_NODES));
}

#ifdef TASK_RSS
#define THREADS 512

/* 6.1 counts a thread's own faults in the task and moves them to the mm 64 at a time (SPLIT_RSS_COUNTING). */
static __always_inline u64 rss_of(u64 base, u32 step)
{
	u64 file, anon, shmem;

	if (step == 4) {
		file = (s32)read_u32(base);
		anon = (s32)read_u32(base + 4);
		shmem = (s32)read_u32(base + 12);
	} else {
		file = read_u64(base);
		anon = read_u64(base + 8);
		shmem = read_u64(base + 24);
	}
	return file + anon + shmem;
}

static __always_inline u64 exact_rss(u64 mm, u64 leader)
{
	u64 sum = rss_of(mm + MM_RSS, 8);
	u64 head = read_u64(leader + TASK_SIGNAL) + SIGNAL_THREADS;
	u64 node = read_u64(head);

	for (u32 i = 0; i < THREADS; i++) {
		if (!node || node == head)
			break;
		sum += rss_of(node - TASK_THREAD_NODE + TASK_RSS, 4);
		node = read_u64(node);
	}
	return sum;
}
#endif

int look(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct glance *g = glance.lookup(&zero);
	u64 policy;

	if (!g)
		return 0;
	g->pgd = read_u64(g->mm + MM_PGD);
#ifdef MM_LOCK_SEQ
	g->lock_seq = read_u32(g->mm + MM_LOCK_SEQ);
#endif
	g->dying = !read_u32(g->mm + MM_USERS);
	g->map_count = read_u32(g->mm + MM_MAP_COUNT);
	g->total_vm = read_u64(g->mm + MM_TOTAL_VM);
#ifdef MM_LOCK_COUNT
	g->writer = read_u64(g->mm + MM_LOCK_COUNT) & 1; /* RWSEM_WRITER_LOCKED, kernel/locking/rwsem.c */
#endif
	g->start_brk = read_u64(g->mm + MM_START_BRK);
	g->brk = read_u64(g->mm + MM_BRK);
	g->start_stack = read_u64(g->mm + MM_START_STACK);
#ifdef MM_HUGETLB
	g->hugetlb_pages = read_u64(g->mm + MM_HUGETLB);
#endif
	g->policy_mode = 0;
	g->owner = 0;
#ifdef MM_OWNER
	g->owner = read_u64(g->mm + MM_OWNER);
	if (!g->owner)
		return 0;
	g->owner_tgid = read_u32(g->owner + TASK_TGID);
	g->owner_mm = read_u64(g->owner + TASK_MM);
	/* Replaced while it was read: its place may have become another one's. */
	for (u32 i = 0; i < POLICY_TRIES; i++) {
		policy = read_u64(g->owner + TASK_POLICY);
		g->policy_mode = 0;
		if (policy)
			read_policy(policy, &g->policy_mode, &g->policy_flags, g->policy_nodes);
		if (policy == read_u64(g->owner + TASK_POLICY))
			break;
	}
#ifdef TASK_RSS
	g->rss = exact_rss(g->mm, g->owner);
#endif
#endif
	return 0;
}
