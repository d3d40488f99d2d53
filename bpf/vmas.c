/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The VMAs of a target with their policies, in address order, from the kernel's maple tree (lib/maple_tree.c), without
 * any lock: either each of them, in ranges of addresses, or one digest a leaf of the tree, which tells where something
 * differs from what was read before. One leaf a run, then a tail call for the next one; `from` tells where to go on.
 * A change of the list while it is read shows in mm_lock_seq, or in a second look, which the caller sees to.
 */
#define VMAS 1024
#define LEAVES 4096
#define RANGES 1024
#define TMPFS_MAGIC 0x01021994
#define TREE_DEPTH 32
#define NAME_WORDS 10 /* ANON_VMA_NAME_MAX_LEN, include/linux/mm_inline.h */
#define COMPLETE (~0ULL)

struct vma_request {
	u64 mm;
	u64 summing; /* 1: digests of leaves into vma_leaves, 0: VMAs into vmas_found */
	u64 from; /* in and out: the next address to look at; COMPLETE when the range is done */
	u64 until; /* end of the range, excluded */
	u64 next; /* in and out: index of the range in vma_ranges that follows */
	u64 ranges; /* how many there are */
	u64 count; /* out: how many VMAs or leaves were found */
	u64 broken; /* out: 1 when something in the tree made no sense (it changed underneath) */
};

struct vma_range {
	u64 from;
	u64 until;
};

/* A leaf covers the addresses from `from` up to `until`, and the leaves cover all addresses. */
struct vma_leaf {
	u64 from;
	u64 until;
	u64 digest; /* of everything in struct vma_found, summed up (leaf_digests() in vma_list.py); never 0 */
	u64 count;
};

struct vma_found {
	u64 start;
	u64 end;
	u64 flags;
	u64 pgoff;
	u64 file;
	u64 ops; /* vm_ops, 0 for ordinary anonymous memory */
	u64 inode; /* of the file; without one, what the operations keep (the description of a special mapping) */
	u64 ino;
	u64 name; /* changes with the file's own name and its being unlinked, or with the name given by prctl */
	u64 block_size; /* of the file's file system: the page size on hugetlbfs */
	u64 policy; /* the mempolicy in force for its first page, 0: the task's */
	u64 nodes[NODE_WORDS];
	u16 policy_mode;
	u16 policy_flags;
	u32 device; /* of the file system */
	u64 digest; /* of all that stands above */
	u64 anon_vma; /* comes with the first fault, without any lock for writing */
};

struct vma_copy {
	u8 byte[VMA_BYTES];
};

/* What is read from a VMA's file and name; the same for many VMAs in a row. */
struct vma_backing {
	u64 file;
	u64 anon_name;
	u64 inode;
	u64 ino;
	u64 name;
	u64 magic;
	u64 block_size;
	u64 device;
};

struct vma_scratch {
	struct vma_copy vma;
	struct vma_found found;
	u64 text[NAME_WORDS];
};

