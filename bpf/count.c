/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The walk: pages per node of a list of spans, straight from the target's page tables. Run on demand by
 * BPF_PROG_TEST_RUN; it takes up to SPANS_A_RUN spans and calls itself again until the list is done or the kernel's
 * limit of 33 tail calls is reached; `next` tells how far it came.
 */
#define SPANS 8192
#define TAIL_CALLS 33

struct span {
	u64 start;
	u32 pages;   /* 4 KiB pages, at most 512 */
	u32 hugetlb; /* 1: a page of hugetlbfs, counts 1 whatever its size */
};

struct counts {
	u32 bin[BINS];
};

struct count_request {
	struct paging paging;
	u64 pgd;
	u64 huge_zero; /* physical address of the huge zero page, ~0 when there is none */
	u32 next;
	u32 count;
	u32 contiguous; /* 1: every node's blocks follow each other in node_table */
	u32 pad;
};

struct entries {
	u64 entry[ENTRIES + 8]; /* eight more, so that what follows a part can always be cleared */
};

BPF_F_TABLE("array", u32, struct count_request, count_request, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct span, spans, SPANS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct counts, counted, SPANS, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(copied, struct entries, 1);
BPF_ARRAY(zeros, struct entries, 1);
BPF_PROG_ARRAY(count_again, 1);

static __always_inline void add(struct counts *out, u32 bin, u32 pages)
{
	out->bin[(bin / BIN_STEP) & (BINS - 1)] += pages;
}

/*
 * All 512 entries present, none special, and on one node: the AND of all entries is a lower bound of their addresses,
 * the OR an upper one. Three instructions an entry, where telling pages apart takes a dozen. The first 32 entries
 * decide whether it is worth going on.
 */
static __always_inline bool whole_table_on_one_node(const struct entries *table, const struct node_table *nodes,
						    u32 *bin)
{
	u64 all = ~0ULL, any = 0;

	for (u32 i = 0; i < ENTRIES; i += 32) {
		u32 at = i;

		opaque(at);
		at &= ENTRIES - 32;
#pragma unroll
		for (u32 k = 0; k < 32; k++) {
			u64 entry = table->entry[at + k];

			all &= entry;
			any |= entry;
			opaque(all); /* keeps the two side by side: clang would spill all entries for a second pass */
			opaque(any);
		}
		if (!(all & ENTRY_PRESENT) || (any & ENTRY_SPECIAL))
			return false;
	}
	*bin = nodes->bin[block_of(all)];
	return *bin == nodes->bin[block_of(any)];
}

/* Entry by entry. With few nodes the bins are ten-bit fields of one register, which no store has to wait for. */
static __always_inline void count_entries(const struct entries *table, const struct node_table *nodes, u32 pages,
					  struct counts *out)
{
	u64 fields = 0;

	for (u32 i = 0; i < ENTRIES; i += 8) {
		u32 at = i;

		if (i >= pages)
			break;
		opaque(at);
		at &= ENTRIES - 8;
#pragma unroll
		for (u32 k = 0; k < 8; k++) {
			u64 entry = table->entry[at + k];
			u64 bin = nodes->bin[block_of(entry)];
			u64 one = maps_page(entry);

			opaque(one);
#if BIN_STEP > 1
			fields += one << (bin & 63);
			opaque(fields);
#else
			out->bin[bin & (BINS - 1)] += one;
#endif
		}
	}
#if BIN_STEP > 1
#pragma unroll
	for (u32 bin = 0; bin < 64 / BIN_STEP; bin++)
		out->bin[bin] = (fields >> (bin * BIN_STEP)) & ((1 << BIN_STEP) - 1);
#endif
}

/* Copy the part of a table that the span covers to the front of `table`; clear what an eight-fold loop reads beyond. */
static __always_inline void copy_entries(struct entries *table, u64 source, u64 start, u32 pages)
{
	u32 zero = 0;
	u32 bytes = pages * 8;
	struct entries *clear = zeros.lookup(&zero);

	if (pages >= ENTRIES) {
		bpf_probe_read_kernel(table, ENTRIES * 8, (void *)source);
		return;
	}
	bytes &= ENTRIES * 8 - 1;
	bpf_probe_read_kernel(table, bytes, (void *)(source + ((start >> PAGE_SHIFT) & (ENTRIES - 1)) * 8));
	if (clear)
		bpf_probe_read_kernel((void *)table + bytes, 64, clear);
}

static __always_inline void count_span(const struct count_request *request, const struct span *span,
				       struct entries *table, const struct node_table *nodes, struct counts *out)
{
	u64 entry, upper = pud_table(&request->paging, request->pgd, span->start);
	u32 bin;

	if (!upper)
		return;
	entry = entry_at(upper, span->start, 30);
	if (is_leaf(entry)) {
		if (span->hugetlb)
			add(out, nodes->bin[block_of(entry)], 1);
		return;
	}
	if (!(entry & ENTRY_PRESENT))
		return;
	entry = entry_at(table_at(&request->paging, entry), span->start, REGION_SHIFT);
	if (is_leaf(entry)) {
		if ((upright(entry) & request->paging.address & ~((1ULL << REGION_SHIFT) - 1)) != request->huge_zero &&
		    !(entry & ENTRY_SPECIAL))
			add(out, nodes->bin[block_of(entry)], span->hugetlb ? 1 : span->pages);
		return;
	}
	if (!(entry & ENTRY_PRESENT) || span->hugetlb)
		return;
	copy_entries(table, table_at(&request->paging, entry), span->start, span->pages);
	if (span->pages == ENTRIES && request->contiguous && whole_table_on_one_node(table, nodes, &bin))
		add(out, bin, ENTRIES);
	else
		count_entries(table, nodes, span->pages, out);
}

int count_spans(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct count_request *request = count_request.lookup(&zero);
	struct entries *table = copied.lookup(&zero);
	struct node_table *nodes = node_table.lookup(&zero);

	if (!request || !table || !nodes)
		return 0;
	for (u32 i = 0; i < SPANS_A_RUN; i++) {
		u32 at = request->next;
		struct span *span = spans.lookup(&at);
		struct counts *out = counted.lookup(&at);

		if (at >= request->count || !span || !out)
			return 0;
		__builtin_memset(out, 0, sizeof(*out));
		count_span(request, span, table, nodes, out);
		request->next = at + 1;
	}
	count_again.call(ctx, 0);
	return 0;
}
