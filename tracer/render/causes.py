"""Causes of misplaced pages in words for people: what happened, and what to do about it. One line each."""

from __future__ import annotations

from tracer.model.cause import Cause

__all__ = ["explain", "remedy"]


def explain(cause: Cause, reason: str = "") -> str:
    """What put such pages there. reason: of a migration, by the name that `Misplaced.reasons` has, else ""."""
    raise NotImplementedError


def remedy(cause: Cause, reason: str = "") -> str:
    """What to do so that it does not happen again, and to put it right: the call or the tool by name."""
    raise NotImplementedError
