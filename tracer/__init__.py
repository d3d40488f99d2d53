"""numatrace: live NUMA page placement of Linux processes.

    import tracer

    recording = tracer.open("yesterday.parquet")
    live = tracer.attach(1234)

Both give pandas DataFrames: see docs/api.md.
"""

from typing import TYPE_CHECKING, Any

from tracer.errors import NumatraceError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tracer.api import Attached, Placements, Recorded, attach
    from tracer.api import open_file as open  # noqa: A004 - tracer.open reads as what it does
    from tracer.kernel.procfs import TargetGone

__all__ = ["Attached", "NumatraceError", "Placements", "Recorded", "TargetGone", "__version__", "attach", "open"]

_HOMES = {
    "Attached": ("tracer.api", "Attached"),
    "Placements": ("tracer.api", "Placements"),
    "Recorded": ("tracer.api", "Recorded"),
    "attach": ("tracer.api", "attach"),
    "open": ("tracer.api", "open_file"),
    "TargetGone": ("tracer.kernel.procfs", "TargetGone"),
}

if not TYPE_CHECKING:  # a type checker would take it that every name exists

    def __getattr__(name: str) -> Any:
        """What takes pandas and more is imported when it is first used: the command line starts without."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home, own_name = _HOMES[name]
        globals()[name] = value = getattr(import_module(home), own_name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
