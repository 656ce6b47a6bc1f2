"""What `dma resolve` explains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dma.capture.lab import SERVER_V4, Cable
from tests.lab.consul import Consul
from tests.lab.etcd import Etcd
from tests.lab.namespace import Namespace

DMA = Path(sys.executable).with_name("dma")
DEADLINE_S = 20.0
WEB = "198.18.7.1"


def resolve(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return subprocess.run([DMA, "resolve", *arguments], capture_output=True, text=True, timeout=DEADLINE_S)


def test_every_method_is_told_and_the_winner_explained(network: Cable, tmp_path: Path) -> None:
    """Real registries that call a place differently are told apart, and the most trusted name is taken."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").write_text(f"{WEB} web-1\n")
    services = tmp_path / "services.json"
    services.write_text(json.dumps([{"service": "frontend", "ip": WEB, "port": 8080}]))
    inside = Namespace(network.server)
    with (
        Consul(inside, SERVER_V4, tmp_path / "consul") as consul,
        Etcd(inside, SERVER_V4, tmp_path / "etcd-data") as etcd,
    ):
        consul.register("web", WEB, 8080)
        etcd.put("/services/www/a", f"{WEB}:8080")
        config = tmp_path / "agent.toml"
        config.write_text(f'[consul]\nurl = "{consul.url}"\n[etcd]\nurls = ["{etcd.url}"]\n')
        where = ("--netns", str(network.client_netns), "--root", str(tmp_path), "--config", str(config))
        told = resolve(f"{WEB}:8080", *where, "--registry", str(services), "--no-reverse-dns", "--json")
        record = json.loads(told.stdout)
        assert (record["name"], record["method"]) == ("frontend", "registry")
        assert record["why"] == "registry is trusted with 98, consul (web) with 96"
        said = {one["method"]: [name["name"] for name in one["names"]] for one in record["methods"]}
        assert said["consul"] == ["web"]
        assert said["etcd"] == ["www"]
        assert said["hosts file"] == ["web-1"]
        shown = resolve(f"{WEB}:8080", *where, "--no-reverse-dns")
        assert f"{WEB}:8080 is web: consul is trusted with 96, etcd (www) with 95" in shown.stdout
        assert "a running agent hears it" in shown.stdout


def test_what_is_out_of_reach_is_told(network: Cable) -> None:
    """A registry that does not answer is a line of the findings, and costs no more than the time that is given."""
    where = ("--netns", str(network.client_netns), "--no-reverse-dns", "--timeout", "0.5")
    told = resolve(f"{WEB}:22", *where, "--consul", f"http://{SERVER_V4}:8500", "--json")
    record = json.loads(told.stdout)
    assert record["name"] == "ssh"
    assert "of a kind of service only" in record["why"]
    (consul,) = (one for one in record["methods"] if one["method"] == "consul")
    assert f"http://{SERVER_V4}:8500 cannot be used" in consul["detail"]


@pytest.mark.parametrize("text", ["198.18.0.2", "web:80", "198.18.0.2:0", "198.18.0.2:http"])
def test_what_is_no_destination_is_one_line(text: str) -> None:
    """The last line says how to write one."""
    done = resolve(text)
    assert done.returncode == 2
    assert "port" in done.stderr.splitlines()[-1].lower()
