/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Page-table entries of a target, read through the kernel's direct map (x86-64, 4 or 5 levels). */
#pragma once

/* How to get from a physical address in an entry to a pointer; learnt by calibrate.c. */
struct paging {
	u64 direct_map; /* virtual address of physical address 0 */
	u64 address;    /* ENTRY_ADDRESS less a memory encryption bit */
	u64 five;       /* 1: five levels */
};

struct leaf {
	u64 entry; /* 0: nothing mapped */
	u32 level; /* 1: 4 KiB, 2: 2 MiB, 3: 1 GiB */
	u32 pad;
};

static __always_inline u64 table_at(const struct paging *p, u64 entry)
{
	return p->direct_map + (entry & p->address);
}

static __always_inline u64 entry_at(u64 table, u64 address, u32 shift)
{
	return read_u64(table + ((address >> shift) & (ENTRIES - 1)) * 8);
}

/* The PUD table that covers an address, 0 when there is none. */
static __always_inline u64 pud_table(const struct paging *p, u64 pgd, u64 address)
{
	u64 entry;

	if (p->five) {
		entry = entry_at(pgd, address, 48);
		if (!(entry & ENTRY_PRESENT))
			return 0;
		pgd = table_at(p, entry);
	}
	entry = entry_at(pgd, address, 39);
	return entry & ENTRY_PRESENT ? table_at(p, entry) : 0;
}

/*
 * A leaf above the last level keeps _PAGE_PSE while a split has cleared its present bit for a moment, so PSE alone
 * tells (pmd_present() in arch/x86/include/asm/pgtable.h; swap entries leave that bit clear).
 */
static __always_inline bool is_leaf(u64 entry)
{
	return entry & ENTRY_LEAF;
}

/* The entry of a 4 KiB, 2 MiB or 1 GiB mapping at an address, also one that is not present (swap, migration). */
static __always_inline struct leaf walk_to_leaf(const struct paging *p, u64 pgd, u64 address)
{
	struct leaf found = {};
	u64 table = pud_table(p, pgd, address);

	if (!table)
		return found;
	found.level = 3;
	found.entry = entry_at(table, address, 30);
	if (is_leaf(found.entry) || !(found.entry & ENTRY_PRESENT))
		return found;
	found.level = 2;
	found.entry = entry_at(table_at(p, found.entry), address, 21);
	if (is_leaf(found.entry) || !(found.entry & ENTRY_PRESENT))
		return found;
	found.level = 1;
	found.entry = entry_at(table_at(p, found.entry), address, 12);
	return found;
}

/* The entry alone. Opaque, or else each way through the walk would be a state of its own to the verifier from there on. */
static __always_inline u64 leaf_entry(const struct paging *p, u64 pgd, u64 address)
{
	u64 entry = walk_to_leaf(p, pgd, address).entry;

	opaque(entry);
	return entry;
}

/* Bits above the flags, with the inversion undone that non-present entries carry against L1TF (pgtable-invert.h). */
static __always_inline u64 upright(u64 entry)
{
	return entry ^ ((entry & ENTRY_PRESENT) - 1);
}

/* 1 when the entry maps a page that numa_maps could count: present or PROT_NONE, and not special. */
static __always_inline u64 maps_page(u64 entry)
{
	return (entry | entry >> 8) & ~(entry >> 9) & 1;
}
