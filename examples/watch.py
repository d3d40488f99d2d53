# %% [markdown]
# # Watch where a process's pages are
#
# As a script: `python examples/watch.py [PID]`. Without a PID it starts `workload.py`, a small process whose memory
# never stands still. In a notebook, run the cells one by one. It needs root; as another user see the last cell but one.

# %%
import subprocess
import sys
from pathlib import Path

import pandas as pd

import tracer

pid = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else None
examples = Path(__file__).parent if "__file__" in globals() else Path("examples")
pd.set_option("display.width", 160, "display.max_columns", 20)

process = None
if pid is None:
    process = subprocess.Popen([sys.executable, str(examples / "workload.py"), "--seconds", "60", "--mib", "64"])
    pid = process.pid

# %% [markdown]
# The process is read once; from then on hooks tell what changes.

# %%
live = tracer.attach(pid)
print(live, *live.notes, sep="\n")

# %% [markdown]
# A sample each second, until the time is over or the process ends. `totals()` has all samples so far, in pages.

# %%
for now in live.watch(every=1, duration=5):
    totals = now.totals()
    change = totals.diff().iloc[-1]
    nodes = "  ".join(f"{node} {totals[node].iloc[-1]:7d} ({change[node]:+7.0f})" for node in totals.columns)
    print(f"{now.times[-1]:%H:%M:%S}  {nodes}  {now.faults(since=-2)['count'].sum():6d} faults")

# %% [markdown]
# The largest mappings now, and what happened since we attached.

# %%
vmas = live.vmas().sort_values("pages", ascending=False)
vmas["address"] = vmas["start"].map("{:x}".format)
print("\nthe largest mappings")
print(vmas[["address", "kind", "name", "policy", *live.totals().columns]].head(5).to_string(index=False))

print("\nfaults: node of the CPU, node of the page (-1: none was left), and what for")
print(live.faults().groupby(["cpu_node", "page_node", "kind"])["count"].sum().to_string())

flows = live.flows()
print("\npages that moved from node to node" + ("" if len(flows) else ": none"))
if len(flows):
    print(flows.groupby(["source", "destination", "reason"])[["pages", "failed"]].sum().to_string())

# %% [markdown]
# In a notebook: `live.totals().plot.area()`.
#
# As an ordinary user there are no hooks, only looks at /proc: `tracer.attach(pid, flows=False, faults=False)`.

# %%
print("\nwhether to believe it: all zero means exact")
print(live.trust().tail(1)[["hooks", "reader", "settling", "unexplained", "lost", "drift"]].to_string(index=False))
live.close()
if process is not None:
    process.kill()
    process.wait()
