"""A real name server inside a namespace."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.namespace import LabError, Namespace

DNSMASQ = "/usr/sbin/dnsmasq"
DEADLINE_S = 5.0


class NameServer:
    """A running dnsmasq that knows what its hosts file says."""

    def __init__(self, process: subprocess.Popen[bytes], hosts: Path) -> None:
        self._process = process
        self._hosts = hosts

    def say(self, hosts: str) -> None:
        """From now on these lines of a hosts file hold."""
        self._hosts.write_text(hosts)
        self._process.send_signal(signal.SIGHUP)
        self.wait()

    def wait(self) -> None:
        """Until it has read its hosts file."""
        assert self._process.stderr
        deadline_s = time.monotonic() + DEADLINE_S
        while b": read " not in (line := self._process.stderr.readline()):
            if not line or time.monotonic() > deadline_s:
                raise LabError("dnsmasq does not start: run its command by hand")


@contextmanager
def name_server(
    inside: Namespace, address: str, directory: Path, *options: str, hosts: str = "", ttl_s: int = 60
) -> Iterator[NameServer]:
    """Serve names of a hosts file at ``address``, port 53 unless the options say another."""
    if not Path(DNSMASQ).exists():
        raise LabError(f"{DNSMASQ} is not installed: apt-get install dnsmasq-base")
    path = directory / f"dnsmasq-{address}.hosts"
    path.write_text(hosts)
    command = [DNSMASQ, "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--no-resolv"]
    command += ["--no-hosts", f"--addn-hosts={path}", "--bind-interfaces", f"--listen-address={address}"]
    command += ["--pid-file=", "--user=root", "--cache-size=0", f"--local-ttl={ttl_s}", *options]
    process = subprocess.Popen(inside.enter(*command), stderr=subprocess.PIPE)
    try:
        server = NameServer(process, path)
        server.wait()
        yield server
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)
