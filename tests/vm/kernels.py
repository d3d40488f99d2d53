"""Real Debian kernels, fetched and unpacked for the virtual machines, installed nowhere.

What it is: `ensure("6.1")` gives a :class:`Kernel` whose image and modules lie unpacked in a cache directory. The
packages come from the Debian mirror that this machine's own apt uses, with a private apt configuration (sources,
lists and archives inside the cache), so the machine's apt set-up is neither read for packages nor changed and nothing
can be upgraded by it; apt checks the signatures against the Debian archive keyring. What it is not: it boots nothing
(see `machine.py`). Called by `machine.py`, by the tests in this directory, and by hand: `python tests/vm/kernels.py
[--refresh] [NAME ...]`.

The cache (`$NUMATRACE_CACHE`, by default `~/.cache/numatrace/kernels`) is shared by all clones of the project on a
machine. A kernel is unpacked beside its place and renamed into it when complete, then a link named like the series is
pointed at it; so a link that exists means a complete kernel, and a download that was cut leaves only a scratch
directory that the next run removes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SERIES", "Kernel", "KernelError", "Series", "cache_directory", "ensure"]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHITECTURE = "amd64"


class KernelError(RuntimeError):
    """A kernel could not be had; the message says what to do."""


@dataclass(frozen=True)
class Series:
    """One kernel to test on: its name here, the suite that carries it, and what its releases look like there."""

    name: str
    suite: str
    release: re.Pattern[str]


SERIES: dict[str, Series] = {
    series.name: series
    for series in (
        # 6.1 gets its security updates first, under the same package names: whichever suite is newer wins.
        Series("6.1", "bookworm", re.compile(r"6\.1\.\d+-\d+")),
        Series("6.12", "bookworm-security", re.compile(r"6\.12\.\d+\+deb12")),
        Series("newest", "trixie-backports", re.compile(r"\d+\.\d+\.\d+\+deb13")),
    )
}


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its series, its release as `uname -r` prints it, the directory it was unpacked into."""

    name: str
    release: str
    root: Path

    @property
    def image(self) -> Path:
        """The bootable image; `lib/modules` is in the same tree, where virtme-ng looks for it."""
        return self.root / "boot" / f"vmlinuz-{self.release}"


def cache_directory() -> Path:
    """Where kernels are kept: `$NUMATRACE_CACHE`, else below the user's cache directory."""
    chosen = os.environ.get("NUMATRACE_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numatrace" / "kernels"


def ensure(names: Iterable[str] = tuple(SERIES), *, refresh: bool = False) -> dict[str, Kernel]:
    """Return the kernels of these series by name, fetching the ones that the cache lacks.

    With `refresh` the archive is asked for newer releases even where the cache holds one.
    Raises KernelError when a name is unknown or a kernel cannot be fetched.
    """
    wanted = list(names)
    for name in wanted:
        if name not in SERIES:
            raise KernelError(f"no kernel series {name!r}: choose from {', '.join(SERIES)}")
    cache = cache_directory()
    found = {} if refresh else {name: kernel for name in wanted if (kernel := _cached(cache, name))}
    missing = [name for name in wanted if name not in found]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "lock"):
            # Another clone may have fetched them while this one waited for the lock.
            _fetch([name for name in missing if refresh or _cached(cache, name) is None], cache)
        for name in missing:
            kernel = _cached(cache, name)
            if kernel is None:
                raise KernelError(f"{cache / name} does not lead to a kernel: remove it and try again")
            found[name] = kernel
    return {name: found[name] for name in wanted}


def _cached(cache: Path, name: str) -> Kernel | None:
    """The complete kernel that the link of this series leads to, or None."""
    link = cache / name
    try:
        release = os.readlink(link)
    except OSError:
        return None
    kernel = Kernel(name, release, cache / release)
    return kernel if kernel.image.exists() else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock that dies with the process; waits for whoever holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(names: list[str], cache: Path) -> None:
    """Fetch the newest release of each series and point its link at it. The caller holds the lock."""
    if not names:
        return
    for leftover in cache.glob("scratch-*"):
        shutil.rmtree(leftover)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=cache))
    try:
        apt = _PrivateApt(scratch)
        for name in names:
            release = _newest(SERIES[name], apt.package_names())
            if not (cache / release).exists():
                _unpack(release, apt, scratch).rename(cache / release)
            link = scratch / f"link-{name}"
            link.symlink_to(release)
            link.replace(cache / name)
    finally:
        shutil.rmtree(scratch)


def _newest(series: Series, packages: set[str]) -> str:
    """The newest release of a series that the archive has, by its numbers, not by spelling.

    From 7.1 `linux-image-RELEASE` is an empty package that depends on linux-binary and linux-modules, but it is there.
    The -cloud and -rt flavours do not match: the former lack 9p, which carries the file system into the guest.
    """
    candidates = []
    for package in packages:
        match = re.fullmatch(rf"linux-image-({series.release.pattern})-{ARCHITECTURE}", package)
        if match:
            candidates.append(f"{match[1]}-{ARCHITECTURE}")
    if not candidates:
        raise KernelError(f"the archive has no kernel {series.release.pattern} in {series.suite}")
    return max(candidates, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])


