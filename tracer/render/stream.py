"""The frame of every line of JSON that a verb prints, so that a reader can tell the lines of all verbs apart.

The keys are described in docs/json.md, and per type in a schema file beside this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["VERSION", "json_line"]

VERSION = 1
"""Of the meaning of keys, over all types. Keys that are added do not change it."""


def json_line(kind: str, fields: Mapping[str, Any]) -> str:
    """One line of ASCII without newline: `fields` after the keys `type`, which is `kind`, and `version`.

    ASCII, because then it is safe on a terminal and in any locale. ValueError for numbers that JSON does not know.
    """
    framed = {"type": kind, "version": VERSION, **fields}
    return json.dumps(framed, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
