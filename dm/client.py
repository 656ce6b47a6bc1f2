"""How the other programs reach the manager: a channel with deadlines, and its errors as one line."""

import re

import grpc
import grpc.aio

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
# How long one attempt to connect may take, whatever its name says; a small guest needs a while for its handshake.
_PLAIN = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", 200))
_ENCRYPTED = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", 3_000))

_NOBODY = "no manager answers at {target}: is it running? (start one with `dm serve` or `idm up`)"
_HANDSHAKES = (
    (
        "unable to get local issuer",
        "the manager at {target} has a certificate of another CA: name its stack's CA",
    ),
    (
        "has expired",
        "the certificate of the manager at {target} has expired: renew it, or set this machine's clock",
    ),
    (
        "not yet valid",
        "the certificate of the manager at {target} is not valid yet: set this machine's clock",
    ),
    (
        "Hostname Verification",
        "the certificate of the manager at {target} is not for this address: use one it names",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "what answers at {target} speaks no TLS: leave out the certificates, or check the port",
    ),
    (
        "failed to connect.*Socket closed",
        "the manager at {target} hung up: it wants TLS (--tls-ca, --tls-cert, --tls-key), or trusts another CA",
    ),
)
"""What gRPC says when two sides do not come together, as patterns, and what that means."""


class ManagerError(Exception):
    """The manager cannot be reached or refused; the message is one line that says what to do."""


def connect(target: str, *, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel to ``unix:/path`` or ``host:port``; closes as a context manager.

    A unix socket is guarded by its permissions and never encrypted. Every other address is by ``tls``; without it only
    loopback is allowed. Raises :class:`ManagerError` for any other address, and for files that cannot be used.
    """
    if target.startswith("unix:") or (tls is None and is_local(target)):
        return grpc.aio.insecure_channel(target, options=_PLAIN)
    if tls is None:
        raise ManagerError(
            f"{target} is not on this machine: use unix:/path/to/dm.sock, a loopback address, or TLS "
            "(--tls-ca, --tls-cert and --tls-key)"
        )
    try:
        material = tls.load()
    except TlsError as error:
        raise ManagerError(str(error)) from error
    credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)
    return grpc.aio.secure_channel(target, credentials, options=_ENCRYPTED)


def is_local(target: str) -> bool:
    """Whether an address in gRPC's form stays on this machine."""
    host = target.rpartition(":")[0]
    return target.startswith("unix:") or host in ("127.0.0.1", "localhost", "[::1]")


def explain(error: grpc.RpcError, *, target: str) -> ManagerError:
    """The error of a call, as one line for a person."""
    code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
    details = (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        signs = () if target.startswith("unix:") else _HANDSHAKES
        doubt = next((words for sign, words in signs if re.search(sign, details)), _NOBODY)
        return ManagerError(doubt.format(target=target))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ManagerError(f"the manager at {target} did not answer in time: see its log")
    if code is grpc.StatusCode.INTERNAL and details == "Internal error from Core":
        # A stream that ends while something is being written: gRPC's client forgets what the manager said.
        return ManagerError(f"the manager at {target} ended the stream: see its log")
    return ManagerError(details or f"the call failed with {code}")
