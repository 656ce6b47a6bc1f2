"""Host names in the URLs of registries, as the watched machine resolves them: the agent's own may be another one's."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dns.asyncresolver
import dns.exception
from aiohttp.abc import AbstractResolver, ResolveResult

from dma.flow import Address
from dma.naming.hosts import PATH, parse_hosts
from dma.naming.resolvers import configured
from dma.rooted import RootedError, read_rooted

WITHIN_S = 1.0
KINDS = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}
LOCAL = {"localhost": "127.0.0.1"}


class MachineResolver(AbstractResolver):
    """Reads the hosts file below ``root``, and asks the name servers named there; no thread waits for either."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Its addresses; raises ``OSError`` when it has none."""
        addresses = [LOCAL[host]] if host in LOCAL else [str(one) for one in self._in_hosts_file(host)]
        found = addresses or await self._asked(host, family)
        if not found:
            reason = f"{host} is not known to the watched machine's hosts file and name servers"
            raise socket.gaierror(socket.EAI_NONAME, reason)
        return [_result(host, address, port) for address in found]

    async def close(self) -> None:
        """Nothing is held."""

    def _in_hosts_file(self, host: str) -> Iterator[Address]:
        try:
            known = parse_hosts(read_rooted(self._root, PATH))
        except RootedError:
            return
        for address, names in known.items():
            if host in {name.name for name in names}:
                yield address

    async def _asked(self, host: str, family: int) -> list[str]:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [str(server) for server in configured(self._root)]
        if not resolver.nameservers:
            return []
        # One after the other: some name servers fail at the kind of address that they do not have.
        for kind in [kind for kind, of in KINDS.items() if family in (socket.AF_UNSPEC, of)]:
            with suppress(dns.exception.DNSException):
                answer = await resolver.resolve(f"{host.rstrip('.')}.", kind, lifetime=WITHIN_S)
                return [record.to_text() for record in answer]
        return []


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )
