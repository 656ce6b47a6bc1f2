"""What an agent loads before it watches."""

import subprocess
import sys


def test_libraries_of_later_are_loaded_later() -> None:
    """Neither DNS nor HTTP nor grpcio nor rich are loaded with the command: an agent has to watch at once."""
    later = {"dns", "aiohttp", "grpc", "networkx", "bcc", "rich", "structlog"}
    code = f"import sys, dma.cli; print(sorted(sys.modules.keys() & {later}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.strip() == "[]"
