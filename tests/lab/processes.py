"""The processes of this machine, by their command lines."""

from pathlib import Path


def processes(part: str) -> dict[int, str]:
    """Those whose command line contains ``part``, by process number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if part in line:
            found[int(entry.name)] = line
    return found
