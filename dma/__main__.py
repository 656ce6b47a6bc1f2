"""``python -m dma``."""

from dma.cli import main

main(prog_name="dma")
