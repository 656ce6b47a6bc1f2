"""What a manifest says of names, against what the agents understand."""

from dataclasses import fields
from pathlib import Path

import pytest

from dma import config
from dma.naming import methods
from dma.naming.registry import settings
from idm.document import DocumentError, read
from idm.naming import Consul, Etcd, Naming, Registry

EVERYTHING = """
passive_dns = false
dns_ports = [53, 8600]
reverse_dns = false
reverse_dns_servers = ["198.18.0.2:8600"]
traffic_names = false
[consul]
url = "http://198.18.0.2:8500"
datacentre = "lab"
token_file = "/etc/token"
keep_s = 60
tls = { ca = "/ca", certificate = "/c", key = "/k" }
[etcd]
urls = ["https://198.18.0.2:2379", "https://198.18.0.3:2379"]
layout = "/x/{service}/{ip}:{port}"
user = "agent"
password_file = "/etc/password"
keep_s = 60
tls = { ca = "/ca" }
[registry]
location = "https://198.18.0.4/a \\"list\\".json"
interval_s = 0.5
keep_s = 60
tls = { ca = "/ca" }
"""


def understood(folder: Path, text: str) -> dict[str, object]:
    """What an agent makes of a manifest's table."""
    (folder / "manifest.toml").write_text(text)
    naming = read(folder / "manifest.toml", Naming)
    (folder / "agent.toml").write_text(naming.configuration())
    return config.load(folder / "agent.toml")


def test_agents_understand_all_that_a_manifest_can_say(tmp_path: Path) -> None:
    """Every key reaches the agent with its value."""
    trust = settings.Access(ca="/ca")
    assert understood(tmp_path, EVERYTHING) == {
        "passive_dns": False,
        "dns_ports": [53, 8600],
        "reverse_dns": False,
        "reverse_dns_servers": ["198.18.0.2:8600"],
        "traffic_names": False,
        "consul": settings.Consul(
            url="http://198.18.0.2:8500",
            datacentre="lab",
            token_file="/etc/token",
            keep_s=60,
            tls=settings.Access(ca="/ca", certificate="/c", key="/k"),
        ),
        "etcd": settings.Etcd(
            urls=("https://198.18.0.2:2379", "https://198.18.0.3:2379"),
            layout="/x/{service}/{ip}:{port}",
            user="agent",
            password_file="/etc/password",
            keep_s=60,
            tls=trust,
        ),
        "registry": settings.Static(
            location='https://198.18.0.4/a "list".json', interval_s=0.5, keep_s=60, tls=trust
        ),
    }


def test_a_manifest_can_say_all_that_agents_understand() -> None:
    """What an operator may choose about names is the same in both."""
    assert set(Naming.__struct_fields__) == {field.name for field in fields(methods.Naming)}
    for ours, theirs in ((Consul, settings.Consul), (Etcd, settings.Etcd), (Registry, settings.Static)):
        assert set(ours.__struct_fields__) == set(theirs.__struct_fields__)


def test_nothing_said_is_nothing_written(tmp_path: Path) -> None:
    """Agents of a stack without such a table need no file."""
    assert understood(tmp_path, "") == {}
    assert Naming().configuration() == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[consul]\nurl = "consul:8500"', "consul.url: expected a URL"),
        ("[consul]\ntoken = 'x'", "consul.token: no such key"),
        ("[etcd]\nurls = []", "etcd.urls: expected a list of URLs"),
        ("dns_ports = [0]", "dns_ports: expected a list"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """The line names the key and what to write there."""
    with pytest.raises(DocumentError, match=says):
        understood(tmp_path, text)
