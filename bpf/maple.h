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

/* Which slot of a node covers an index, and what lies in it; `max` becomes the last index that the slot covers. */
static __always_inline u64 slot_for(const struct maple_node_copy *node, u32 type, u64 index, u64 *max)
{
	u32 slots = type == MAPLE_ARANGE ? ARANGE_SLOTS : SLOTS;
	u64 next = 0;

	for (u32 i = 0; i < SLOTS; i++) {
		u64 pivot = 0;

		if (i >= slots)
			break;
		if (type == MAPLE_ARANGE)
			next = node->word[(ARANGE_SLOT / 8 + i) & 31];
		else
			next = node->word[(RANGE_SLOT / 8 + i) & 31];
		if (i + 1 < slots) /* the pivots lie at the same place in all kinds */
			pivot = node->word[(RANGE_PIVOT / 8 + i) & 31];
		if (!pivot)
			break;
		if (pivot >= index) {
			*max = pivot;
			break;
		}
	}
	return next;
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
