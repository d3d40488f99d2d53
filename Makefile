# `make run` and `make test` do all of their set-up themselves (Debian 12 or 13, as root); see scripts/setup.sh.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv/bin
# A test that hangs is stopped with its stack shown; a virtual machine boots and loads programs slowly.
TIMEOUT := 300
VM_TIMEOUT := 2500

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | sort | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: run
run: setup ## Watch the placement of a bundled workload change
	@if [ -t 0 ] && [ -t 1 ]; then \
	  $(VENV)/numatrace live -- $(VENV)/python examples/workload.py --seconds 60 --mib 64; \
	else \
	  $(VENV)/numatrace maps --every 1 -- $(VENV)/python examples/workload.py --seconds 5 --mib 64; \
	fi

.PHONY: setup setup-test setup-bench
setup: ## Install what numatrace needs
	@scripts/setup.sh run
setup-test: ## Install what the tests need as well
	@scripts/setup.sh test
setup-bench: ## Install what the benchmarks compare with as well
	@scripts/setup.sh bench

.PHONY: test
test: lint test-unit test-kernel test-vm ## Lint, then all tests (as root: real BPF here, and in virtual machines)

.PHONY: lint
lint: setup-test ## ruff, mypy --strict and shellcheck
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/shellcheck .ci/run scripts/*.sh tests/vm/*.sh

.PHONY: test-unit test-kernel test-vm
test-unit: setup-test ## Tests that need neither root nor BPF
	$(VENV)/python -m pytest --timeout=$(TIMEOUT) --numprocesses=auto tests/unit
test-kernel: setup-test ## Tests against the running kernel (root)
	$(VENV)/python -m pytest --timeout=$(TIMEOUT) tests/kernel
test-vm: setup-test ## The kernel tests in 4-node virtual machines with several kernels
	$(VENV)/python -m pytest --timeout=$(VM_TIMEOUT) tests/vm

.PHONY: accuracy
accuracy: setup-test ## Make the table of docs/accuracy.md: every kernel and number of nodes, in an hour or two
	$(VENV)/python -m tests.accuracy

.PHONY: soak
# SEED=N does again what that seed did.
soak: setup-test ## Ten minutes of random operations, compared with numa_maps (root; the machine to itself)
	$(VENV)/python -m tests.soak $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: setup-bench ## Measure overhead and speed against other tools, in one run
	$(VENV)/python -m benchmarks

.PHONY: man
man: setup-test ## Make build/numatrace.1 from the parser; see it with man -l
	mkdir -p build
	$(VENV)/argparse-manpage --module tracer.cli.main --function build_parser --format single-commands-section \
	  --project-name numatrace --prog numatrace --manual-title "User Commands" \
	  --description "show where a process's pages live on a NUMA machine, while they move" \
	  --include docs/manpage.h2m --output build/numatrace.1

.PHONY: clean
clean: ## Remove what builds and tests leave, but not .venv and downloaded kernels
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/workloads/bin examples/policy/bin
	find tracer tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# vm, demo, vm-kernels: a virtual machine with four NUMA nodes to try numatrace in.
-include tests/vm/vm.mk
