"""VMAs as rows describe them, and as objects that stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.model.policy import Spelling
from tracer.model.vma import Kind, Vma
from tracer.record.chunk import Spread
from tracer.record.words import VMA_WORDS, policy_from, raw_bytes

__all__ = ["SPELLINGS", "KnownVmas"]

SPELLINGS = {spelling.value: spelling for spelling in Spelling}
_KINDS = {word: kind for kind, word in VMA_WORDS.items()}


class KnownVmas:
    """VMAs as objects: the same one for as long as it is described the same.

    Known are those since the last key frame but one: that is every VMA there is.
    """

    def __init__(self) -> None:
        self._young: dict[Any, Vma] = {}
        self._old: dict[Any, Vma] = {}

    def grow_old(self) -> None:
        """A key frame begins, so that all that exist will be asked for again."""
        self._old, self._young = self._young, {}

    def of(self, rows: Spread, wanted: Sequence[int], spelling: str) -> list[Vma]:
        """Those that these rows describe."""
        fields = rows.vma_fields
        return [self._vma((spelling, fields[row])) for row in wanted]

    def _vma(self, key: tuple[str, tuple[Any, ...]]) -> Vma:
        vma = self._young.get(key)
        if vma is None:
            vma = self._young[key] = self._old.get(key) or _vma(*key)
        return vma


def _vma(spelling: str, fields: tuple[Any, ...]) -> Vma:
    start, end, perms, offset, device, inode, kind, name, raw, huge, page_kb, mode, flags, nodes, text = fields
    kept = policy_from(mode, flags, nodes, text, SPELLINGS.get(spelling, Spelling.NAMED))
    path = raw_bytes(name, raw)
    return Vma(start, end, perms, offset, device, inode, path, _KINDS.get(kind, Kind.ANON), kept, huge, page_kb)
