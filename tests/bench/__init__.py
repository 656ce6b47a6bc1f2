"""Benchmarks that hold this program against others; run on demand, by make bench-<name>."""
