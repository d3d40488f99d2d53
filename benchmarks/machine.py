"""Facts about the machine that a reader needs beside the figures."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tracer import __version__

__all__ = ["facts"]


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    virtual = ", virtual machine" if re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE) else ""
    return f"{model[1] if model else os.uname().machine}, {os.cpu_count()} CPUs{virtual}"


def _memory() -> str:
    kib = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    nodes = Path("/sys/devices/system/node/has_memory").read_text().strip()
    return f"{int(kib[1]) / 2**20:.0f} GiB, nodes with memory: {nodes}" if kib else f"nodes with memory: {nodes}"


def _first_line(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[0]


def facts() -> list[tuple[str, str]]:
    """(name, value) of CPU, memory, kernel and the versions of everything that was run."""
    return [
        ("CPU", _cpu()),
        ("memory", _memory()),
        ("kernel", os.uname().release),
        ("numatrace", __version__),
        ("peers", f"{_first_line(['bpftrace', '--version'])}, {_first_line(['/usr/bin/perf', '--version'])}"),
    ]
