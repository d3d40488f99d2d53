"""Virtual machines with as many NUMA nodes as wanted, running a kernel of `kernels.py` on this machine's file system.

What it is: a :class:`Shape` says which nodes there are, a :class:`Machine` boots with a command and ends with its
exit status and console, :func:`interact` boots one with a shell. What it is not: it knows nothing of numatrace or of
tests. Called by `test_vm.py` and, as `python tests/vm/machine.py`, by the Makefile targets `vm` and `demo`.

The machine is QEMU's, started by virtme-ng: the guest's root is this machine's root by 9p, read-only, with
copy-on-write layers over /usr, /etc, /tmp and others, and one over this clone, so nothing that a guest does stays,
except what it writes to the results directory. The processor is emulated (TCG): that boots any kernel on any machine,
at about a twentieth of its speed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vm.compiler import Compiler
from tests.vm.kernels import SERIES, Kernel, KernelError, ensure

__all__ = ["REPOSITORY", "SHAPES", "TIMED_OUT", "Machine", "Outcome", "Shape", "interact", "until_it_boots"]

REPOSITORY = Path(__file__).resolve().parents[2]
BY_HAND = REPOSITORY / ".cache" / "vm" / "by-hand"
TIMED_OUT = 124  # as coreutils' timeout reports it
BOOTS = 3


@dataclass(frozen=True)
class Shape:
    """NUMA nodes of a machine.

    nodes: for each node id its memory in MiB (0: none) and its CPU (None: none); `absent` CPUs exist as empty sockets
    only. slow: ids of nodes whose memory is told to be slower by the firmware (the HMAT of ACPI), which makes a lower
    memory tier of them. expected: what the guest's /sys/devices/system/node must say, file name -> content; checked
    before anything is run.
    """

    nodes: tuple[tuple[int, int | None], ...]
    expected: dict[str, str]
    absent: frozenset[int] = frozenset()
    slow: frozenset[int] = frozenset()

    @property
    def memory(self) -> int:
        """Memory of the whole machine in MiB."""
        return sum(mib for mib, _ in self.nodes)

    def options(self) -> list[str]:
        """The options of vng that make it."""
        cpus = [cpu for _, cpu in self.nodes if cpu is not None]
        options = ["--memory", f"{self.memory}M"]
        for node, (mib, cpu) in enumerate(self.nodes):
            # A size of 0 bears no unit: that is how vng knows that the node needs no memory object.
            suffix = "" if cpu is None else f",cpus={cpu}"
            suffix += ",initiator=0" if node in self.slow else ""
            options += ["--numa", (f"{mib}M" if mib else "0") + suffix]
        if self.slow:
            options.append(f"--qemu-opts={' '.join(self._speeds())}")
        if not self.absent:
            return [*options, "--cpus", str(len(cpus))]
        # QEMU fills sockets in order, so only CPU 0 is given by count, and the others are put into their sockets by
        # name.
        plugged = [
            f"-device max-x86_64-cpu,socket-id={cpu},core-id=0,thread-id=0"
            for cpu in cpus[1:]
            if cpu not in self.absent
        ]
        return [*options, "--cpus", f"1,sockets={len(cpus)},maxcpus={len(cpus)}", f"--qemu-opts={' '.join(plugged)}"]

    def _speeds(self) -> Iterator[str]:
        """QEMU's options for how fast each node's memory is from each node with a CPU."""
        yield "-machine hmat=on"
        for initiator, (_, cpu) in enumerate(self.nodes):
            if cpu is None:
                continue
            for target in range(len(self.nodes)):
                place = f"-numa hmat-lb,initiator={initiator},target={target},hierarchy=memory"
                latency, bandwidth = (400, "1G") if target in self.slow else (10 if target == initiator else 20, "10G")
                yield f"{place},data-type=access-latency,latency={latency}"
                yield f"{place},data-type=access-bandwidth,bandwidth={bandwidth}"


def _even(nodes: int, mib: int) -> Shape:
    every = f"0-{nodes - 1}" if nodes > 1 else "0"
    return Shape(tuple((mib, node) for node in range(nodes)), {"online": every, "has_memory": every, "has_cpu": every})


SHAPES: dict[str, Shape] = {
    "1-node": _even(1, 2048),
    "2-nodes": _even(2, 1024),
    "4-nodes": _even(4, 1024),
    "8-nodes": _even(8, 512),
    # Room for a benchmark that moves 2 GiB to and fro (benchmarks/migration.py).
    "large": _even(2, 3072),
    "memory-only": Shape(
        ((1024, 0), (1024, 1), (1024, 2), (1024, None)), {"online": "0-3", "has_memory": "0-3", "has_cpu": "0-2"}
    ),
    "tiers": Shape(
        ((1024, 0), (1024, 1), (1024, None)),
        {"online": "0-2", "has_memory": "0-2", "has_cpu": "0-1"},
        slow=frozenset({2}),
    ),
    # A hole in the node ids. Linux numbers nodes in the order in which the firmware's affinity table (SRAT) first
    # names their proximity domains, so gaps in QEMU's own numbers would be closed. But a domain that the table names
    # only for an empty CPU socket gets an id and then no memory and no CPU, so the node of that id never comes
    # online. 6.12 and 7.3 boot so; 6.1 brings its CPUs up and then hangs in stop_machine.
    "hole": Shape(
        ((1024, 0), (0, 1), (1024, 2), (1024, 3), (1024, None)),
        {"possible": "0-4", "online": "0,2-4", "has_memory": "0,2-4", "has_cpu": "0,2-3"},
        absent=frozenset({1}),
    ),
    # So many that a list of every second one is longer than the 64 bytes which the kernel has for a policy, and that
    # counts no longer fit a register.
    "many": Shape(((1536, 0), *((48, None),) * 39), {"online": "0-39", "has_memory": "0-39", "has_cpu": "0"}),
}


@dataclass(frozen=True)
class Outcome:
    """How a machine ended: the command's exit status, TIMED_OUT when it was stopped, and what its console said.

    began: whether guest.py has come to pytest, which has said something.
    """

    status: int
    console: str
    began: bool

    @property
    def panicked(self) -> bool:
        """Whether its kernel came to no good before anything of ours has run."""
        return not self.began and "Kernel panic" in self.console


def until_it_boots(start: Callable[[], Machine]) -> tuple[Outcome, int]:
    """Start a machine that runs guest.py and wait until it is off; how it ended, and how often it was started.

    An emulated kernel sometimes panics while it boots: it is given BOOTS tries.
    """
    outcome, boots = start().wait(), 1
    while outcome.panicked and boots < BOOTS:
        outcome, boots = start().wait(), boots + 1
    return outcome, boots


class Machine:
    """A machine that runs one command as root in the clone's directory and then powers off.

    The command may write to `results`, a directory of this machine; whatever it prints is in the console, which is
    kept there too, as `console.log`, while it grows. A machine that takes longer than `seconds` is stopped, and one
    whose caller was killed too.
    """

    def __init__(self, kernel: Kernel, shape: Shape, command: Sequence[str], results: Path, seconds: int) -> None:
        results.mkdir(parents=True, exist_ok=True)
        self._console = results / "console.log"
        self._log = results / "pytest.log"
        self._log.unlink(missing_ok=True)
        # Warnings and oopses of the guest's kernel belong to the console, its chatter does not.
        words = [
            *("setpriv", "--pdeathsig", "TERM"),
            *("timeout", "--kill-after=10", str(seconds)),
            *_vng(kernel, shape),
            "--verbose",
            "--append",
            "loglevel=5",
        ]
        words += ["--rwdir", str(results), "--exec", shlex.join(command)]
        # QEMU opens its outputs anew by name: they would overwrite each other in a file, but not in a pipe.
        with self._console.open("wb") as file:
            self._writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        assert self._writer.stdin is not None
        with self._writer.stdin as pipe:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, env=_environment()
            )

    def wait(self) -> Outcome:
        """Return when it is off."""
        status = self._process.wait()
        self._writer.wait()
        began = self._log.exists() and self._log.stat().st_size > 0
        return Outcome(status, self._console.read_text(errors="replace"), began)

    def stop(self) -> None:
        """Switch it off at once: `timeout` passes the signal on to all that it started."""
        self._process.terminate()
        self.wait()


def interact(kernel: Kernel, shape: Shape, command: Sequence[str] = ()) -> int:
    """Boot with this terminal as console: a shell with numatrace on its PATH, or a command that reads nothing.

    Returns the exit status.
    """
    for path in BY_HAND.glob("compile-*"):
        path.unlink()
    (BY_HAND / "facts").mkdir(mode=0o700, parents=True, exist_ok=True)
    words = [*_vng(kernel, shape), "--rwdir", str(BY_HAND)]
    if not command:
        words += ["--shell", str(REPOSITORY / "tests/vm/shell.sh")]
        with Compiler(BY_HAND):
            return subprocess.run(words, env=_environment(), check=False).returncode
    # As shell.sh has it: BPF programs are compiled outside, and kept.
    settings = {
        "NUMATRACE_RESULTS": BY_HAND,
        "NUMATRACE_FACTS": BY_HAND / "facts",
        "PYTHONPATH": REPOSITORY / "tests/vm/guest_site",
    }
    words += ["--exec", shlex.join(["env", *(f"{name}={value}" for name, value in settings.items()), *command])]
    # Through a pipe for the same reason as in Machine: the output may be a file.
    with Compiler(BY_HAND), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as writer:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=writer.stdin,
            stderr=subprocess.STDOUT,
            env=_environment(),
            check=False,
        ).returncode


def _vng(kernel: Kernel, shape: Shape) -> list[str]:
    program = Path(sys.executable).parent / "vng"
    return [
        str(program),
        *("--run", str(kernel.image)),
        *("--disable-kvm", "--disable-microvm", "--force-9p"),
        *("--user", "root"),
        *("--cwd", str(REPOSITORY)),
        f"--overlay-rwdir={REPOSITORY}",
        # Else a guest panics at boot ("IO-APIC + timer doesn't work") when a busy machine keeps it from counting ticks.
        *("--append", "no_timer_check"),
        # A guest ended with a double fault right after a cmpxchg16b of the kernel's (struct slab), with rubbish in the
        # flags, the trap flag among it: it looks like a fault of QEMU 7.2. The kernel can do without that instruction.
        *("--append", "clearcpuid=cx16"),
        # Another one ended with "Oops: int3" just as it had found out that a busy emulator's time stamps are unstable,
        # for which the kernel changes its own code.
        *("--append", "tsc=reliable"),
        *shape.options(),
    ]


def _environment() -> dict[str, str]:
    """virtme-ng starts programs that pip installed beside it."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def main() -> int:
    """Boot a machine by hand."""
    parser = argparse.ArgumentParser(description="A virtual machine with several NUMA nodes and numatrace on the PATH.")
    parser.add_argument("--kernel", choices=list(SERIES), default="newest")
    parser.add_argument("--shape", choices=list(SHAPES), default="4-nodes")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="a command to run instead of a shell")
    arguments = parser.parse_args()
    try:
        kernel = ensure([arguments.kernel])[arguments.kernel]
    except KernelError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    print(f"vm: booting Linux {kernel.release} with {arguments.shape}, half a minute ...", file=sys.stderr)
    return interact(kernel, SHAPES[arguments.shape], arguments.command)


if __name__ == "__main__":
    sys.exit(main())
