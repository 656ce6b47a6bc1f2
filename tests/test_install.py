"""``make install`` and the units, on a real systemd in a layer above this machine's root."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from dm.client import connect
from dm.v1 import stack_pb2, stack_service_pb2_grpc
from dm.v1 import stack_service_pb2 as stacks
from idm.ca import Authority
from tests.lab.namespace import Namespace, namespace, run
from tests.lab.nspawn import Layer, Machine, booted, layer, until
from tests.stubs import ROOT

UNITS = ("stackmend-dma.service", "stackmend-dm@pair.service", "stackmend-idm@pair.service")
EXPOSURE = {"stackmend-dma.service": 2.7, "stackmend-dm@.service": 2.0, "stackmend-idm@.service": 5.5}
"""What systemd makes of each unit at most, from 0 to 10. The deployer enters containers and writes VMs' disks."""
ADDRESS = "198.18.9.1"
NOBODY = "198.18.9.2"
AGENT_CAPABILITIES = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39
"""CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF of linux/capability.h."""
DEADLINE_S = 30.0
MAKE_S = 300
TREE = (
    "Makefile",
    "install.mk",
    "runtime.lock",
    "requirements.lock",
    "pyproject.toml",
    "LICENSE",
    "README.md",
)


class Host(NamedTuple):
    """A root on which the product is installed, what the installation wrote, and how to run ``make`` on it again."""

    layer: Layer
    installed: frozenset[str]
    source: Path

    def make(self, target: str) -> None:
        """Run a target of the Makefile, staged to this root."""
        make(self.source, target, self.layer.root)


def make(source: Path, target: str, destination: Path) -> None:
    """Run ``make`` in a copy of the tree with this run's environment, which is ready."""
    venv = Path(sys.prefix)
    kept = [argument for name in ("ready", "packages") for argument in ("-o", str(venv / name))]
    variables = [f"DESTDIR={destination}", f"VENV={venv}"]
    run(["make", "-s", "-C", str(source), *kept, target, *variables], timeout_s=MAKE_S)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made of: building it writes into the tree, which others are using."""
    if os.geteuid():
        pytest.skip("installs below another root and boots it: needs root")
    copy = tmp_path_factory.mktemp("source")
    for name in ("bpf", "dm", "dma", "idm", "proto"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in TREE:
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def host(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The product, installed once for all tests of this module."""
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed: apt-get install systemd-container")
    with layer(tmp_path_factory.mktemp("host")) as made:
        make(source, "install", made.root)
        yield Host(made, frozenset(made.files()), source)


@pytest.mark.lab
def test_the_programs_run_from_their_links(host: Host) -> None:
    """dm, dma and idm answer by the links in /usr/local/bin, and nothing in them names the place of the staging."""
    for program in ("dm", "dma", "idm"):
        said = run(["chroot", str(host.layer.root), f"/usr/local/bin/{program}", "--version"])
        assert said.startswith(f"{program}, version ")
    places = {name.split("/")[0] for name in host.installed}
    assert places == {"opt", "usr", "etc"}
    for directory in ("opt/stackmend/bin", "usr/local", "etc"):
        for path in (host.layer.changes / directory).rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert str(host.layer.root).encode() not in path.read_bytes(), path


@pytest.mark.lab
def test_the_units_are_without_a_warning(host: Host) -> None:
    """systemd finds every program and knows every setting: it has nothing to say."""
    command = ["systemd-analyze", "verify", "--man=no", f"--root={host.layer.root}", *UNITS]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize(("unit", "most"), EXPOSURE.items())
