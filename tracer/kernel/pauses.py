"""Points between the steps of a look at a target, at which nothing happens.

Tests put a function of theirs in the place of `pause`, and let the target go on in just that moment
(tests/kernel/test_races.py). The look has to be right whatever the target does there.
"""

__all__ = ["POINTS", "pause"]

POINTS = (
    "looked",  # the mm and the faults in flight; the epoch has not ended yet
    "ended",  # the epoch; programs may still be writing its log
    "quiet",  # nobody writes it any more
    "drained",
    "listing",  # the VMA list is about to be read
    "listed",
    "compared",  # with the list before; new ranges have not been searched yet
    "surveyed",  # an audit or the seed knows which regions are populated
    "chosen",  # which spans are read next
    "read",
    "replaced",  # the counts; not known yet whether anything changed meanwhile
)


def pause(point: str) -> None:
    """The look has come to this point."""
