/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Any version does: raw tracepoint programs are not checked for one. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
