"""What foreign text looks like on a terminal: harmless.

File names and command names belong to whoever runs the target. Written to a terminal as they are they could move
the cursor, change its title or colours, or answer queries in the user's name; they could also turn the reading
direction, so that a name shows as another.
"""

from __future__ import annotations

__all__ = ["printable", "word"]


def _octal(raw: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in raw)


def printable(raw: bytes) -> str:
    """`raw` as text that a terminal only prints, for one line: UTF-8 stays, everything that acts is escaped.

    Escaped as the kernel does it in its own files, byte by byte: a backslash and three octal digits. That concerns
    control characters (newline and tab too), format characters (which turn the reading direction), blanks that are
    not the blank, and bytes that are not UTF-8, which an 8-bit terminal may take for controls.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _octal(character.encode("utf-8", "surrogateescape"))
        for character in text
    )


def word(raw: bytes) -> str:
    """The same as one word, for a field among others: a blank is `\\040`."""
    return printable(raw).replace(" ", r"\040")
