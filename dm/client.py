"""How the other programs reach the manager: a channel with deadlines, and its errors as one line."""

import os

# gRPC's C core reads this once, while it is imported; a peer that goes away in good order is no error to print.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)


class ManagerError(Exception):
    """The manager cannot be reached or refused; the message is one line that says what to do."""


def connect(target: str) -> grpc.aio.Channel:
    """A channel to ``unix:/path`` or, on loopback only, ``host:port``; closes as a context manager.

    Raises :class:`ManagerError` for any other address, since what is said there would travel unencrypted.
    """
    if not is_local(target):
        raise ManagerError(
            f"{target} is not on this machine: use unix:/path/to/dm.sock or a loopback address"
        )
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


def is_local(target: str) -> bool:
    """Whether an address in gRPC's form stays on this machine."""
    host = target.rpartition(":")[0]
    return target.startswith("unix:") or host in ("127.0.0.1", "localhost", "[::1]")


def explain(error: grpc.RpcError, *, target: str) -> ManagerError:
    """The error of a call, as one line for a person."""
    code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
    if code is grpc.StatusCode.UNAVAILABLE:
        return ManagerError(
            f"no manager answers at {target}: is it running? (start one with `dm serve` or `idm up`)"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ManagerError(f"the manager at {target} did not answer in time: see its log")
    details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return ManagerError(details or f"the call failed with {code}")
