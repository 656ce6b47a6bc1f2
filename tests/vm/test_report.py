"""An agent that runs as a guest's service reports to a manager on the hypervisor."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from dm.client import connect
from dm.v1 import flow_pb2, stack_pb2, stack_service_pb2_grpc
from dm.v1 import stack_service_pb2 as stacks
from idm.ca import Authority
from tests.dma.test_config import process
from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest
from tests.lab.vm_image import ROOT
from tests.vm.conftest import IN_GUEST, INTERPRETER
from tests.vm.workload import CONNECTS, DATAGRAMS

pytestmark = pytest.mark.vm

PORT = 7443
UNIT = "stackmend-dma.service"
DEADLINE_S = 60
TCP, UDP = flow_pb2.TRANSPORT_TCP, flow_pb2.TRANSPORT_UDP


@pytest.fixture(scope="module")
def manager(vm_lab: LibvirtLab, authority: Authority, folder: Path) -> Iterator[str]:
    """A manager in the lab's namespace that guests reach by TLS; its socket on this side."""
    target = f"unix:{folder}/dm.sock"
    tls = authority.manager([ip_address(vm_lab.gateway.ip)])
    command = vm_lab.namespace.enter(sys.executable, "-m", "dm", "serve", "--state", f"{folder}/dm.sqlite")
    command += ["--listen", target, "--listen", f"{vm_lab.gateway.ip}:{PORT}"]
    with process(folder, "dm", *command, "--tls-ca", str(tls.ca), "--tls-cert", str(tls.certificate)):
        asyncio.run(declare(target))
        yield target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the manager keeps, and its certificates."""
    return tmp_path_factory.mktemp("manager")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """The stack's."""
    return Authority(folder / "ca", "lab")


@pytest.fixture(scope="module")
def reporting(vm_lab: LibvirtLab, manager: str, authority: Authority, agent_guest: Guest) -> Iterator[Guest]:
    """A guest whose agent is a service that reports as web."""
    assert manager
    guest = agent_guest
    tls = authority.vcd("web")
    guest.run("install", "-d", "-m0700", "/etc/stackmend/tls")
    guest.agent.write("/etc/stackmend/tls/ca.pem", tls.ca.read_bytes())
    # The guest agent makes files that everybody may read and write.
    guest.run("install", "-m0600", "/dev/null", "/etc/stackmend/tls/agent.pem")
    guest.agent.write("/etc/stackmend/tls/agent.pem", tls.certificate.read_bytes())
    guest.agent.write(
        "/etc/stackmend/agent.toml",
        f'dm = "{vm_lab.gateway.ip}:{PORT}"\nstack = "lab"\nvcd = "web"\nreverse_dns = false\n'
        '[tls]\nca = "/etc/stackmend/tls/ca.pem"\ncertificate = "/etc/stackmend/tls/agent.pem"\n'.encode(),
    )
    guest.agent.write(f"/etc/systemd/system/{UNIT}", (ROOT / "idm" / "units" / UNIT).read_bytes())
    guest.run("systemctl", "daemon-reload")
    guest.run("systemctl", "start", UNIT, timeout_s=DEADLINE_S)
    yield guest
    guest.run("systemctl", "stop", UNIT)


async def declare(target: str) -> None:
    """A stack of one."""
    spec = stack_pb2.StackSpec(name="lab", fingerprint="f", vcds=[stack_pb2.VcdSpec(name="web")], launch="l")
    async with connect(target) as channel:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        await stub.ApplyStack(stacks.ApplyStackRequest(stack=spec), timeout=DEADLINE_S)


async def reported(target: str, wanted: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Attempts by transport and port, as soon as they are the wanted ones; at the deadline, whatever they are."""
    found: dict[tuple[int, int], int] = {}
    deadline = time.monotonic() + DEADLINE_S
    async with connect(target) as channel:
        stub = stack_service_pb2_grpc.StackServiceStub(channel)
        while found != wanted and time.monotonic() < deadline:
            graph = await stub.GetGraph(stacks.GetGraphRequest(stack="lab"), timeout=DEADLINE_S)
            found = {(edge.transport, edge.port): edge.attempts for edge in graph.edges}
            await asyncio.sleep(0.1)
    return found


def test_the_unit_grants_what_the_best_plan_needs(agent_guest: Guest) -> None:
    """With the capabilities of the agent's unit and no others, a stock kernel allows the plan that root gets."""
    examined = agent_guest.run(
        *_as_the_unit(), "/usr/local/bin/dma", "doctor", "--json", timeout_s=120
    ).stdout
    assert json.loads(examined)["plan"] == "fentry"


def test_a_service_without_kprobes_is_told_why(agent_guest: Guest) -> None:
    """Debian keeps them for CAP_SYS_ADMIN; who insists on them is told which setting that is."""
    watch = ("/usr/local/bin/dma", "watch", "--plan", "kprobe", "--loader", "core", "--count", "1")
    refused = agent_guest.run(*_as_the_unit(), *watch, check=False, timeout_s=120).stderr
    assert "not permitted: kernel.perf_event_paranoid is 3, which keeps kprobes for CAP_SYS_ADMIN" in refused


def test_a_service_in_a_guest_reports(reporting: Guest, manager: str, server: str) -> None:
    """The confined service attaches in a stock kernel and tells the manager every attempt, its own connection apart."""
    reporting.run(INTERPRETER, IN_GUEST, server)
    wanted: dict[tuple[int, int], int] = {(TCP, port): times for port, times in CONNECTS.items()}
    wanted |= {(UDP, port): times for port, times in DATAGRAMS.items()}
    found = asyncio.run(reported(manager, wanted))
    journal = reporting.run("journalctl", "-u", UNIT).stdout
    assert found == wanted, journal
    # What the unit forbids must not keep it from /etc/hosts and the like.
    assert "fewer names" not in journal


def _as_the_unit() -> tuple[str, ...]:
    """What runs a command with the capabilities of the agent's unit and no others."""
    lines = (ROOT / "idm" / "units" / UNIT).read_text().splitlines()
    granted = next(line for line in lines if line.startswith("CapabilityBoundingSet="))
    return ("systemd-run", "--quiet", "--pipe", "--wait", "--property", granted)
