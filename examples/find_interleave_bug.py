# %% [markdown]
# # Why is this memory not spread as its policy says?
#
# A policy such as `interleave` decides where pages go *when they are first touched*, by the thread that touches them.
# So memory can carry the right policy and still lie on one node. This page compares the two for every mapping of a
# process, and looks for the reason in what the process did while it was watched.
#
# As a script: `python examples/find_interleave_bug.py [PID]`. Without a PID it starts `interleave_bug.py`, a process
# with four tables of which one is right. It needs root.

# %%
import subprocess
import sys
from pathlib import Path

import pandas as pd

import tracer
from tracer.model.policy import parse_nodes

SECONDS = 10.0  # how long to watch
LEAST_PAGES = 1024  # smaller mappings are not worth the trouble
TOLERANCE = 0.1  # share of the pages that may lie elsewhere

pid = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else None
examples = Path(__file__).parent if "__file__" in globals() else Path("examples")
pd.set_option("display.width", 160, "display.max_columns", 20)

# %% [markdown]
# Attach *before* the memory is filled: who touched what can be told only of what happens while we watch. `threads=True`
# tells the faults of each thread apart, since a policy may belong to a thread. Each sample is kept whole, so that we
# can look back at the policies of before.

# %%
process = None
if pid is None:
    command = [sys.executable, str(examples / "interleave_bug.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline().removeprefix("ready "))
    SECONDS = 3.0

live = tracer.attach(pid, threads=True, keep=1000)
if process is not None:
    print(file=process.stdin, flush=True)
for _now in live.watch(every=0.25, duration=SECONDS):
    print(".", end="", flush=True)

names: dict[int, str] = {}  # of the tables, for kernels that do not show the name of anonymous memory
if process is not None:
    assert process.stdout is not None
    for line in iter(process.stdout.readline, "done\n"):
        name, address = line.split()
        names[int(address, 16)] = name
print(f"\n{live}\nnodes with memory: {list(live.node_ids)}\n")

# %% [markdown]
# ## What the policy promises, and what is there
#
# Of each mapping with an interleave policy: the pages that would have to move for an even spread over its nodes.

# %%
node_columns = {node: f"N{node}" for node in live.node_ids}


def spread(vmas: pd.DataFrame) -> pd.DataFrame:
    """The interleaved mappings, with the nodes of the policy and the pages that lie elsewhere than an even spread has
    them."""
    found = vmas[vmas["policy"].str.startswith("interleave") & (vmas["pages"] >= LEAST_PAGES)].copy()
    found["over"] = [parse_nodes(policy.partition(":")[2]) for policy in found["policy"]]
    expected = pd.DataFrame(
        {
            column: [
                pages / len(over) if node in over else 0.0
                for over, pages in zip(found["over"], found["pages"], strict=True)
            ]
            for node, column in node_columns.items()
        },
        index=found.index,
    )
    too_many = (found[list(node_columns.values())] - expected).clip(lower=0)
    found["misplaced"] = too_many.sum(axis=1).round().astype("int64")
    return found


interleaved = spread(live.vmas())
interleaved["address"] = interleaved["start"].map("{:x}".format)
interleaved["name"] = [
    names.get(start, name) for start, name in zip(interleaved["start"], interleaved["name"], strict=True)
]
shown = ["address", "name", "policy", "pages", *node_columns.values(), "misplaced"]
print(interleaved[shown].to_string(index=False), "\n")

# %% [markdown]
# ## Why
#
# Three things go wrong in practice, and each leaves a trace:
#
# - the pages were there *before* the policy: an earlier sample shows them under another policy;
# - a thread *without* the policy touched them: its faults put each page on the node of its own CPU;
# - *huge pages* are spread by 2 MiB, and a small mapping has too few of them for all nodes.

# %%
PLACING = ["new", "huge", "cow", "major"]  # the kinds of faults after which there is a page where none was
policies = [live.vmas(at=index) for index in range(len(live))]
faults = live.faults()
faults = faults[faults["kind"].isin(PLACING) & (faults["page_node"] >= 0)]


def pages_before_the_policy(start: int, policy: str) -> int:
    """How many pages were there in the last sample that showed this address under another policy."""
    for vmas in reversed(policies):
        then = vmas[(vmas["start"] <= start) & (vmas["end"] > start) & (vmas["policy"] != policy)]
        if len(then):
            return int(then["pages"].iloc[0])
    return 0


def reason(vma: pd.Series) -> str:
    """Of a mapping that is not spread as it should be, in words."""
    before = pages_before_the_policy(vma["start"], vma["policy"])
    if before > vma["pages"] / 2:
        return f"{before} pages were there before the policy: set it first, or call mbind with MPOL_MF_MOVE"
    touched = faults[(faults["start"] >= vma["start"]) & (faults["start"] < vma["end"])]
    if not len(touched):
        return "its pages were there before we looked: attach earlier"
    huge = touched[touched["kind"] == "huge"]["count"].sum()
    if huge * 512 > vma["pages"] / 2:
        return f"{huge} huge pages of 2 MiB cannot be spread evenly over {len(vma['over'])} nodes"
    by_thread = touched.groupby("thread")["count"].sum().sort_values(ascending=False)
    thread, count = by_thread.index[0], by_thread.iloc[0]
    near = touched[(touched["thread"] == thread) & (touched["cpu_node"] == touched["page_node"])]["count"].sum()
    if near > 0.9 * count:
        other = "a thread other than the main one" if thread != vma["pid"] else "the main thread"
        return f"{other} ({thread}) touched it, with another policy: set_mempolicy is per thread, mbind is not"
    return "not known; `flows()` tells whether the pages were moved"


if len(live.node_ids) == 1:
    print("This machine has one node with memory: every spread is even here. On one with several nodes (`make vm`)")
    print("this page says of each mapping above whether it is spread as its policy promises, and why not.")
else:
    for _, row in interleaved.iterrows():
        label = f"{row['address']} {row['name'] or '(no name)'}"
        if row["misplaced"] <= TOLERANCE * row["pages"]:
            print(f"right  {label}: spread over nodes {list(row['over'])}")
        else:
            print(f"WRONG  {label}: {row['misplaced']} of {row['pages']} pages; {reason(row)}")

# %% [markdown]
# Whether to believe it: all zero means that every count above is exact.

# %%
print(live.trust().tail(1)[["settling", "unexplained", "lost", "drift"]].to_string(index=False))
live.close()
if process is not None:
    process.communicate()
