/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The exact RSS of an mm where each CPU keeps a batch of its changes to itself (struct percpu_counter, for this since 6.2):
 * what lib/percpu_counter.c adds up, without its lock. Exact while nothing changes. A per-CPU pointer becomes an address
 * by adding the CPU's base, which is learnt on a per-CPU map of our own, as no kernel symbol need be visible for that.
 */
#ifdef MM_RSS_COUNTERS
struct resident {
	u64 mm;    /* in */
	u64 pages; /* out: without hugetlb */
	u64 map;   /* the kernel's address of the map below */
	u64 bases; /* out: how many CPUs have a base */
};
BPF_F_TABLE("array", u32, struct resident, resident, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(anchor, u64, 1);
BPF_ARRAY(cpu_bases, u64, POSSIBLE_CPUS);

/* include/linux/mm_types_task.h */
#define MM_FILEPAGES 0
#define MM_ANONPAGES 1
#define MM_SHMEMPAGES 3

int learn_bases(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	volatile struct resident *r = resident.lookup(&zero);
	u64 shared;

	if (!r)
		return 0;
	r->bases = 0;
	r->map = bpf_pseudo_fd(1, MAP_ANCHOR);
	shared = read_u64(r->map + ARRAY_PPTRS);
	for (u32 i = 0; i < POSSIBLE_CPUS; i++) {
		u32 cpu = i;
		volatile u64 *base = cpu_bases.lookup(&cpu);
		u64 *own = bpf_map_lookup_percpu_elem((void *)bpf_pseudo_fd(1, MAP_ANCHOR), &zero, i);

		if (!base || !own)
			continue;
		*base = (u64)own;
		*base -= shared;
		r->bases++;
	}
	return 0;
}

static __always_inline u64 added_up(u64 counter)
{
	u64 sum = read_u64(counter + COUNTER_COUNT), own = read_u64(counter + COUNTER_CPUS);

	for (u32 i = 0; i < POSSIBLE_CPUS; i++) {
		u32 cpu = i;
		u64 *base = cpu_bases.lookup(&cpu);

		if (base)
			sum += (s64)(s32)read_u32(*base + own);
	}
	return sum;
}

int add_up_rss(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct resident *r = resident.lookup(&zero);
	u64 counters;

	if (!r)
		return 0;
	counters = r->mm + MM_RSS_COUNTERS;
	r->pages = added_up(counters + MM_FILEPAGES * COUNTER_SIZE) + added_up(counters + MM_ANONPAGES * COUNTER_SIZE) +
		   added_up(counters + MM_SHMEMPAGES * COUNTER_SIZE);
	return 0;
}
#endif
