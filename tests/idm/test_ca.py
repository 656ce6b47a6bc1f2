"""The authority of a stack, with real certificates."""

import stat
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dm.client import Tls
from dm.tls import TlsError
from idm.ca import Authority, CaError

HERE = ip_address("127.0.0.1")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


def certificate(tls: Tls) -> x509.Certificate:
    """The certificate that was issued."""
    return x509.load_pem_x509_certificate(tls.certificate.read_bytes())


def names(tls: Tls) -> list[str]:
    """Whom it names."""
    extension = certificate(tls).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]


def test_each_role_gets_a_certificate_that_says_so(tmp_path: Path) -> None:
    """The name in a certificate is a URI of the stack and role, or the manager's addresses; each passes its own try."""
    authority = Authority(tmp_path / "ca", "shop")
    assert names(authority.vcd("web")) == ["stackmend://shop/vcd/web"]
    assert names(authority.deployer()) == ["stackmend://shop/deployer"]
    assert names(authority.operator()) == ["stackmend://shop/operator"]
    manager = authority.manager([HERE, ip_address("198.18.0.1")], hosts=["hypervisor"])
    assert names(manager) == ["127.0.0.1", "198.18.0.1", "hypervisor"]
    manager.load(server=True)
    for client in (authority.vcd("web"), authority.deployer(), authority.operator()):
        usage = certificate(client).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        client.load()
        with pytest.raises(TlsError, match="not meant for a server"):
            client.load(server=True)
    with pytest.raises(TlsError, match="not meant for a client"):
        manager.load()


def test_nothing_can_be_read_by_others(tmp_path: Path) -> None:
    """The directory is 0700 and every file in it 0600, whatever was there before."""
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o755)
    Authority(directory, "shop").vcd("web")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert {path.name for path in directory.iterdir()} == {"ca.key", "ca.pem", "lock", "vcd-web.pem"}


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(tmp_path: Path) -> None:
    """Until then the same file is given out again; then it holds a new certificate and key of the same authority."""
    clock = Clock()
    authority = Authority(tmp_path, "shop", days=30, clock=clock)
    first = authority.vcd("web").certificate.read_bytes()
    clock.now += timedelta(days=20) - timedelta(seconds=1)
    assert authority.vcd("web").certificate.read_bytes() == first
    ca = (tmp_path / "ca.pem").read_bytes()
    clock.now += timedelta(seconds=2)
    renewed = authority.vcd("web")
    assert renewed.certificate.read_bytes() != first
    assert certificate(renewed).not_valid_after_utc == clock.now + timedelta(days=30)
    assert (tmp_path / "ca.pem").read_bytes() == ca


def test_certificates_begin_a_day_ago(tmp_path: Path) -> None:
    """A guest whose clock is hours behind can use its new certificate."""
    clock = Clock()
    authority = Authority(tmp_path, "shop", clock=clock)
    assert certificate(authority.vcd("web")).not_valid_before_utc == clock.now - timedelta(days=1)
    assert certificate(authority.vcd("web")).not_valid_after_utc == clock.now + timedelta(days=30)


def test_a_clock_set_back_renews(tmp_path: Path) -> None:
    """What begins in the future by the clock of today is of no use, and is issued anew."""
    clock = Clock()
    authority = Authority(tmp_path, "shop", clock=clock)
    first = authority.vcd("web").certificate.read_bytes()
    clock.now -= timedelta(days=2)
    assert authority.vcd("web").certificate.read_bytes() != first


def test_other_addresses_make_another_certificate(tmp_path: Path) -> None:
    """The manager's certificate follows its addresses, and their order does not matter."""
    authority = Authority(tmp_path, "shop")
    two = [HERE, ip_address("198.18.0.1")]
    first = authority.manager(two).certificate.read_bytes()
    assert authority.manager(two[::-1]).certificate.read_bytes() == first
    assert names(authority.manager(two[:1])) == ["127.0.0.1"]
    with pytest.raises(CaError, match="needs an address"):
        authority.manager([])


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_certificate_is_issued_anew(tmp_path: Path, content: bytes) -> None:
    """A file that was cut short or overwritten costs nobody a thought."""
    authority = Authority(tmp_path, "shop")
    path = authority.vcd("web").certificate
    path.write_bytes(content)
    authority.vcd("web").load()
    (tmp_path / "vcd-web.pem.new").write_bytes(b"left by a loss of power")
    path.unlink()
    authority.vcd("web").load()


def test_a_certificate_of_an_earlier_authority_is_issued_anew(tmp_path: Path) -> None:
    """After the authority was deleted and made again nothing of the old one is given out."""
    authority = Authority(tmp_path, "shop")
    authority.vcd("web")
    (tmp_path / "ca.key").unlink()
    authority.vcd("web").load()


def test_a_damaged_authority_is_an_error(tmp_path: Path) -> None:
    """An authority that others may have read, or that cannot be read, is not silently replaced."""
    authority = Authority(tmp_path, "shop")
    authority.vcd("web")
    (tmp_path / "ca.key").chmod(0o644)
    with pytest.raises(CaError, match="can be read by others: `chmod 600"):
        authority.vcd("web")
    (tmp_path / "ca.key").chmod(0o600)
    (tmp_path / "ca.key").write_bytes(b"nonsense")
    with pytest.raises(CaError, match="holds no certificate and key"):
        authority.vcd("web")


def test_an_expired_authority_says_what_to_do(tmp_path: Path) -> None:
    """After ten years somebody has to deliver new certificates, and is told so; none outlives its authority."""
    clock = Clock()
    authority = Authority(tmp_path, "shop", clock=clock)
    authority.vcd("web")
    clock.now += timedelta(days=3640)
    assert certificate(authority.vcd("db")).not_valid_after_utc == clock.now + timedelta(days=10)
    clock.now += timedelta(days=11)
    with pytest.raises(CaError, match="has expired: delete that directory"):
        authority.vcd("db")


def test_an_authority_can_only_speak_of_its_own_stack(tmp_path: Path) -> None:
    """Whoever holds the key of one stack's authority cannot make himself a certificate of another stack."""
    Authority(tmp_path, "shop").operator()
    forged = Authority(tmp_path, "bank").operator()
    assert names(forged) == ["stackmend://bank/operator"]
    with pytest.raises(TlsError, match="names another stack than its CA may"):
        forged.load()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The directory is named, with the reason and what to try."""
    (tmp_path / "file").touch()
    with pytest.raises(CaError, match=r"cannot be kept in .*file/ca: Not a directory") as refused:
        Authority(tmp_path / "file" / "ca", "shop").vcd("web")
    assert "\n" not in str(refused.value)


def test_several_at_once_agree(tmp_path: Path) -> None:
    """Processes that start together share one authority."""
    threads = [
        threading.Thread(target=Authority(tmp_path, "shop").vcd, args=(f"vcd{number}",))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number in range(8):
        Tls(ca=tmp_path / "ca.pem", certificate=(pem := tmp_path / f"vcd-vcd{number}.pem"), key=pem).load()
