/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From physical address to node: a byte per block of memory, scaled by BIN_STEP so that it can be a shift. */
#pragma once

struct node_table {
	u8 bin[BLOCKS];
};
BPF_F_TABLE("array", u32, struct node_table, node_table, 1, BPF_F_MMAPABLE);

static __always_inline u64 block_of(u64 entry)
{
	return (upright(entry) >> BLOCK_SHIFT) & (BLOCKS - 1);
}