BPF_F_TABLE("array", u32, struct vma_request, vma_request, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct vma_range, vma_ranges, RANGES, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct vma_found, vmas_found, VMAS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct vma_leaf, vma_leaves, LEAVES, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(vma_scratch, struct vma_scratch, 1);
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

static __always_inline u64 mix(u64 digest, u64 word)
{
	digest = (digest ^ word) * 0x9e3779b97f4a7c15ULL;
	return digest ^ (digest >> 32);
}

#ifdef VMA_ANON_NAME
/* PR_SET_VMA_ANON_NAME; the text itself, because the kernel may use its place again for another one. */
static __always_inline u64 name_digest(u64 anon_name, u64 *text)
{
	u64 digest = 1;

	for (u32 i = 0; i < NAME_WORDS; i++)
		text[i] = 0;
	bpf_probe_read_kernel_str(text, NAME_WORDS * 8, (void *)(anon_name + ANON_NAME_TEXT));
	for (u32 i = 0; i < NAME_WORDS; i++)
		digest = mix(digest, text[i]);
	return digest;
}
#endif

static __always_inline void read_file(struct vma_backing *b)
{
	u64 dentry = read_u64(b->file + FILE_DENTRY);
	u64 super;

	b->inode = read_u64(b->file + FILE_INODE);
	b->ino = read_u64(b->inode + INODE_NUMBER);
	super = read_u64(b->inode + INODE_SUPER);
	b->magic = read_u64(super + SUPER_MAGIC);
	b->block_size = read_u64(super + SUPER_BLOCK_SIZE);
	b->device = read_u32(super + SUPER_DEVICE);
	/* The hash of a name goes over its directory, too (full_name_hash() in fs/namei.c); unlinked: d_unhashed(). */
	b->name = mix(mix(dentry, read_u64(dentry + DENTRY_NAME)), !read_u64(dentry + DENTRY_HASHED));
}

static __always_inline void read_backing(struct vma_backing *b, const struct vma_copy *vma, u64 *text)
{
	u64 file = VMA_FIELD(vma, VMA_FILE), anon_name = 0;

#ifdef VMA_ANON_NAME
	if (ANON_NAME_APART || !file)
		anon_name = VMA_FIELD(vma, VMA_ANON_NAME);
#endif
	if (file == b->file && anon_name == b->anon_name && file)
		return;
	b->file = file;
	b->anon_name = anon_name;
	b->inode = VMA_FIELD(vma, VMA_PRIVATE);
	b->ino = b->name = b->magic = b->block_size = b->device = 0;
	if (file)
		read_file(b);
#ifdef VMA_ANON_NAME
	if (anon_name)
		b->name = mix(b->name, name_digest(anon_name, text));
#endif
}

static __always_inline void fill(struct vma_found *out, const struct vma_copy *vma, const struct vma_backing *b)
{
	u64 digest = 0;

	out->start = VMA_FIELD(vma, VMA_START);
	out->end = VMA_FIELD(vma, VMA_END);
	out->flags = VMA_FIELD(vma, VMA_FLAGS);
	out->pgoff = VMA_FIELD(vma, VMA_PGOFF);
	out->file = b->file;
	out->ops = VMA_FIELD(vma, VMA_OPS);
	out->inode = b->file || out->ops ? b->inode : 0;
	out->ino = b->ino;
	out->name = b->name;
	out->block_size = b->block_size;
	out->device = b->device;
	out->policy = policy_of(vma, b->inode, b->magic);
	out->policy_mode = 0;
	out->policy_flags = 0;
	for (u32 i = 0; i < NODE_WORDS; i++)
		out->nodes[i] = 0;
	if (out->policy)
		read_policy(out->policy, &out->policy_mode, &out->policy_flags, out->nodes);
	for (u32 i = 0; i < __builtin_offsetof(struct vma_found, digest) / 8; i++)
		digest = mix(digest, ((u64 *)out)[i]);
	out->digest = digest | 1;
	out->anon_vma = VMA_FIELD(vma, VMA_ANON_VMA);
}

/* Begin with the next range, when one is done. */
static __always_inline bool has_range(struct vma_request *request)
{
	u32 at = request->next;
	struct vma_range *range;

	if (request->from != COMPLETE)
		return true;
	if (at >= request->ranges)
		return false;
	range = vma_ranges.lookup(&at);
	if (!range)
		return false;
	request->next = at + 1;
	request->from = range->from;
	request->until = range->until;
	return true;
}

/* Put a VMA into the list; false when that is full. */
static __always_inline bool append(struct vma_request *request, const struct vma_found *found)
{
	u32 at = request->count;
	struct vma_found *out = vmas_found.lookup(&at);

	if (!out)
		return false;
	*out = *found;
	request->count = at + 1;
	request->from = found->end;
	return true;
}

int list_vmas(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0, at;
	struct vma_request *request = vma_request.lookup(&zero);
	struct maple_node_copy *node = maple_node.lookup(&zero);
	struct vma_scratch *scratch = vma_scratch.lookup(&zero);
	struct vma_backing backing = {};
	struct vma_leaf *leaf;
	u64 max, from, reach = 0, digest = 0, found = 0;

	if (!request || !node || !scratch || !has_range(request))
		return 0;
	from = request->from;
	if (!find_leaf(request->mm, from, node, &max)) {
		request->broken = 1;
		return 0;
	}
	for (u32 i = 0; i < SLOTS; i++) {
		u64 slot = node->word[(RANGE_SLOT / 8 + i) & 31];
		u64 pivot = i + 1 < SLOTS ? node->word[(RANGE_PIVOT / 8 + i) & 31] : 0;

		reach = pivot ? pivot : max;
		if (slot && reach >= from) {
			if (bpf_probe_read_kernel(&scratch->vma, sizeof(scratch->vma), (void *)slot) ||
			    VMA_FIELD(&scratch->vma, VMA_MM) != request->mm) {
				request->broken = 1;
				return 0;
			}
			if (VMA_FIELD(&scratch->vma, VMA_START) >= request->until)
				break;
			read_backing(&backing, &scratch->vma, scratch->text);
			fill(&scratch->found, &scratch->vma, &backing);
			digest += mix(scratch->found.digest, scratch->found.anon_vma);
			found++;
			/* When it is full, the caller takes it, and goes on from `from`. */
			if (!request->summing && !append(request, &scratch->found))
				return 0;
		}
		if (!pivot || pivot >= max)
			break;
	}
	if (request->summing) {
		at = request->count;
		leaf = vma_leaves.lookup(&at);
		if (!leaf) /* here, too */
			return 0;
		leaf->from = from;
		leaf->until = max == ~0ULL ? max : max + 1;
		leaf->digest = digest | 1;
		leaf->count = found;
		request->count = at + 1;
	}
	request->from = max == ~0ULL || max + 1 >= request->until ? COMPLETE : max + 1;
	vmas_again.call(ctx, 0);
	return 0;
}
