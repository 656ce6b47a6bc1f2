"""``python -m idm``."""

from idm.cli import main

main()
