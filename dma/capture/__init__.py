"""Kernel to observations: BPF programs loaded through libbpf, their tables read in batches."""
