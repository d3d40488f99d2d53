/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The VMA that holds an address, from the mm's maple tree (lib/maple_tree.c), without any lock. */
#pragma once

#define SLOTS 16
#define ARANGE_SLOTS 10
#define DEPTH 8

struct maple_node_copy {
	u64 word[32];
};

BPF_PERCPU_ARRAY(maple_node, struct maple_node_copy, 1);

/*
 * Which slot of a node covers an index, and what lies in it; `max` becomes the last index that the slot covers. Pivots
 * ascend and end with 0 where the node is not full. Without branches: for the verifier each of them would be a program
 * of its own from there on.
 */
static __always_inline u64 slot_for(const struct maple_node_copy *node, u32 type, u64 index, u64 *max)
{
	u64 arange = ((u64)(type ^ MAPLE_ARANGE) - 1) >> 63, go = 1, at = 0, pivot, found;
	u64 pivots = SLOTS - 1 - arange * (SLOTS - ARANGE_SLOTS);
	u64 base = RANGE_SLOT / 8 + arange * (ARANGE_SLOT / 8 - RANGE_SLOT / 8);

	opaque(pivots);
	opaque(base);
	for (u32 i = 0; i < SLOTS - 1; i++) {
		/* The pivots lie at the same place in all kinds. */
		pivot = node->word[(RANGE_PIVOT / 8 + i) & 31] & ~(1ULL << 63);
		opaque(pivot); /* or clang turns the sums back into branches */
		go &= (0 - pivot) >> 63;     /* there is a pivot, */
		go &= (pivot - index) >> 63; /* and it is below the index, */
		go &= (i - pivots) >> 63;    /* and it is a pivot and not a slot */
		opaque(go);
		at += go;
	}
	opaque(at);
	pivot = node->word[(RANGE_PIVOT / 8 + at) & 31];
	found = pivot & ~(1ULL << 63);
	opaque(found);
	found = (at - pivots) >> 63 & (0 - found) >> 63;
	opaque(found);
	*max = (*max & (found - 1)) | (pivot & (0 - found));
	return node->word[(base + at) & 31];
}

/* Go down to the leaf that covers `from`; leaves it in `node` and the last index it covers in `max`. */
static __always_inline bool find_leaf(u64 mm, u64 from, struct maple_node_copy *node, u64 *max)
{
	u64 encoded = read_u64(mm + MM_TREE + TREE_ROOT);

	*max = ~0ULL;
	/* xa_is_node() and not a lone entry: the root of a tree of nodes carries 2 in its low bits. */
	if ((encoded & 3) != 2)
		return false;
	encoded &= ~2ULL;
	for (u32 depth = 0; depth < DEPTH; depth++) {
		u32 type = (encoded >> 3) & 15;

		if (bpf_probe_read_kernel(node, sizeof(*node), (void *)(encoded & ~255ULL)))
			return false;
		if (type == MAPLE_LEAF)
			return true;
		if (type != MAPLE_RANGE && type != MAPLE_ARANGE)
			return false;
		opaque(type); /* the verifier would go on with each kind by itself, and so at each depth */
		encoded = slot_for(node, type, from, max);
		if (!encoded)
			return false;
	}
	return false;
}

struct bounds {
	u64 start;
	u64 end;
};

static __always_inline bool holds(u64 vma, u64 mm, u64 address, struct bounds *b)
{
	if (!vma || bpf_probe_read_kernel(b, sizeof(*b), (void *)(vma + VMA_START)))
		return false;
	return b->start <= address && address < b->end && read_u64(vma + VMA_MM) == mm;
}
