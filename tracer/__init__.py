"""numatrace: live NUMA page placement of Linux processes."""

__version__ = "0.1.0"
