# %% [markdown]
# # Record a process, and ask afterwards
#
# As a script: `python examples/record_and_analyse.py [FILE.parquet]`. Without a file it records `workload.py` for some
# seconds, as `numatrace record -o FILE -- CMD` does on the command line; that needs root. To analyse a recording takes
# no privileges, and the machine may be another one.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import tracer

given = [word for word in sys.argv[1:] if word.endswith(".parquet")]
examples = Path(__file__).parent if "__file__" in globals() else Path("examples")
pd.set_option("display.width", 160, "display.max_columns", 20)

scratch = tempfile.TemporaryDirectory()
file = given[0] if given else str(Path(scratch.name) / "workload.parquet")
if not given:
    numatrace = Path(sys.executable).with_name("numatrace")
    recorder = [str(numatrace if numatrace.exists() else "numatrace"), "record", "-o", file, "--every", "0.5"]
    workload = [sys.executable, str(examples / "workload.py"), "--seconds", "6", "--mib", "64"]
    subprocess.run([*recorder, "--", *workload], check=True)

# %%
recording = tracer.open(file)
info = recording.info
print(recording)
print(f"{info.host}, Linux {info.kernel}, numatrace {info.version}: {' '.join(info.command_line)}")

# %% [markdown]
# ## Is it exact?
#
# In how many samples something was still settling (it changed while it was read, and is shown as last read), was not
# explained yet, was lost or had drifted. All zero: every count of every sample is exact.

# %%
trust = recording.trust()
doubts = (trust[["settling", "unexplained", "lost", "drift"]] != 0).sum()
print(f"\nof {len(trust)} samples: {', '.join(f'{count} {word}' for word, count in doubts.items())}")
print(f"what they cost: {trust['cpu_ns'].sum() / 1e6:.1f} ms of CPU in all")

# %% [markdown]
# ## Where were the pages, over time?
#
# In a notebook: `recording.totals().plot.area()`.

# %%
totals = recording.totals()
print("\npages by node, over time")
print(totals.resample("1s").max().to_string())

# %% [markdown]
# ## What grew, and what shrank?
#
# Two moments side by side: that with the fewest pages, and that with the most. (Samples without any are those after the
# process has ended.)

# %%
sums = totals.sum(axis=1)
sums = sums[sums > 0]
few, many = (sums.index[int(number)] for number in (sums.argmin(), sums.argmax()))
keys = ["pid", "start", "name", "node"]
before = recording.placement(at=few).set_index(keys)["bytes"]
after = recording.placement(at=many).set_index(keys)["bytes"]
change = after.sub(before, fill_value=0).astype("int64").rename("bytes")
most_first = change[change != 0].sort_values(key=abs, ascending=False).reset_index()
most_first["start"] = most_first["start"].map("{:x}".format)
print(f"\nfrom the least ({few:%H:%M:%S.%f}) to the most ({many:%H:%M:%S.%f}), by mapping and node")
print(most_first.head(8).to_string(index=False))

# %% [markdown]
# ## Who touched the pages first, and on which node did that put them?
#
# Pages whose node is not that of the CPU that touched them are far from it already at birth.

# %%
if info.faults:
    faults = recording.faults()
    placing = faults[faults["kind"].isin(["new", "huge", "cow", "major"]) & (faults["page_node"] >= 0)]
    print("\nfaults that placed pages, by node of the CPU (rows) and of the page (columns)")
    print(placing.pivot_table(index="cpu_node", columns="page_node", values="count", aggfunc="sum", fill_value=0))
    print(placing.groupby("name")["count"].sum().sort_values(ascending=False).head(5).to_string())

# %% [markdown]
# ## What moved, and why?

# %%
if info.flows:
    flows = recording.flows()
    moved = flows.groupby(["source", "destination", "reason"])[["pages", "failed", "bytes"]].sum()
    print("\npages that moved: " + (moved.to_string() if len(moved) else "none"))

# %%
recording.close()
scratch.cleanup()
