"""What can go wrong between a program and its manager, in the words of one line; for any gRPC library."""

NOBODY = "no manager answers at {target}: is it running? (start one with `dm serve` or `idm up`)"
ANOTHER_CA = "the manager at {target} has a certificate of another CA: name its stack's CA"
EXPIRED = "the certificate of the manager at {target} has expired: renew it, or set this machine's clock"
NOT_YET = "the certificate of the manager at {target} is not valid yet: set this machine's clock"
ANOTHER_ADDRESS = "the certificate of the manager at {target} is not for this address: use one it names"
NO_TLS = "what answers at {target} speaks no TLS: leave out the certificates, or check the port"
HUNG_UP = (
    "the manager at {target} hung up: it wants TLS (--tls-ca, --tls-cert, --tls-key), or trusts another CA"
)
LATE = "the manager at {target} did not answer in time: see its log"
ENDED = "the manager at {target} ended the stream: see its log"
UNENCRYPTED = (
    "{target} is not on this machine: use unix:/path/to/dm.sock, a loopback address, or TLS "
    "(--tls-ca, --tls-cert and --tls-key)"
)


class ManagerError(Exception):
    """The manager cannot be reached or refused; the message is one line that says what to do."""


def is_local(target: str) -> bool:
    """Whether an address in gRPC's form stays on this machine."""
    host = target.rpartition(":")[0]
    return target.startswith("unix:") or host in ("127.0.0.1", "localhost", "[::1]")
