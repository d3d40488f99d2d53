"""Tests of policies that do not give the spread they promise, on the examples of examples/policy, where there are
several nodes (tests/vm/machine.py)."""