def test_the_units_are_closed(unit: str, most: float) -> None:
    """No unit exposes more of the machine than was decided."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    file = ROOT / "idm" / "units" / unit
    said = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)])
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= most


@contextmanager
def cabled() -> Iterator[Namespace]:
    """A network in which one address is ours, and calls of another have no answer."""
    with namespace() as made:
        for command in (
            "ip link add one type veth peer name two",
            f"ip address add {ADDRESS}/24 dev one",
            "ip link set one up",
            "ip link set two up",
        ):
            run(made.enter(*command.split()))
        yield made


def deliver(root: Path) -> None:
    """What a deployer puts there: an authority, the manager's certificate, and the agent's one file."""
    authority = Authority(root / "var/lib/stackmend/pair/ca", "pair")
    authority.manager([ip_address(ADDRESS)])
    web = authority.vcd("web")
    place = root / "etc/stackmend/tls"
    place.mkdir()
    for source, name in ((web.ca, "ca.pem"), (web.certificate, "agent.pem")):
        shutil.copy(source, place / name)
        (place / name).chmod(0o600)
    (root / "etc/stackmend/agent.toml").write_text(
        f'dm = "{ADDRESS}:7443"\nstack = "pair"\nvcd = "web"\ninterval_ms = 200\nreverse_dns = false\n'
        '[tls]\nca = "/etc/stackmend/tls/ca.pem"\ncertificate = "/etc/stackmend/tls/agent.pem"\n'
    )
    (root / "etc/stackmend/dm/pair.env").write_text(
        f"STACKMEND_DM_LISTEN=--listen {ADDRESS}:7443\n"
        "STACKMEND_TLS_CA=/var/lib/stackmend/pair/ca/ca.pem\n"
        "STACKMEND_TLS_CERT=/var/lib/stackmend/pair/ca/manager.pem\n"
    )
    (root / "etc/systemd/system/lab.target").write_text(
        "[Unit]\nRequires=sysinit.target\nWants=stackmend-dm@pair.service stackmend-dma.service\n"
    )


async def seen(target: str, address: str) -> None:
    """Declare the stack and wait until the manager knows that web calls an address."""
    vcds = [stack_pb2.VcdSpec(name="web"), stack_pb2.VcdSpec(name="db")]
    spec = stack_pb2.StackSpec(name="pair", fingerprint="f", vcds=vcds, launch="l")
    async with asyncio.timeout(DEADLINE_S), connect(target) as channel:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        await stub.ApplyStack(stacks.ApplyStackRequest(stack=spec))
        async for _ in stub.WatchStatus(stacks.WatchStatusRequest(stack="pair")):
            graph = await stub.GetGraph(stacks.GetGraphRequest(stack="pair"))
            if any(edge.source == "web" and edge.target == address for edge in graph.edges):
                return


def active(machine: Machine, unit: str) -> str:
    """The main process of a unit that is active, else nothing."""
    said = machine.run("systemctl", "show", unit, "--property=ActiveState,MainPID").stdout
    facts = dict(line.split("=", 1) for line in said.splitlines())
    return facts["MainPID"] if facts.get("ActiveState") == "active" else ""


def replaced(machine: Machine, unit: str, pid: str) -> bool:
    """Whether a unit is active with another main process."""
    return active(machine, unit) not in ("", pid)


@pytest.mark.lab
@pytest.mark.kernel
def test_agent_and_manager_work_in_their_confinement(host: Host) -> None:
    """With the units' few rights the agent loads BPF and reports over TLS; killed, both are back by themselves."""
    deliver(host.layer.root)
    allowed = ("bpf", "perf_event_open")
    with cabled() as network, booted(host.layer.root, network, unit="lab.target", allowed=allowed) as machine:
        pids = {unit: until(partial(active, machine, unit), what=f"{unit} is not up") for unit in UNITS[:2]}
        status = machine.run("cat", f"/proc/{pids[UNITS[0]]}/status").stdout
        held = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if "Cap" in line}
        assert held["CapEff:"] == held["CapBnd:"] == AGENT_CAPABILITIES
        call = f"exec 3<>/dev/tcp/{NOBODY}/9"
        machine.run("timeout", "2", "bash", "-c", call)
        target = f"unix:/proc/{machine.leader}/root/run/stackmend/pair/dm.sock"
        asyncio.run(seen(target, NOBODY))
        for unit in UNITS[:2]:
            machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
            until(partial(replaced, machine, unit, pids[unit]), what=f"{unit} is not restarted")
        machine.run("timeout", "2", "bash", "-c", call)
        asyncio.run(seen(target, NOBODY))


@pytest.mark.lab
def test_settings_survive_and_nothing_else_does(host: Host) -> None:
    """A new installation keeps changed settings, and so does the end of it; all else that was installed is gone."""
    settings = host.layer.root / "etc/stackmend/idm.toml"
    settings.write_text('[state]\nrun = "/run/mine"\n')
    host.make("install")
    assert settings.read_text() == '[state]\nrun = "/run/mine"\n'
    host.make("uninstall")
    assert host.layer.files() & host.installed == {"etc/stackmend/idm.toml"}
    assert not (host.layer.root / "opt/stackmend").exists()


def test_unchanged_settings_go(source: Path, tmp_path: Path) -> None:
    """An example that nobody touched is removed with its directories; a link that leads elsewhere is not ours."""
    settings, example = tmp_path / "etc/stackmend/idm.toml", tmp_path / "opt/stackmend/share/idm.toml"
    link = tmp_path / "usr/local/bin/dm"
    for path in (settings, example):
        path.parent.mkdir(parents=True)
        shutil.copy(ROOT / "idm/units/idm.toml", path)
    link.parent.mkdir(parents=True)
    link.symlink_to("/somewhere/dm")
    make(source, "uninstall", tmp_path)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [link]
    assert not (tmp_path / "etc/stackmend").exists()
