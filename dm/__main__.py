"""``python -m dm``."""

from dm.cli import main

main(prog_name="dm")
