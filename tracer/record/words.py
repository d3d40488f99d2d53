"""Words and numbers that stand for the values of the model in a recording, and the way back."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from tracer.model.events import Kind as FaultKind
from tracer.model.policy import BUFFER_BYTES, Policy, Spelling, format_nodes, parse_nodes
from tracer.model.vma import Kind

__all__ = ["FAULT_WORDS", "VMA_WORDS", "nodes_from", "policy_from", "policy_text", "raw_bytes", "text_and_raw"]

VMA_WORDS = {kind: kind.value or "anon" for kind in Kind}
FAULT_WORDS = tuple(kind.name.lower() for kind in FaultKind)
"""In the order of their numbers."""

_MOST_NODE = 1 << 16
"""No kernel has a node id as high; a damaged list of nodes must not become a range of milliards."""


def text_and_raw(name: bytes) -> tuple[str, bytes | None]:
    """A name as text, and its bytes only where the text does not say them."""
    try:
        return name.decode("utf-8"), None
    except UnicodeDecodeError:
        return name.decode("utf-8", "backslashreplace"), name


def raw_bytes(text: str | None, raw: bytes | None) -> bytes:
    """The reverse of `text_and_raw`; a name that is missing is empty."""
    return (text or "").encode("utf-8") if raw is None else raw


def policy_text(policy: Policy, spelling: Spelling) -> str:
    """As the kernel prints it, but never cut after 63 characters, unless it is known only so."""
    text = policy.text(spelling)
    if policy.printed or len(text) < BUFFER_BYTES - 1:
        return text
    return f"{replace(policy, nodes=()).text(spelling)}:{format_nodes(policy.nodes)}"


def nodes_from(text: str | None) -> tuple[int, ...]:
    """The reverse of `format_nodes`; none where there is no text. ValueError for what cannot be a list of nodes."""
    text = text or ""
    if any(int(number) > _MOST_NODE for number in text.replace("-", ",").split(",") if text):
        raise ValueError(f"no such node: {text}")
    return parse_nodes(text)


@lru_cache(4096)
def policy_from(mode: int, flags: int, nodes: str | None, text: str | None, spelling: Spelling) -> Policy:
    """The reverse: `text` is what `policy_text` gave. ValueError when `nodes` is no list of nodes."""
    policy = Policy(mode, flags, nodes_from(nodes))
    text = text or ""
    return policy if policy_text(policy, spelling) == text else replace(policy, printed=text)
