"""What the kernel tells: BPF programs, BTF, page tables, VMAs, /proc and /sys."""
