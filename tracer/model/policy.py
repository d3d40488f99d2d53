"""Memory policies (NUMA mempolicy) and their spelling in numa_maps.

What is spelled here is what `mpol_to_str()` (mm/mempolicy.c) writes into the 64-byte buffer of `show_numa_map()`
(fs/proc/task_mmu.c), and what the first numa_maps (Linux 2.6.14, commit 6e21c8f145f5) printed in 2005.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "BUFFER_BYTES",
    "DEFAULT",
    "F_NUMA_BALANCING",
    "F_RELATIVE_NODES",
    "F_STATIC_NODES",
    "MODE_FLAGS",
    "Mode",
    "Policy",
    "Spelling",
    "format_nodes",
    "parse_nodes",
]

F_NUMA_BALANCING = 1 << 13
F_RELATIVE_NODES = 1 << 14
F_STATIC_NODES = 1 << 15
MODE_FLAGS = F_NUMA_BALANCING | F_RELATIVE_NODES | F_STATIC_NODES
"""`MPOL_MODE_FLAGS` of include/uapi/linux/mempolicy.h. Other bits of `mempolicy.flags` are the kernel's own."""

BUFFER_BYTES = 64
"""Size of the buffer in show_numa_map(), with the final NUL: a policy has at most 63 characters."""


class Mode(enum.IntEnum):
    """`enum` of include/uapi/linux/mempolicy.h; weighted interleave exists from 6.9 on."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4
    PREFERRED_MANY = 5
    WEIGHTED_INTERLEAVE = 6


class Spelling(enum.Enum):
    """How the running kernel spells a policy that has MPOL_F_NUMA_BALANCING.

    It is a property of the kernel and cannot be told from its version, because the change was backported: find it
    out by giving a thread of our own the policy bind with that flag, and `of()` what numa_maps then says.

    NAMED: `bind=balancing:0-1`, since af649773fb25 (6.11, and the stable trees of August 2024).
    HIDDEN: before that the flag's companion MPOL_F_MORON turned the whole policy into `default`.
    BARE: a kernel that knows the flag but has no word for it, and leaves the `=` alone: `bind=:0-1`.
    """

    NAMED = "named"
    HIDDEN = "hidden"
    BARE = "bare"

    @classmethod
    def of(cls, printed: str) -> Spelling:
        """The spelling of a kernel that prints `printed` for the policy bind with MPOL_F_NUMA_BALANCING."""
        if "balancing" in printed:
            return cls.NAMED
        return cls.BARE if printed.startswith("bind") else cls.HIDDEN


_WORDS = {
    Mode.DEFAULT: "default",
    Mode.PREFERRED: "prefer",
    Mode.BIND: "bind",
    Mode.INTERLEAVE: "interleave",
    Mode.LOCAL: "local",
    Mode.PREFERRED_MANY: "prefer (many)",
    Mode.WEIGHTED_INTERLEAVE: "weighted interleave",
}
_MODES = {word: mode for mode, word in _WORDS.items()}
_WORDS_2005 = _WORDS | {Mode.PREFERRED_MANY: "prefer-many", Mode.WEIGHTED_INTERLEAVE: "weighted-interleave"}
_FLAGS = {"static": F_STATIC_NODES, "relative": F_RELATIVE_NODES, "balancing": F_NUMA_BALANCING}
_UNKNOWN = "unknown"
_UNKNOWN_MODE = -1


def format_nodes(nodes: Iterable[int]) -> str:
    """Node ids, ascending, as the kernel's `%*pbl` prints a bitmap: `0-1,3`."""
    runs: list[list[int]] = []
    for node in nodes:
        if runs and node == runs[-1][1] + 1:
            runs[-1][1] = node
        else:
            runs.append([node, node])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_nodes(text: str) -> tuple[int, ...]:
    """The reverse of `format_nodes`. ValueError for anything that is not a list of ids and ranges."""
    nodes: list[int] = []
    for item in text.split(",") if text else ():
        first, dash, last = item.partition("-")
        nodes.extend(range(int(first), int(last if dash else first) + 1))
    return tuple(nodes)


