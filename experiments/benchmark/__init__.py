"""Benchmark of selectors and agents on the same episodes: `ogs benchmark`."""
