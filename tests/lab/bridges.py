"""What udev does on a host: a bridge keeps one link address, whoever comes and goes on it.

Without it a bridge takes on the lowest address of its ports, and neighbours that know it by another lose their gateway
for half a minute whenever a container is taken back.
"""

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.namespace import Namespace

_BRIDGE = re.compile(r"^\d+: (podman(\d+)):")


@contextmanager
def steady_bridges(namespace: Namespace) -> Iterator[None]:
    """Give every bridge of podman's in the namespace an address of its own as it appears."""
    monitor = subprocess.Popen(
        namespace.enter("ip", "-oneline", "monitor", "link"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    watching = threading.Thread(target=_settle, args=(monitor, namespace), daemon=True)
    watching.start()
    try:
        yield
    finally:
        monitor.terminate()
        monitor.wait()
        watching.join()
        assert monitor.stdout is not None
        monitor.stdout.close()


def _settle(monitor: "subprocess.Popen[str]", namespace: Namespace) -> None:
    assert monitor.stdout is not None
    for line in monitor.stdout:
        found = _BRIDGE.match(line)
        address = f"02:00:00:00:00:{int(found[2]) % 256:02x}" if found else ""
        if found and address not in line:
            # It may be gone again by now, which is as well.
            command = ["ip", "-n", namespace.name, "link", "set", "dev", found[1], "address", address]
            subprocess.run(command, capture_output=True, check=False)
