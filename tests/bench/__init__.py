"""Timings, run by hand: ``python -m tests.bench.rasteriser --json out.json``."""
