"""The answers of name servers as they come into this network namespace, whoever asked."""

import socket
import struct
from array import array
from collections.abc import Collection
from contextlib import suppress
from typing import Self

from dma.naming.dns_filter import INSTRUCTION, PACKET_BYTES, answers_only

BUFFER_BYTES = 1 << 20

# asm-generic/socket.h, linux/if_packet.h and linux/if_ether.h
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
# A socket of one protocol hears only what comes in, and that once, on loopback, too.
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD

_EARLY_LIMIT = 10_000
_STATISTICS = struct.Struct("=II")  # packets, drops
_TCP, _UDP = 6, 17


class DnsSocket:
    """A packet socket for one version of IP; a context manager. Raises ``OSError`` where it is not permitted."""

    def __init__(self, ethernet_protocol: int, ports: Collection[int]) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(ethernet_protocol))
        try:
            self._attach(answers_only(ports))
            with suppress(PermissionError):  # then the system's own limit holds
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            for _ in range(_EARLY_LIMIT):  # what came in before the filter was there
                if self.receive() is None:
                    break
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Readable while an answer waits."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """The next message, perhaps cut short or empty; None when none waits."""
        try:
            return message_in(self._socket.recv(PACKET_BYTES))
        except BlockingIOError:
            return None
        except OSError:  # told once, such as that the interface went down
            return b""

    def dropped(self) -> int:
        """Packets that found the buffer full since the last call."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        return int(_STATISTICS.unpack(statistics)[1])

    def _attach(self, code: bytes) -> None:
        instructions = array("B", code)
        place, size = instructions.buffer_info()
        program = struct.pack("@HP", size // INSTRUCTION.size, place)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def message_in(packet: bytes) -> bytes:
    """The DNS message in an IP packet; empty when there is none. Over TCP, where one begins with its segment."""
    try:
        if packet[0] >> 4 == 6:
            protocol, at = packet[6], 40
        else:
            protocol, at = packet[9], (packet[0] & 0xF) * 4
        if protocol == _UDP:
            return packet[at + 8 :]
        if protocol == _TCP:
            return packet[at + (packet[at + 12] >> 4) * 4 + 2 :]
    except IndexError:
        pass
    return b""
