"""Benchmarks: what a connection costs, how long it takes, what is lost, how it grows. ``scripts/bench --help``."""
