"""Numbers and names as a report writes them. Every name is foreign, and comes out as text that only shows itself."""

from __future__ import annotations

from tracer.render.terminal import printable

__all__ = ["amount", "count", "duration", "shortened", "shown", "signed", "unit_of"]

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_ELLIPSIS = "…"


def shown(name: str) -> str:
    """A name as one line of text: what acts (controls, a turned reading direction) is escaped, as on a terminal."""
    return printable(name.encode("utf-8", "surrogateescape"))


def shortened(text: str, most: int) -> str:
    """At most `most` characters. The middle goes: paths differ at their ends."""
    if len(text) <= most:
        return text
    begin = (most - 1) // 3
    return text[:begin] + _ELLIPSIS + text[len(text) - (most - 1 - begin) :]


def unit_of(kib: float) -> tuple[str, float]:
    """The unit that amounts up to this one are best told in, and how many KiB it is."""
    step = 0
    while step < len(_UNITS) - 1 and abs(kib) >= 1024 ** (step + 1):
        step += 1
    return _UNITS[step], float(1024**step)


def amount(kib: float) -> str:
    """`0`, `12 KiB`, `3.5 GiB`: three digits at least."""
    if kib == 0:
        return "0"
    unit, size = unit_of(kib)
    value = kib / size
    digits = 0 if unit == "KiB" or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def signed(kib: float) -> str:
    """The same of a difference, with its sign."""
    return amount(kib) if kib <= 0 else f"+{amount(kib)}"


def count(number: int) -> str:
    """With its thousands apart."""
    return f"{number:,}"


def duration(seconds: float) -> str:
    """`0.5 s`, `42 s`, `3 min 20 s`, `1 d 2 h`: the two largest units."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, size)
        if number or parts:
            parts.append(f"{number} {unit}" if number else "")
    return " ".join(part for part in parts[:2] if part)
