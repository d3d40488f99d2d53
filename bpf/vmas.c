/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The VMAs of a target with their policies, in address order, from the kernel's maple tree (lib/maple_tree.c), without
 * any lock. One leaf of the tree a run, then a tail call for the next one; `from` tells where to go on. A change of the
 * list while it is read shows in mm_lock_seq or in map_count, which the caller compares before and after.
 */
#define VMAS 1024
#define SLOTS 16
#define ARANGE_SLOTS 10
#define DEPTH 8
#define TMPFS_MAGIC 0x01021994
#define TREE_DEPTH 32

struct vma_request {
	u64 mm;
	u64 from; /* in and out: the next address to look at, 0 at the start; ~0 when the list is complete */
	u64 count; /* out: how many were found */
	u64 broken; /* out: 1 when something in the tree made no sense (it changed underneath) */
};

struct vma_found {
	u64 start;
	u64 end;
	u64 flags;
	u64 pgoff;
	u64 file;
	u64 anon_vma;
	u64 block_size; /* of the file's file system: the page size on hugetlbfs */
	u64 policy; /* the mempolicy in force for its first page, 0: the task's */
	u64 nodes[NODE_WORDS];
	u16 policy_mode;
	u16 policy_flags;
	u32 pad;
};

struct maple_node_copy {
	u64 word[32];
};

struct vma_copy {
	u8 byte[VMA_BYTES];
};

BPF_F_TABLE("array", u32, struct vma_request, vma_request, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct vma_found, vmas_found, VMAS, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(maple_node, struct maple_node_copy, 1);
BPF_PERCPU_ARRAY(vma_copied, struct vma_copy, 1);
BPF_PROG_ARRAY(vmas_again, 1);

#define VMA_FIELD(copy, offset) (*(u64 *)((copy)->byte + (offset)))

/* The shared policy of a tmpfs inode at a page index: a red-black tree of ranges (sp_lookup() in mm/mempolicy.c). */
static __always_inline u64 shared_policy(u64 inode, u64 index)
{
	u64 node = read_u64(inode - SHMEM_INODE + SHMEM_POLICY + SHARED_ROOT + ROOT_NODE);

	for (u32 i = 0; i < TREE_DEPTH; i++) {
		u64 entry = node - SP_NODE;

		if (!node)
			return 0;
		if (index >= read_u64(entry + SP_END))
			node = read_u64(node + NODE_RIGHT);
		else if (index < read_u64(entry + SP_START))
			node = read_u64(node + NODE_LEFT);
		else
			return read_u64(entry + SP_POLICY);
	}
	return 0;
}

/* As __get_vma_policy(): a VMA whose operations name get_policy asks there (tmpfs, SysV shm on it), any other itself. */
static __always_inline u64 policy_of(const struct vma_copy *vma, u64 inode, u64 magic)
{
	u64 ops = VMA_FIELD(vma, VMA_OPS);

	if (magic == TMPFS_MAGIC && ops && read_u64(ops + OPS_GET_POLICY))
		return shared_policy(inode, VMA_FIELD(vma, VMA_PGOFF));
	return VMA_FIELD(vma, VMA_POLICY);
}

static __always_inline void fill(struct vma_found *out, const struct vma_copy *vma)
{
	u64 inode, super, magic = 0;

	out->start = VMA_FIELD(vma, VMA_START);
	out->end = VMA_FIELD(vma, VMA_END);
	out->flags = VMA_FIELD(vma, VMA_FLAGS);
	out->pgoff = VMA_FIELD(vma, VMA_PGOFF);
	out->file = VMA_FIELD(vma, VMA_FILE);
	out->anon_vma = VMA_FIELD(vma, VMA_ANON_VMA);
	out->block_size = 0;
	inode = 0;
	if (out->file) {
		inode = read_u64(out->file + FILE_INODE);
		super = read_u64(inode + INODE_SUPER);
		magic = read_u64(super + SUPER_MAGIC);
		out->block_size = read_u64(super + SUPER_BLOCK_SIZE);
	}
	out->policy = policy_of(vma, inode, magic);
	out->policy_mode = 0;
	out->policy_flags = 0;
	if (out->policy)
		read_policy(out->policy, &out->policy_mode, &out->policy_flags, out->nodes);
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
		u32 slots = type == MAPLE_ARANGE ? ARANGE_SLOTS : SLOTS;
		u64 next = 0;

		if (bpf_probe_read_kernel(node, sizeof(*node), (void *)(encoded & ~255ULL)))
			return false;
		if (type == MAPLE_LEAF)
			return true;
		if (type != MAPLE_RANGE && type != MAPLE_ARANGE)
			return false;
		for (u32 i = 0; i < SLOTS; i++) {
			u64 pivot = 0;

			if (i >= slots)
				break;
			if (type == MAPLE_ARANGE)
				next = node->word[(ARANGE_SLOT / 8 + i) & 31];
			else
				next = node->word[(RANGE_SLOT / 8 + i) & 31];
			if (i + 1 < slots) /* the pivots lie at the same place in both kinds */
				pivot = node->word[(RANGE_PIVOT / 8 + i) & 31];
			if (!pivot)
				break;
			if (pivot >= from) {
				*max = pivot;
				break;
			}
		}
		if (!next)
			return false;
		encoded = next;
	}
	return false;
}

int list_vmas(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct vma_request *request = vma_request.lookup(&zero);
	struct maple_node_copy *node = maple_node.lookup(&zero);
	struct vma_copy *vma = vma_copied.lookup(&zero);
	u64 max, reach = 0;

	if (!request || !node || !vma || request->from == ~0ULL)
		return 0;
	if (!find_leaf(request->mm, request->from, node, &max)) {
		request->broken = 1;
		return 0;
	}
	for (u32 i = 0; i < SLOTS; i++) {
		u64 slot = node->word[(RANGE_SLOT / 8 + i) & 31];
		u64 pivot = i + 1 < SLOTS ? node->word[(RANGE_PIVOT / 8 + i) & 31] : 0;
		u32 at = request->count;
		struct vma_found *out;

		reach = pivot ? pivot : max;
		if (slot && reach >= request->from) {
			out = vmas_found.lookup(&at);
			if (!out) /* the list is full: the caller takes it and goes on from `from` */
				return 0;
			if (bpf_probe_read_kernel(vma, sizeof(*vma), (void *)slot) ||
			    VMA_FIELD(vma, VMA_MM) != request->mm) {
				request->broken = 1;
				return 0;
			}
			fill(out, vma);
			request->count = at + 1;
			request->from = out->end;
		}
		if (!pivot || pivot >= max)
			break;
	}
	if (max == ~0ULL) {
		request->from = ~0ULL;
		return 0;
	}
	request->from = max + 1;
	vmas_again.call(ctx, 0);
	return 0;
}