@dataclass(frozen=True, slots=True)
class Policy:
    """mode: a `Mode` value, kept as int because a newer kernel may know more. flags: MPOL_F_* mode flags, ints.

    nodes: effective node ids (after cpuset remapping), ascending.
    printed: the kernel's own text, only where it was read from numa_maps and mode, flags and nodes cannot spell it
    again: a list of nodes that the kernel cut, or words that this version does not know.
    """

    mode: int
    flags: int = 0
    nodes: tuple[int, ...] = ()
    printed: str = ""

    def text(self, spelling: Spelling = Spelling.NAMED) -> str:
        """As `numa_maps` of the running kernel prints it: mode, flags, nodes, cut after 63 characters.

        A mode that this version does not know is `unknown`, the kernel's word for one that it does not know.
        """
        if self.printed:
            return self.printed
        if self.mode not in _WORDS:
            return _UNKNOWN
        if self.flags & F_NUMA_BALANCING and spelling is Spelling.HIDDEN:
            return _WORDS[Mode.DEFAULT]
        text = _WORDS[Mode(self.mode)] + self._flags_text(spelling)
        if self.nodes:
            text += ":" + format_nodes(self.nodes)
        return text[: BUFFER_BYTES - 1]

    def _flags_text(self, spelling: Spelling) -> str:
        if not self.flags & MODE_FLAGS:
            return ""
        # The kernel refuses static together with relative, and would print static only.
        words = ["static"] if self.flags & F_STATIC_NODES else ["relative"] if self.flags & F_RELATIVE_NODES else []
        if self.flags & F_NUMA_BALANCING and spelling is Spelling.NAMED:
            words.append("balancing")
        return "=" + "|".join(words)

    def text_2005(self) -> str:
        """As the numa_maps of 2005 printed it, or would have, had it known the mode; never with a blank.

        `default`, `prefer=1`, `interleave={0,1}`, `bind={0,1}`. Then bind listed zones (`bind={0/DMA,1/Normal}`);
        a policy of today knows nodes only. Modes that came later have the analogous form: `local`,
        `prefer-many={0,1}`, `weighted-interleave={0,1}`, `unknown`. There were no flags, so none are shown.
        """
        word = _WORDS_2005[Mode(self.mode)] if self.mode in _WORDS else _UNKNOWN
        if not self.nodes:
            return word
        if self.mode == Mode.PREFERRED:
            return f"{word}={self.nodes[0]}"
        return f"{word}={{{','.join(map(str, self.nodes))}}}"

    @classmethod
    def parse(cls, text: str) -> Policy:
        """The policy that `text`, the policy of a numa_maps line, stands for; `text()` gives the same text back.

        Never fails: words that are not understood are kept as `printed`, with a mode that no kernel has (-1).
        """
        try:
            policy = cls._understand(text)
        except (KeyError, ValueError):
            return cls(_UNKNOWN_MODE, printed=text)
        if policy.text() == text and len(text) < BUFFER_BYTES - 1:
            return policy
        return cls(policy.mode, policy.flags, policy.nodes, printed=text)

    @classmethod
    def _understand(cls, text: str) -> Policy:
        head, _, node_list = text.partition(":")
        word, equals, flag_words = head.partition("=")
        flags = 0
        for flag_word in flag_words.split("|") if flag_words else ():
            flags |= _FLAGS[flag_word]
        if equals and not flag_words:
            flags = F_NUMA_BALANCING
        if len(text) >= BUFFER_BYTES - 1:
            # Cut, or just full: its last item may be half a number or half a range, so it is not believed.
            node_list = node_list.rpartition(",")[0]
        return cls(_MODES[word], flags, parse_nodes(node_list))


DEFAULT = Policy(Mode.DEFAULT)
