"""What an agent loads before it watches."""

import subprocess
import sys


def test_libraries_of_later_are_loaded_later() -> None:
    """Neither DNS nor HTTP nor grpcio are loaded with the command: an agent has to watch at once."""
    code = "import sys, dma.run; print(sorted(sys.modules.keys() & {'dns', 'aiohttp', 'grpc', 'networkx', 'bcc'}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.strip() == "[]"
