/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The least that a BPF program on the page-fault tracepoint can do: no tracer that uses it can cost less. */
int empty(struct bpf_raw_tracepoint_args *ctx)
{
	return 0;
}
