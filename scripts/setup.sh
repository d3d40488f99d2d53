#!/usr/bin/env bash
# Everything numatrace needs on Debian 12 or 13: packages, .venv, tracefs. Run it as often as you like: it does only
# what is missing, and needs root only when something that root must do is missing.
#
#   scripts/setup.sh run      what `numatrace` needs
#   scripts/setup.sh test     that, and what linting and all tests need (QEMU, a C compiler, pytest, ...)
#   scripts/setup.sh bench    that, and the tools that the benchmarks compare with
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PYTHON=/usr/bin/python3 # the one that python3-bpfcc belongs to
readonly LOG=.cache/setup.log
readonly RUN_PACKAGES=(python3 python3-venv python3-bpfcc python3-numpy)
readonly TEST_PACKAGES=(busybox-static chromium chromium-driver debian-archive-keyring e2fsprogs gcc kmod libc6-dev make
	numactl qemu-system-x86 tmux udev zstd)
readonly BENCH_PACKAGES=(bpftrace linux-perf)

say() { printf 'setup: %s\n' "$*"; }

fail() { # what is wrong, what to do
	printf 'setup: error: %s\n' "$1" >&2
	[ -z "${2:-}" ] || printf 'setup: %s\n' "$2" >&2
	exit 1
}

logged() { # runs a command; its output is shown only when it fails
	if ! "$@" >"$LOG" 2>&1 9>&-; then
		tail -n 25 "$LOG" >&2
		fail "failed: $*" "the whole output is in $LOG"
	fi
}

missing_packages() { # of those named, the ones that are not installed, one a line
	comm -23 <(printf '%s\n' "$@" | sort -u) \
		<(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort -u)
}

install_packages() {
	command -v apt-get >/dev/null || fail \
		"this is not Debian (no apt-get), and only Debian's package names are known here" \
		"install Python 3.11 or later with venv, numpy and BCC's Python module (not PyPI's bcc), then: python3 -m venv --system-site-packages .venv && .venv/bin/pip install -e ."
	local missing
	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" -eq 0 ] || fail "packages are missing: ${missing[*]}" \
		"run this as root (sudo $0 $mode), or install them: sudo apt-get install ${missing[*]}"
	say "installing ${#missing[@]} packages: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# One broken source among many fails an update that still fetched Debian's lists: let the installation decide.
	apt-get -o DPkg::Lock::Timeout=300 update >"$LOG" 2>&1 9>&- || say "apt-get update failed in part; trying all the same"
	logged apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
}

fingerprint() { # of all that decides what is in .venv: a change of one of these means installing again
	{ cat pyproject.toml && "$PYTHON" -VV && pwd; } | sha256sum
}

make_venv() { # extras, as pip spells them, and the stamps that prove them installed, own one first
	local extras=$1 stamps=("${@:2}") now stamp
	"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
		"$PYTHON is $("$PYTHON" -V 2>&1), and numatrace needs Python 3.11 or later" \
		"use Debian 12 or later, or another distribution of 2023 or later"
	now=$(fingerprint)
	if .venv/bin/python -c '' 2>/dev/null; then
		for stamp in "${stamps[@]}"; do
			[ "$(cat ".venv/$stamp" 2>/dev/null)" != "$now" ] || return 0
		done
	else
		say "making .venv from $PYTHON"
		logged "$PYTHON" -m venv --clear --system-site-packages .venv
	fi
	say "installing numatrace${extras} into .venv"
	logged .venv/bin/python -m pip install --disable-pip-version-check -e ".${extras}"
	printf '%s\n' "$now" >".venv/${stamps[0]}"
}

mount_tracefs() {
	# Not by a look inside, which an ordinary user may not take.
	! grep -q ' /sys/kernel/tracing tracefs ' /proc/self/mounts || return 0
	if [ "$(id -u)" -ne 0 ]; then
		say "tracefs is not mounted; as root: mount -t tracefs tracefs /sys/kernel/tracing"
	elif mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; then
		say "mounted tracefs at /sys/kernel/tracing"
	else
		say "tracefs cannot be mounted here (a container?); numatrace will say what it cannot see"
	fi
}

build_workloads() {
	[ ! -f tests/workloads/Makefile ] || logged make -C tests/workloads
}

mode=${1:-run}
mkdir -p .cache
exec 9>.cache/setup.lock
flock 9
case $mode in
run)
	install_packages "${RUN_PACKAGES[@]}"
	make_venv "" stamp-run stamp-test
	;;
test)
	install_packages "${RUN_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
	make_venv "[test,lint]" stamp-test
	build_workloads
	;;
bench)
	install_packages "${RUN_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
	make_venv "[test,lint]" stamp-test
	build_workloads
	;;
*)
	fail "unknown mode: $mode" "say run, test or bench"
	;;
esac
mount_tracefs
say "ready"
