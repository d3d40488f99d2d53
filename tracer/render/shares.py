"""What a policy promises, in words: one line that somebody who never read set_mempolicy(2) understands."""

from __future__ import annotations

from tracer.model.placement import Expectation, Promise
from tracer.model.policy import F_NUMA_BALANCING, F_RELATIVE_NODES, F_STATIC_NODES, Mode, Policy, format_nodes

__all__ = ["expected_word", "meaning"]


def meaning(policy: Policy, expected: Expectation) -> str:
    """Where pages that are allocated under it lie. expected: what `tracer.model.placement.expectation` says of it."""
    return _where(policy, expected) + "".join(f"; {words}" for flag, words in _FLAGS.items() if policy.flags & flag)


_FLAGS = {
    F_STATIC_NODES: "keeps its nodes when the cpuset changes",
    F_RELATIVE_NODES: "its nodes count within the cpuset",
    F_NUMA_BALANCING: "NUMA balancing may move pages among them",
}


def _where(policy: Policy, expected: Expectation) -> str:
    touch = "the node of the CPU that touches a page first"
    promise = expected.promise
    if promise is Promise.UNKNOWN:
        return "a policy that this version does not know"
    if promise is Promise.TOUCH:
        return f"no policy: {touch}" if policy.mode == Mode.DEFAULT else touch
    if not expected.nodes:
        return f"none of its nodes has memory: {touch}"
    nodes = "N" + format_nodes(expected.nodes) + ("" if expected.whole else ",...")
    if promise is Promise.PREFER:
        return f"{nodes} while it has room, else the nearest node"
    if promise is Promise.PREFER_MANY:
        return f"of {nodes} the nearest with room, else any node"
    if promise is Promise.WITHIN:
        return f"only {nodes}" if len(expected.nodes) == 1 and expected.whole else f"only {nodes}, the nearest first"
    if policy.mode == Mode.WEIGHTED_INTERLEAVE:
        return f"page by page over {nodes} in turn, as often as their weights say"
    return f"page by page over {nodes} in turn"


def expected_word(policy: Policy, expected: Expectation, node: int) -> str:
    """Instead of a share where none is known: what decides about this node. Empty for one that should have no page."""
    if expected.promise is Promise.UNKNOWN or not expected.allows(node):
        return "" if expected.promise is not Promise.UNKNOWN else "?"
    if expected.promise is Promise.SPREAD and expected.nodes:
        return "by weight" if policy.mode == Mode.WEIGHTED_INTERLEAVE and expected.whole else "?"
    return {Promise.WITHIN: "within", Promise.PREFER_MANY: "preferred"}.get(expected.promise, "by touch")