def _unpack(release: str, apt: _PrivateApt, scratch: Path) -> Path:
    """Download the packages of one release and lay them out in one tree: boot/vmlinuz-RELEASE, lib/modules/RELEASE."""
    packages = sorted({f"linux-{part}-{release}" for part in ("image", "binary", "modules")} & apt.package_names())
    root = scratch / release
    root.mkdir()
    print(f"fetching {' '.join(packages)}", file=sys.stderr)
    for archive in apt.download(packages):
        _run(["dpkg-deb", "-x", str(archive), str(root)])
        archive.unlink()
    # From 7.x everything is under usr/lib, the image included; depmod and virtme-ng look in lib/modules.
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    image = root / "boot" / f"vmlinuz-{release}"
    if not image.exists():
        image.parent.mkdir(exist_ok=True)
        image.symlink_to(f"../usr/lib/modules/{release}/vmlinuz")
    if not image.exists():
        raise KernelError(f"the packages {' '.join(packages)} hold no kernel image")
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if depmod is None:
        raise KernelError("depmod is missing: apt-get install kmod")
    _run([depmod, "-b", str(root), release])
    return root


class _PrivateApt:
    """apt with its own sources, lists and archives; only the mirror's address is taken from the machine's sources."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "apt"
        for part in ("lists/partial", "archives/partial", "sources.d", "preferences.d"):
            (self._directory / part).mkdir(parents=True)
        (self._directory / "status").touch()
        (self._directory / "sources.list").write_text("".join(f"{line}\n" for line in _source_lines()))
        self._config = self._directory / "apt.conf"
        self._config.write_text(self._configuration())
        _run(["apt-get", "-c", str(self._config), "-qq", "update"])
        self._names = set(_run(["apt-cache", "-c", str(self._config), "pkgnames", "linux-"]).split())

    def _configuration(self) -> str:
        """Read by apt after its own configuration, so that a proxy set there still counts."""
        place = self._directory
        settings = {
            "Dir::Etc::sourcelist": place / "sources.list",
            "Dir::Etc::sourceparts": place / "sources.d",
            "Dir::Etc::preferences": place / "preferences",
            "Dir::Etc::preferencesparts": place / "preferences.d",
            "Dir::State": place,
            "Dir::State::lists": place / "lists",
            "Dir::State::status": place / "status",
            "Dir::Cache": place,
            "Dir::Cache::archives": place / "archives",
            "APT::Architecture": ARCHITECTURE,
            # The cache may lie where the user that apt downloads as cannot write.
            "APT::Sandbox::User": "root",
        }
        # Hooks of the machine's own apt (desktop notices, clearing of its archives) are not ours to trigger.
        hooks = (
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n"
        )
        return hooks + "".join(f'{key} "{value}";\n' for key, value in settings.items())

    def package_names(self) -> set[str]:
        """Names of all packages whose name starts with `linux-`."""
        return self._names

    def download(self, packages: list[str]) -> list[Path]:
        """Download these packages, signatures and sums checked by apt, and return the files."""
        place = self._directory / "archives"
        _run(["apt-get", "-c", str(self._config), "-qq", "download", *packages], cwd=place)
        return sorted(place.glob("*.deb"))


def _source_lines() -> list[str]:
    """One-line apt sources for every suite that a series names, at the mirrors that this machine uses."""
    archive, security = _machine_mirrors()
    suites = dict.fromkeys(series.suite for series in SERIES.values())
    if not KEYRING.exists():
        raise KernelError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    return [
        f"deb [signed-by={KEYRING}] {security if suite.endswith('-security') else archive} {suite} main"
        for suite in suites
    ]


def _machine_mirrors() -> tuple[str, str]:
    """Addresses of the Debian archive and of its security archive, from the machine's own sources in either format."""
    listing = _run(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"])
    archive = security = None
    for line in listing.splitlines():
        kind, uri, release, component = line.split()
        if kind != "Packages" or component != "main":
            continue
        if re.fullmatch(r"[a-z]+-security", release):
            security = security or uri
        elif uri.rstrip("/").endswith("/debian"):
            archive = archive or uri
    if archive is None or security is None:
        raise KernelError(
            "apt has no source for Debian's main archive and its security suite: add them to the apt sources"
        )
    return archive, security


def _run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command and return its output; a failure becomes a KernelError that shows what it said."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is missing: these kernels come as Debian packages") from None
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Fetch the kernels named (all by default) and print one line for each: name, release, image."""
    parser = argparse.ArgumentParser(description="Fetch and unpack Debian kernels for the virtual machines.")
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SERIES), help=f"series: {', '.join(SERIES)}")
    parser.add_argument("--refresh", action="store_true", help="look for newer releases although the cache has one")
    arguments = parser.parse_args()
    try:
        kernels = ensure(arguments.names, refresh=arguments.refresh)
    except KernelError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 1
    for kernel in kernels.values():
        print(kernel.name, kernel.release, kernel.image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
