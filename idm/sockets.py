"""Connections of this host whose other end is no more: a machine that was taken back knows nothing of them."""

import subprocess

import structlog

KILL_S = 5.0

_log = structlog.get_logger()


def destroy(peer: str, *, port: int) -> None:
    """Destroy this host's TCP connections from its ``port`` to an address, by iproute2's ``ss``; blocking.

    The other end, which would wait for a time-out, is reset by the next packet that it sends. A kernel that cannot
    (CONFIG_INET_DIAG_DESTROY) only makes that wait longer.
    """
    command = ["ss", "--kill", "--no-header", "--tcp", "--numeric"]
    command += ["sport", "=", f":{port}", "and", "dst", peer]
    try:
        subprocess.run(command, capture_output=True, timeout=KILL_S, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        _log.warning("dead connections stay until they time out", peer=peer, problem=str(e))
