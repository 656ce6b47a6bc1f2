"""What the capture costs beside other ways to know the same: run as ``python -m tests.bench.capture``."""
