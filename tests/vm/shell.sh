#!/bin/bash
# The shell of `make vm`: numatrace on the PATH, the clone as the directory, and a word on what to try.
# virtme-ng starts it as root's login shell inside the guest; it never runs outside of one.
repository=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
cd "$repository" || exit
export PATH="$repository/.venv/bin:$PATH:/usr/sbin:/sbin" XDG_CACHE_HOME=/tmp/cache SHELL=/bin/bash PS1='numatrace:\w# '
# BPF programs are compiled outside (compiler.py), and kept: clang takes an emulated processor minutes.
export NUMATRACE_RESULTS="$repository/.cache/vm/by-hand" PYTHONPATH="$repository/tests/vm/guest_site"
export NUMATRACE_FACTS="$NUMATRACE_RESULTS/facts"
mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
cat <<-HINTS

	Linux $(uname -r) with NUMA nodes $(</sys/devices/system/node/online) and numatrace on the PATH. Try:
	  numactl -H
	  numactl --interleave=all numatrace maps -- python examples/workload.py --seconds 20
	  sleep infinity | python examples/demo_interleave.py &
	  numatrace maps -p \$!
	  migratepages \$! 0,1 2,3; numatrace maps -p \$!
	Nothing you do here changes the machine outside. Leave with exit or Ctrl-D. (An emulated machine is slow: give it time.)

HINTS
[ $# -gt 0 ] && exec /bin/bash "$@"
exec /bin/bash --norc -i
