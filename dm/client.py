"""How the other programs reach the manager: a channel with deadlines, and its errors as one line."""

import re

import grpc
import grpc.aio

from dm import peer
from dm.peer import ManagerError, is_local
from dm.tls import Tls, TlsError

__all__ = ("MAX_MESSAGE_BYTES", "ManagerError", "Tls", "TlsError", "connect", "explain", "is_local")

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)
# How long one attempt to connect may take, whatever its name says: a small guest needs a while for its handshake, and
# on a busy host even a socket's other end is slow to greet. Where nobody listens an attempt fails at once.
_PLAIN = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", 2_000))
_ENCRYPTED = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", 3_000))

_HANDSHAKES = (
    ("unable to get local issuer", peer.ANOTHER_CA),
    ("has expired", peer.EXPIRED),
    ("not yet valid", peer.NOT_YET),
    ("Hostname Verification", peer.ANOTHER_ADDRESS),
    ("WRONG_VERSION_NUMBER", peer.NO_TLS),
    ("failed to connect.*Socket closed", peer.HUNG_UP),
)
"""What gRPC says when two sides do not come together, as patterns, and what that means."""


def connect(target: str, *, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel to ``unix:/path`` or ``host:port``; closes as a context manager.

    A unix socket is guarded by its permissions and never encrypted. Every other address is by ``tls``; without it only
    loopback is allowed. Raises :class:`ManagerError` for any other address, and for files that cannot be used.
    """
    if target.startswith("unix:") or (tls is None and is_local(target)):
        return grpc.aio.insecure_channel(target, options=_PLAIN)
    if tls is None:
        raise ManagerError(peer.UNENCRYPTED.format(target=target))
    try:
        material = tls.load()
    except TlsError as error:
        raise ManagerError(str(error)) from error
    credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)
    return grpc.aio.secure_channel(target, credentials, options=_ENCRYPTED)


def explain(error: grpc.RpcError, *, target: str) -> ManagerError:
    """The error of a call, as one line for a person."""
    code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
    details = (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        signs = () if target.startswith("unix:") else _HANDSHAKES
        doubt = next((words for sign, words in signs if re.search(sign, details)), peer.NOBODY)
        return ManagerError(doubt.format(target=target))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ManagerError(peer.LATE.format(target=target))
    if code is grpc.StatusCode.INTERNAL and details == "Internal error from Core":
        # A stream that ends while something is being written: gRPC's client forgets what the manager said.
        return ManagerError(peer.ENDED.format(target=target))
    return ManagerError(details or f"the call failed with {code}")
