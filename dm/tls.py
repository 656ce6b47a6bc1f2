"""The files of mutual TLS, tried out before use: a peer that refuses them would only hang up."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self


class TlsError(Exception):
    """The files cannot be used; the message is one line that says what to do."""


class Material(NamedTuple):
    """What the files hold, as PEM."""

    ca: bytes
    certificate: bytes
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Where one side's files are; ``certificate`` and ``key`` may be the same file."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def chosen(cls, *, ca: Path | None, certificate: Path | None, key: Path | None) -> Self | None:
        """What options say; None when they say nothing. Raises :class:`TlsError` when they say half of it."""
        if ca is None and certificate is None and key is None:
            return None
        if ca is None or certificate is None:
            raise TlsError("TLS takes a CA and a certificate: give both --tls-ca and --tls-cert, or neither")
        return cls(ca=ca, certificate=certificate, key=key or certificate)

    def load(self, *, server: bool = False) -> Material:
        """Read them and try them out, as a client or as a server. Raises :class:`TlsError`."""
        material = Material(_read(self.ca), _read(self.certificate), _read(self.key))
        if self.key.stat().st_mode & 0o077:
            raise TlsError(f"the key {self.key} can be read by others: `chmod 600 {self.key}`")
        self._try(server=server)
        return material

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever one of the files is replaced; empty while one is missing."""
        try:
            found = [path.stat() for path in (self.ca, self.certificate, self.key)]
        except OSError:
            return ()
        return tuple((one.st_ino, one.st_mtime_ns) for one in found)

    def client_context(self) -> ssl.SSLContext:
        """What a client encrypts HTTP/2 with. Raises :class:`TlsError`."""
        self.load()
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        return context

    def _try(self, *, server: bool) -> None:
        """Hold a handshake with ourselves, in memory, in which the other side knows nothing but the CA."""
        theirs = self._context(ssl.PROTOCOL_TLS_CLIENT if server else ssl.PROTOCOL_TLS_SERVER)
        theirs.check_hostname = False
        theirs.verify_mode = ssl.CERT_REQUIRED
        ours = self._context(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        ours.check_hostname = False
        ours.verify_mode = ssl.CERT_NONE
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            ours.wrap_bio(back, there, server_side=server),
            theirs.wrap_bio(there, back, server_side=not server),
        )
        try:
            for _ in range(4):
                for end in ends:
                    _advance(end)
        except ssl.SSLCertVerificationError as error:
            raise TlsError(self._doubt(error.verify_code, error.verify_message, server=server)) from error
        except ssl.SSLError as error:
            raise TlsError(f"{self.certificate} cannot be used: {error.reason}") from error

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise TlsError(f"{self.ca} holds no certificate in PEM form: name the stack's ca.pem") from error
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsError(
                    f"the key {self.key} is not that of {self.certificate}: name the two that belong together"
                ) from error
            raise TlsError(
                f"{self.certificate} or {self.key} is not in PEM form: name a certificate and its key"
            ) from error
        return context

    def _doubt(self, code: int, words: str, *, server: bool) -> str:
        """What OpenSSL's verdict (its X509_V_ERR_ numbers) means to a person."""
        match code:
            case 2 | 18 | 19 | 20 | 21:
                return f"{self.certificate} is not of the CA in {self.ca}: name the CA that signed it"
            case 9:
                return f"the certificate {self.certificate} is not valid yet: set this machine's clock"
            case 10:
                return (
                    f"the certificate {self.certificate} has expired: renew it, or set this machine's clock"
                )
            case 26:
                return (
                    f"{self.certificate} is not meant for a {'server' if server else 'client'}: name another"
                )
            case 47:
                return f"{self.certificate} names another stack than its CA may: have a new one issued"
            case _:
                return f"{self.certificate} cannot be used: {words}"


def _advance(end: ssl.SSLObject) -> None:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {path}: {error.strerror}; check the path") from error
