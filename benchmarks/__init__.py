"""Benchmarks: peers and limits, side by side in one run. Each module is run with `python -m benchmarks.NAME`."""
