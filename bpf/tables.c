/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Whole page tables as they are, and single entries: which regions exist (upper levels), what a fault left behind,
 * and the raw entries that `--full` needs. Run on demand, as count.c.
 */
#define TABLES 64

struct table_request {
	struct paging paging;
	u64 pgd;
	u32 next;
	u32 count;
};

struct table_wanted {
	u64 address;
	u64 level; /* 1: the PTE table, 2: PMD, 3: PUD; 0: only the leaf entry at the address */
};

struct table_found {
	u64 leaf;  /* a leaf entry above the wanted level, or the entry asked for */
	u32 level; /* of that leaf */
	u32 whole; /* 1: the table was copied */
};

struct raw_table {
	u64 entry[ENTRIES];
};

BPF_F_TABLE("array", u32, struct table_request, table_request, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct table_wanted, tables_wanted, TABLES, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct table_found, tables_found, TABLES, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct raw_table, raw_tables, TABLES, BPF_F_MMAPABLE);
BPF_PROG_ARRAY(tables_again, 1);

static __always_inline void read_table(const struct table_request *request, const struct table_wanted *wanted,
				       struct table_found *found, struct raw_table *raw)
{
	u64 entry, table;

	if (!wanted->level) {
		struct leaf leaf = walk_to_leaf(&request->paging, request->pgd, wanted->address);

		found->leaf = leaf.entry;
		found->level = leaf.level;
		return;
	}
	table = pud_table(&request->paging, request->pgd, wanted->address);
	if (!table)
		return;
	if (wanted->level < 3) {
		entry = entry_at(table, wanted->address, 30);
		found->level = 3;
		if (is_leaf(entry))
			found->leaf = entry;
		if (is_leaf(entry) || !(entry & ENTRY_PRESENT))
			return;
		table = table_at(&request->paging, entry);
	}
	if (wanted->level < 2) {
		entry = entry_at(table, wanted->address, REGION_SHIFT);
		found->level = 2;
		if (is_leaf(entry))
			found->leaf = entry;
		if (is_leaf(entry) || !(entry & ENTRY_PRESENT))
			return;
		table = table_at(&request->paging, entry);
	}
	found->whole = bpf_probe_read_kernel(raw, sizeof(*raw), (void *)table) == 0;
}

int read_tables(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0, at;
	struct table_request *request = table_request.lookup(&zero);
	struct table_wanted *wanted;
	struct table_found *found;
	struct raw_table *raw;

	if (!request)
		return 0;
	at = request->next;
	wanted = tables_wanted.lookup(&at);
	found = tables_found.lookup(&at);
	raw = raw_tables.lookup(&at);
	if (at >= request->count || !wanted || !found || !raw)
		return 0;
	__builtin_memset(found, 0, sizeof(*found));
	read_table(request, wanted, found, raw);
	request->next = at + 1;
	tables_again.call(ctx, 0);
	return 0;
}
