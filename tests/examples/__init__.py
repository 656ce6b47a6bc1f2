"""The example stacks, run for real."""
