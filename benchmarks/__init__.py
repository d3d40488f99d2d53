"""What numatrace costs, measured beside its peers: `python benchmarks/run.py`. Nothing in `tracer` imports this."""
