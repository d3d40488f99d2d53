/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which span an address belongs to: where the VMA or the region begins, whichever comes last. So that events can be
 * counted per VMA though a region may hold several.
 */
#pragma once

/* Changes whenever the VMA list does; where the kernel has no such counter (6.1), with the number and size of VMAs. */
static __always_inline u64 list_state(u64 mm)
{
#ifdef MM_LOCK_SEQ
	return read_u32(mm + MM_LOCK_SEQ);
#else
	return (u64)read_u32(mm + MM_MAP_COUNT) << 40 ^ read_u64(mm + MM_TOTAL_VM);
#endif
}

/* The number of the first page of the span; where no VMA holds the address, that of the region. */
static __always_inline u64 span_of(struct cpu *cpu, u64 mm, u64 address)
{
	u64 region = address >> REGION_SHIFT << REGION_SHIFT, list = list_state(mm) ^ mm, max, vma;
	struct maple_node_copy *node;
	struct bounds b;
	u32 zero = 0;

	if (cpu->vma_list != list || !holds(cpu->vma, mm, address, &b)) {
		node = maple_node.lookup(&zero);
		if (!node || !find_leaf(mm, address, node, &max))
			return region >> PAGE_SHIFT;
		vma = slot_for(node, MAPLE_LEAF, address, &max);
		if (!holds(vma, mm, address, &b))
			return region >> PAGE_SHIFT;
		cpu->vma = vma;
		cpu->vma_list = list;
	}
	return (b.start > region ? b.start : region) >> PAGE_SHIFT;
}
