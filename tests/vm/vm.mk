# A virtual machine with several NUMA nodes to try numatrace in; for the Makefile, which includes this.
# Choose with: make vm KERNEL=6.1|6.12|newest SHAPE=2-nodes|4-nodes|8-nodes|memory-only|hole (hole: not with KERNEL=6.1)
KERNEL ?= newest
SHAPE ?= 4-nodes

.PHONY: vm demo vm-kernels
vm: setup-test ## A shell in a virtual machine with four NUMA nodes
	$(VENV)/python tests/vm/machine.py --kernel $(KERNEL) --shape $(SHAPE)

demo: setup-test ## Watch an interleaved process being migrated, in that machine
	$(VENV)/python tests/vm/machine.py --kernel $(KERNEL) --shape $(SHAPE) -- $(abspath $(VENV))/python tests/vm/demo.py

vm-kernels: setup-test ## Look for newer kernels for the virtual machines
	$(VENV)/python tests/vm/kernels.py --refresh
