"""Two private network namespaces with a cable between them, and a process that calls from the one into the other."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self, TypeVar

from bpf.build import compile_object
from dma.flow import Capture, Flow, Transport

SOURCES = Path(__file__).parents[3] / "bpf"
DEADLINE_S = 5.0
CLONE_NEWNET = 0x40000000

SERVER_V4, CLIENT_V4 = "198.18.5.2", "198.18.5.1"
SERVER_V6, CLIENT_V6 = "fd00:5::2", "fd00:5::1"
MAPPED = f"::ffff:{SERVER_V4}"
NO_ROUTE = "198.19.0.1"

IPV6 = Path("/proc/sys/net/ipv6").exists()
"""Whether this kernel has it; the lab can do without."""

PROGRAM = Path(__file__).with_name("program.py")

T = TypeVar("T")


def run(*command: str) -> None:
    """Run a tool that must succeed."""
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)


@dataclass(frozen=True)
class Cable:
    """The names of the client's and of the server's namespace."""

    client: str
    server: str

    @property
    def client_netns(self) -> Path:
        """The client's namespace as the agent is told of it."""
        return Path("/run/netns", self.client)

    def in_client(self, *command: str) -> None:
        """Run a tool in the client's namespace."""
        run("nsenter", f"--net=/run/netns/{self.client}", *command)

    def in_server(self, *command: str) -> None:
        """Run a tool in the server's namespace."""
        run("nsenter", f"--net=/run/netns/{self.server}", *command)

    def server_socket(self, kind: socket.SocketKind, port: int = 0) -> socket.socket:
        """A socket of the server's namespace bound to all its addresses, of each family; listening if TCP."""

        def bind() -> socket.socket:
            bound = socket.socket(socket.AF_INET6 if IPV6 else socket.AF_INET, kind)
            if IPV6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind(("::" if IPV6 else "0.0.0.0", port))
            if kind is socket.SOCK_STREAM:
                bound.listen(64)
            return bound

        return within(self.server, bind)

    def reject(self, port: int, verdict: str) -> None:
        """Have the server's packet filter answer like this to what comes for a TCP port."""
        rule = f"tcp dport {port} {verdict}"
        chain = "type filter hook input priority 0"
        self.in_server("nft", f"table inet lab {{ chain input {{ {chain}; {rule}; }}; }}")


def compiled_without(directory: Path, *tracepoints: str) -> Path:
    """The BPF object as it would meet a kernel without some tracepoints: it asks for ones that do not exist."""
    return compiled_for(directory, {name: f"absent_{name}" for name in tracepoints})


def compiled_for(directory: Path, tracepoints: Mapping[str, str]) -> Path:
    """The BPF object with some of its tracepoints replaced by others."""
    return compiled_with(
        directory, {f'SEC("tp_btf/{name}")': f'SEC("tp_btf/{other}")' for name, other in tracepoints.items()}
    )


def compiled_with(directory: Path, replacements: Mapping[str, str]) -> Path:
    """The BPF object of sources in which some words are others."""
    for path in (SOURCES / "flows.bpf.c", *SOURCES.glob("*.h")):
        source = path.read_text()
        for text, other in replacements.items():
            source = source.replace(text, other)
        (directory / path.name).write_text(source)
    target = directory / "flows.bpf.o"
    compile_object("clang", directory / "flows.bpf.c", target)
    return target


def within(netns: str, action: Callable[[], T]) -> T:
    """Do something in a namespace, by a thread of its own that then ends."""
    results: list[T] = []

    def enter() -> None:
        with open(f"/run/netns/{netns}") as namespace:
            setns(namespace.fileno())
        results.append(action())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(DEADLINE_S)
    return results[0]


def setns(fd: int) -> None:
    """os.setns, which Python has from 3.12 on."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def cable(name: str) -> Iterator[Cable]:
    """Two namespaces joined by a veth pair, removed afterwards."""
    client, server = f"{name}-c", f"{name}-s"
    with ExitStack() as stack:
        for netns in (client, server):
            run("ip", "netns", "add", netns)
            stack.callback(run, "ip", "netns", "del", netns)
            run("ip", "-n", netns, "link", "set", "lo", "up")
        run(
            "ip", "-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server
        )
        for netns, address4, address6 in ((client, CLIENT_V4, CLIENT_V6), (server, SERVER_V4, SERVER_V6)):
            run("ip", "-n", netns, "addr", "add", f"{address4}/24", "dev", "eth0")
            if IPV6:
                run("ip", "-n", netns, "addr", "add", f"{address6}/64", "dev", "eth0", "nodad")
            run("ip", "-n", netns, "link", "set", "eth0", "up")
        yield Cable(client, server)


class Caller:
    """A process in a namespace, other than the agent's, that does as it is told.

    ``resolv_conf`` is its own, for the C library's resolver.
    """

    def __init__(self, netns: str, *, cgroup: Path | None = None, resolv_conf: Path | None = None) -> None:
        command = ["nsenter", f"--net=/run/netns/{netns}"]
        if resolv_conf:
            mount = f"mount --bind {resolv_conf} /etc/resolv.conf"
            command += ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
        command += [sys.executable, str(PROGRAM)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: _join(cgroup)) if cgroup else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)

    def __call__(self, line: str) -> str:
        """Evaluate an expression over there; returns its repr."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


def _join(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def flow(capture: Capture, host: str, port: int, transport: Transport = Transport.TCP) -> Flow | None:
    """What the capture knows about one destination."""
    wanted = (transport, ip_address(host), port)
    return next((found for found in capture.flows() if found.destination[:3] == wanted), None)


def settled(
    capture: Capture,
    host: str,
    port: int,
    condition: Callable[[Flow], object],
    transport: Transport = Transport.TCP,
) -> Flow:
    """The destination once the condition holds; looks again when the capture wakes its reader, or a little later."""
    deadline = time.monotonic() + DEADLINE_S
    while (found := flow(capture, host, port, transport)) is None or not condition(found):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s; flows are {capture.flows()}"
        select.select([capture], [], [], 0.02)
        capture.drain()
    return found
