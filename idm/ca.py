"""The certificate authority of one stack: its certificates say who may tell the stack's manager what.

Who a peer is stands in a URI: ``stackmend://<stack>/vcd/<name>``, ``…/deployer``, ``…/operator``. The authority's own
certificate is constrained to URIs of its stack, so that a manager that trusts several stacks cannot be misled by one.
"""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dm.client import Tls
from idm.errors import DeployError
from idm.lock import lock

LIFE_DAYS = 30
AUTHORITY_LIFE = timedelta(days=3650)
# Clocks of guests lie, above all after a revert: to be a little behind must not make a certificate worthless.
BACKDATED = timedelta(days=1)
LOCK_S = 10.0

Clock = Callable[[], datetime]


class CaError(DeployError):
    """No certificate can be issued; the message is one line that says what to try."""


class _Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class _Subject(NamedTuple):
    """Whom a certificate is for."""

    names: tuple[x509.GeneralName, ...]
    usage: x509.ObjectIdentifier


class Authority:
    """Issues what a stack's programs show each other, and keeps it in ``directory``, readable by its owner alone.

    Each method returns the same files until a third of the certificate's life is left; then they hold a new pair. A
    certificate and its key are one file: whoever reads it while it is replaced has two that belong together.
    """

    def __init__(
        self,
        directory: Path,
        stack: str,
        *,
        days: int = LIFE_DAYS,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._directory = directory
        self._stack = stack
        self._life = timedelta(days=days)
        self._clock = clock

    def manager(
        self, addresses: Collection[IPv4Address | IPv6Address], *, hosts: Collection[str] = ()
    ) -> Tls:
        """The manager's, for the addresses and host names at which it is called. Raises :class:`CaError`."""
        names = [x509.IPAddress(address) for address in sorted(addresses, key=lambda one: one.packed)]
        hostnames = [x509.DNSName(host) for host in sorted(hosts)]
        if not names and not hostnames:
            raise CaError("a manager's certificate needs an address: name one at which it is called")
        return self._issued("manager", _Subject((*names, *hostnames), ExtendedKeyUsageOID.SERVER_AUTH))

    def vcd(self, name: str) -> Tls:
        """A VCD's agent's. Raises :class:`CaError`."""
        return self._issued(f"vcd-{name}", self._client(f"vcd/{name}"))

    def deployer(self) -> Tls:
        """The deployer's. Raises :class:`CaError`."""
        return self._issued("deployer", self._client("deployer"))

    def operator(self) -> Tls:
        """A person's. Raises :class:`CaError`."""
        return self._issued("operator", self._client("operator"))

    def _client(self, role: str) -> _Subject:
        uri = x509.UniformResourceIdentifier(f"stackmend://{self._stack}/{role}")
        return _Subject((uri,), ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issued(self, name: str, subject: _Subject) -> Tls:
        path = self._directory / f"{name}.pem"
        with _explained(self._directory):
            _make_private(self._directory)
            with lock(self._directory / "lock", purpose="issues certificates of this stack", wait_s=LOCK_S):
                authority = self._authority()
                if not self._good(path, subject, authority):
                    _write(path, _encode(self._issue(subject, authority)))
        return Tls(ca=self._directory / "ca.pem", certificate=path, key=path)

    def _authority(self) -> _Pair:
        """The authority's own pair, made when there is none yet."""
        secret, public = self._directory / "ca.key", self._directory / "ca.pem"
        if not secret.exists():
            _write(secret, _encode(self._found()))
        pair = _read(secret)
        if pair.certificate.not_valid_after_utc <= self._clock():
            raise CaError(
                f"the authority in {self._directory} has expired: delete that directory, "
                "then deliver new certificates to all who had one"
            )
        certificate = pair.certificate.public_bytes(serialization.Encoding.PEM)
        if not public.exists() or public.read_bytes() != certificate:
            _write(public, certificate)
        return pair

    def _found(self) -> _Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._stack[:64])])
        own_uris = x509.NameConstraints([x509.UniformResourceIdentifier(self._stack)], None)
        builder = (
            self._builder(key, AUTHORITY_LIFE)
            .subject_name(name)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(own_uris, critical=True)
        )
        return _Pair(builder.sign(key, hashes.SHA256()), key)

    def _issue(self, subject: _Subject, authority: _Pair) -> _Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        left = authority.certificate.not_valid_after_utc - self._clock()
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        builder = (
            self._builder(key, min(self._life, left))
            .subject_name(x509.Name([]))
            .issuer_name(authority.certificate.subject)
            .add_extension(x509.SubjectAlternativeName(subject.names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([subject.usage]), critical=False)
            .add_extension(issuer, critical=False)
        )
        return _Pair(builder.sign(authority.key, hashes.SHA256()), key)

    def _builder(self, key: ec.EllipticCurvePrivateKey, life: timedelta) -> x509.CertificateBuilder:
        now = self._clock()
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return (
            x509.CertificateBuilder()
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + life)
            .add_extension(identifier, critical=False)
        )

    def _good(self, path: Path, subject: _Subject, authority: _Pair) -> bool:
        """Whether the pair in a file says the right thing, is of this authority and will last."""
        try:
            pair = _read(path)
            pair.certificate.verify_directly_issued_by(authority.certificate)
            names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (FileNotFoundError, CaError, InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
            return False
        certificate = pair.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        lasts = begin <= self._clock() < end - (end - begin - BACKDATED) / 3
        return lasts and tuple(names) == subject.names and certificate.public_key() == pair.key.public_key()


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _encode(pair: _Pair) -> bytes:
    private = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pair.certificate.public_bytes(serialization.Encoding.PEM) + private


def _read(path: Path) -> _Pair:
    """Raises :class:`CaError` when the file holds no pair, or is not private."""
    content = path.read_bytes()
    if path.stat().st_mode & 0o077:
        raise CaError(
            f"the key in {path} can be read by others: `chmod 600 {path}`, or delete it for a new one"
        )
    try:
        certificate = x509.load_pem_x509_certificate(content)
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as e:
        raise CaError(f"{path} holds no certificate and key: restore it, or delete it for a new one") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CaError(f"{path} holds a key of another kind: restore it, or delete it for a new one")
    return _Pair(certificate, key)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)


def _write(path: Path, content: bytes) -> None:
    """Write a private file, whole or not at all, also across a loss of power."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise CaError(
            f"certificates cannot be kept in {directory}: {e.strerror} (run as root, or set another path)"
        ) from e
