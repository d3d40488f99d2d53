/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Where the direct map begins (KASLR moves it in steps of 1 GiB), how many levels the page tables have, and where the
 * user registers lie on a kernel stack. All of it is learnt on the calling process, about which everything is known.
 */
#define STEPS 4
#define GIB (1ULL << 30)

struct calibration {
	u64 address;    /* in: a page of the caller's that is present as a 4 KiB page */
	u64 physical;   /* in: its physical address, from pagemap */
	u64 from;       /* in: first guess of the direct map base; the next ones lie STEPS times 1 GiB below */
	u64 mask;       /* in: address bits of an entry */
	u64 five;       /* in */
	u64 found;      /* out: the base, or 0 */
	u64 pgd;        /* out */
	u64 mm;         /* out */
	u64 task;       /* out */
	u64 stack;      /* out: base of the kernel stack */
	u64 registers;  /* out: offset of struct pt_regs in the kernel stack, or 0 */
	u64 system_call; /* in: number of bpf(2) */
	u64 command;    /* in: its first argument */
};
BPF_F_TABLE("array", u32, struct calibration, calibration, 1, BPF_F_MMAPABLE);

/* The registers end at the top of the stack, or 16 bytes below it where FRED is configured (asm/thread_info.h). */
static __always_inline u64 find_registers(const struct calibration *c)
{
	u64 found = 0;

#pragma unroll
	for (u32 i = 0; i < 8; i++) {
		u64 offset = (8192ULL << (i >> 1)) - REGS_SIZE - (i & 1) * 16;

		if (!found && read_u64(c->stack + offset + REGS_ORIG_AX) == c->system_call &&
		    (u32)read_u64(c->stack + offset + REGS_DI) == c->command)
			found = offset;
	}
	return found;
}

int calibrate(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct calibration *c = calibration.lookup(&zero);
	struct paging paging = {};

	if (!c)
		return 0;
	c->task = bpf_get_current_task();
	c->mm = read_u64(c->task + TASK_MM);
	c->pgd = read_u64(c->mm + MM_PGD);
	c->stack = read_u64(c->task + TASK_STACK);
	c->registers = find_registers(c);
	c->found = 0;
	paging.address = c->mask;
	paging.five = c->five;
	for (u32 i = 0; i < STEPS; i++) {
		struct leaf leaf;

		paging.direct_map = c->from - (u64)i * GIB;
		leaf = walk_to_leaf(&paging, c->pgd, c->address);
		if (leaf.level == 1 && (leaf.entry & ENTRY_PRESENT) && (leaf.entry & c->mask) == c->physical) {
			c->found = paging.direct_map;
			break;
		}
	}
	return 0;
}
