# A virtual machine with several NUMA nodes to try numatrace in; for the Makefile, which includes this.
# Choose with: make vm KERNEL=6.1|6.12|newest SHAPE=2-nodes|4-nodes|8-nodes|memory-only|tiers|hole
# (not with KERNEL=6.1: hole, tiers)
KERNEL ?= newest
SHAPE ?= 4-nodes

.PHONY: vm demo demo-policy vm-kernels bench-vm
vm: setup-test ## A shell in a virtual machine with four NUMA nodes
	$(VENV)/python tests/vm/machine.py --kernel $(KERNEL) --shape $(SHAPE)

demo: setup-test ## Watch an interleaved process being migrated, in that machine
	$(VENV)/python tests/vm/machine.py --kernel $(KERNEL) --shape $(SHAPE) -- $(abspath $(VENV))/python tests/vm/demo.py

demo-policy: setup-test ## See why pages do not lie where policies promise, in that machine, for each classical mistake
	$(MAKE) --silent -C examples/policy
	$(VENV)/python tests/vm/machine.py --kernel $(KERNEL) --shape $(SHAPE) -- $(abspath $(VENV))/python tests/vm/demo_policy.py

bench-vm: setup-bench setup-test ## Measure what tracing costs a migration of 2 GiB, in a machine with two nodes
	$(VENV)/python tests/vm/machine.py --kernel $(KERNEL) --shape large -- $(abspath $(VENV))/python -m benchmarks migration

vm-kernels: setup-test ## Look for newer kernels for the virtual machines
	$(VENV)/python tests/vm/kernels.py --refresh
