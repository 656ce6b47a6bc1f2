"""What a guest gets, and the archive that it travels in."""

import io
import tarfile
import tomllib
from ipaddress import ip_address
from pathlib import Path

from idm.ca import Authority
from idm.delivery.agent import CA, CERTIFICATE, CONFIGURATION, agent_payload
from idm.delivery.manager import manager_payload, paths
from idm.delivery.payload import PRIVATE, PUBLIC
from idm.delivery.script import FRESH, parcel, remove
from idm.manifest import Agent, ProbePlan


def test_an_agent_gets_its_configuration_and_its_certificate(tmp_path: Path) -> None:
    """The key is the one private file, and all travel under names that nothing reads yet."""
    tls = Authority(tmp_path, "shop").vcd("web")
    naming = 'reverse_dns = false\n[consul]\nurl = "http://198.18.0.2:8500"\n'
    agent = Agent(interval_ms=500, plan=ProbePlan.KPROBE)
    payload = agent_payload(
        manager="198.18.0.1:7443", stack="shop", vcd="web", agent=agent, tls=tls, naming=naming
    )
    with tarfile.open(fileobj=io.BytesIO(parcel(payload))) as tar:
        modes = {entry.name: entry.mode for entry in tar}
        configuration = tar.extractfile(CONFIGURATION[1:] + FRESH)
        assert configuration is not None
        told = tomllib.loads(configuration.read().decode())
    assert {name for name, mode in modes.items() if mode == PRIVATE} == {CERTIFICATE[1:] + FRESH}
    assert modes[CA[1:] + FRESH] == modes[f"etc/systemd/system/stackmend-dma.service{FRESH}"] == PUBLIC
    assert told == {
        "dm": "198.18.0.1:7443",
        "stack": "shop",
        "vcd": "web",
        "interval_ms": 500,
        "plan": "kprobe",
        "reverse_dns": False,
        "consul": {"url": "http://198.18.0.2:8500"},
        "tls": {"ca": CA, "certificate": CERTIFICATE},
    }


def test_a_manager_gets_its_address_and_its_certificate(tmp_path: Path) -> None:
    """Its unit, which serves any stack by its name, finds both in the stack's own settings."""
    tls = Authority(tmp_path, "shop").manager([ip_address("198.18.0.9")])
    payload = manager_payload(stack="shop", listen="198.18.0.9:7443", tls=tls)
    settings, ca, certificate = paths("shop")
    assert payload.unit == "stackmend-dm@shop.service"
    assert f"EnvironmentFile=-{settings}".replace("shop", "%i") in payload.unit_file.decode()
    told = next(file.content.decode() for file in payload.files if file.path == settings)
    assert told == (
        "STACKMEND_DM_LISTEN=--listen 198.18.0.9:7443\n"
        f"STACKMEND_TLS_CA={ca}\nSTACKMEND_TLS_CERT={certificate}\n"
    )
    with tarfile.open(fileobj=io.BytesIO(parcel(payload))) as tar:
        modes = {entry.name.removesuffix(FRESH): entry.mode for entry in tar}
    assert modes["etc/systemd/system/stackmend-dm@.service"] == PUBLIC
    assert modes[certificate[1:]] == PRIVATE


def test_no_directory_is_left_of_a_manager() -> None:
    """The innermost goes first, and of those that every system has none."""
    (line,) = [line for line in remove("x.service", paths("shop")).splitlines() if line.startswith("rmdir")]
    assert line == "rmdir /etc/stackmend/dm/shop /etc/stackmend/dm /etc/stackmend 2>/dev/null"
