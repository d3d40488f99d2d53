"""The words that outputs about policies share: a policy, a verdict, a cause, each in one word, and pages by node."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.model.policy import Policy, Spelling
from tracer.model.verdict import CauseCount, Verdict

__all__ = ["MOST_NODES", "by_node", "cause_word", "policy_word", "verdict_word"]

MOST_NODES = 8
"""Nodes that a line has room for; of more it names those that matter most."""


def policy_word(policy: Policy, spelling: Spelling = Spelling.NAMED) -> str:
    """As numa_maps spells it, but in one word, as numactl spells its options: `weighted-interleave:0-3`."""
    return policy.text(spelling).replace(" (many)", "-many").replace(" ", "-")


def verdict_word(verdict: Verdict) -> str:
    """For tables and JSON: `as-promised`."""
    return verdict.name.lower().replace("_", "-")


def cause_word(it: CauseCount) -> str:
    """With the reason of a migration: `moved (numa_misplaced)`."""
    return it.cause.word + (f" ({it.reason})" if it.reason else "")


def by_node(pages: Mapping[int, int]) -> str:
    """`N0=12 N2=3`: node id to pages, most first, as many as there is room for; node -1 stands for several."""
    ranked = sorted(pages.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ranked) - MOST_NODES} nodes more" if len(ranked) > MOST_NODES else ""
    return " ".join(f"{_node(node)}={count}" for node, count in ranked[:MOST_NODES]) + more


def _node(node: int) -> str:
    return f"N{node}" if node >= 0 else "any-of-its-nodes"
