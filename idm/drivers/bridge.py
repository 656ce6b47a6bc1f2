"""The bridge of a stack's network, as the kernel has it."""

import subprocess
from pathlib import Path

from idm.driver import DriverError

CALL_S = 5.0


def pin(interface: str, address: str, *, netns: Path) -> None:
    """Give a bridge a hardware address of its own.

    Without one a bridge takes the lowest of its ports, and so another one whenever a container comes or goes. Those
    that know it as their gateway then send to the old one for half a minute. Raises :class:`DriverError`.
    """
    command = [
        "nsenter",
        f"--net={netns}",
        "ip",
        "link",
        "set",
        "dev",
        interface,
        "address",
        address,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise DriverError(f"the bridge {interface} cannot be given its address: {e}: install iproute2") from e
    if done.returncode:
        problem = " ".join(done.stderr.split())
        raise DriverError(
            f"the bridge {interface} cannot be given its address: {problem}: run as root beside podman"
        )
