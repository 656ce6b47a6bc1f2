"""The agent inside a guest with the distribution's own kernel."""

import json
from pathlib import Path

import pytest

from tests.lab.libvirt import LibvirtLab
from tests.lab.vm_guest import Guest
from tests.vm.conftest import AGENT_ADDRESS, IN_GUEST, INTERPRETER
from tests.vm.suite import install_suite, run_suite
from tests.vm.workload import CONNECTS, DATAGRAMS, OPEN_PORTS

pytestmark = pytest.mark.vm

TABLE, TABLE_S = "tests/dma/capture/test_table.py tests/dma/capture/test_table_udp.py", 400
TESTS = 30
# Of the table, what takes little time and has every kind of call.
IPV4, IPV4_TESTS = "workload or connected_udp or no_route or refused or corked", 9
PROBED_PLANS = ("fentry", "kprobe", "cgroup")
REFUSED = {7104: {"refused": 4}, 7105: {"refused": 3}}
NEEDED = {
    "privileges",
    "BTF",
    "libbpf",
    "cgroup2",
    "tracepoint inet_sock_set_state",
    "tracepoint tcp_destroy_sock",
    "tracepoint inet_sk_error_report",
    "cgroup hook sock_release",
    "cgroup hook connect4",
    "cgroup hook connect6",
    "cgroup hook sendmsg4",
    "cgroup hook sendmsg6",
    "kprobes",
    "IPv6",
    "return of tcp_v4_connect",
    "return of tcp_v6_connect",
    "entry of tcp_connect",
    "entry of udp_sendmsg",
    "entry of udpv6_sendmsg",
    "kprobe tcp_connect_kprobe",
    "kprobe udp_sendmsg_kprobe",
    "kprobe udpv6_sendmsg_kprobe",
    "kprobe tcp_v4_connect_return",
    "kprobe tcp_v6_connect_return",
    "plan fentry by core",
    "socket diagnostics",
    "destroying sockets",
    "plan kprobe by core",
    "plan cgroup by core",
    "plan netlink",
}


def test_a_stock_kernel_has_what_the_agent_needs(agent_guest: Guest) -> None:
    """On Debian's 6.1 every hook attaches, and the best plan is chosen."""
    examined = json.loads(agent_guest.run("dma", "doctor", "--json", timeout_s=120).stdout)
    works = {finding["subject"]: finding["works"] for finding in examined["findings"]}
    assert {subject for subject in NEEDED if works[subject]} == NEEDED, examined
    assert (examined["plan"], examined["loader"]) == ("fentry", "core")


# The cgroup plan counts it all on the host.
@pytest.mark.parametrize("way", ["fentry/core", "kprobe/core"])
def test_the_table_in_a_stock_kernel(agent_guest: Guest, way: str) -> None:
    """All that the table of known workloads tells is counted so by each plan that hooks kernel functions."""
    install_suite(agent_guest)
    counted = run_suite(agent_guest, TABLE, ways=way, timeout_s=TABLE_S)
    assert counted.failed == {}
    assert len(counted.passed) >= TESTS


def test_the_table_without_ipv6(vm_lab: LibvirtLab) -> None:
    """A kernel that was told to do without IPv6 lacks nothing of any plan, and of IPv4 all is counted."""
    image = vm_lab.image()
    guest = vm_lab.guest("plain", "198.18.0.12", image=image, arguments="ipv6.disable=1")
    vm_lab.install(guest)
    examined = json.loads(guest.run("dma", "doctor", "--json", timeout_s=120).stdout)
    found = {finding["subject"]: (finding["works"], finding["detail"]) for finding in examined["findings"]}
    assert not found["IPv6"][0]
    assert [found[f"plan {plan} by core"] for plan in PROBED_PLANS] == [(True, "complete")] * 3
    install_suite(guest)
    ways = " ".join(f"{plan}/core" for plan in PROBED_PLANS)
    counted = run_suite(guest, f"{TABLE} -m 'not ipv6' -k '{IPV4}'", ways=ways, timeout_s=TABLE_S)
    assert counted.failed == {}
    assert len(counted.passed) == len(PROBED_PLANS) * IPV4_TESTS


def test_the_table_by_a_compiler(compiling_guest: Guest) -> None:
    """The same programs count the same when bcc compiled them against the kernel's headers."""
    install_suite(compiling_guest)
    counted = run_suite(compiling_guest, TABLE, ways="kprobe/bcc", timeout_s=TABLE_S)
    assert counted.failed == {}
    assert len(counted.passed) >= TESTS


def test_a_compiler_without_headers(compiling_guest: Guest) -> None:
    """Where the kernel's headers are missing, the package to install is named."""
    script = """
        cd /lib/modules/$(uname -r) && mv build elsewhere
        dma watch --loader bcc --count 1
        mv elsewhere build
    """
    refused = compiling_guest.run("sh", "-c", script, check=False).stderr
    release = compiling_guest.run("uname", "-r").stdout.strip()
    assert f"the running kernel's headers are missing: apt-get install linux-headers-{release}" in refused


def test_known_workload_in_a_guest(agent_guest: Guest, server: str) -> None:
    """Of 23 connects to 5 destinations, 7 refused, and of 11 UDP sends, each is counted once."""
    counted = json.loads(agent_guest.run(INTERPRETER, IN_GUEST, "cgroup", server, timeout_s=120).stdout)
    assert {flow["address"] for flow in counted["flows"]} == {server}
    tcp = {flow["port"]: flow for flow in counted["flows"] if flow["transport"] == "TCP"}
    udp = {flow["port"]: flow for flow in counted["flows"] if flow["transport"] == "UDP"}
    assert {port: flow["attempts"] for port, flow in tcp.items()} == CONNECTS
    assert {port: flow["established"] for port, flow in tcp.items() if flow["established"]} == {
        port: CONNECTS[port] for port in OPEN_PORTS
    }
    assert {port: flow["failures"] for port, flow in tcp.items() if flow["failures"]} == REFUSED
    assert {port: flow["attempts"] for port, flow in udp.items()} == DATAGRAMS
    assert not any(flow["unsettled"] for flow in counted["flows"])
    assert counted["losses"] == {}


def test_calls_of_the_kernel_itself(agent_guest: Guest, server: str) -> None:
    """A file system that is mounted is called by a thread of the kernel's, and each plan counts that as one call."""
    program = "/var/tmp/mount.py"
    agent_guest.agent.write(program, Path(__file__).with_name("mount.py").read_bytes())
    command = (INTERPRETER, program, AGENT_ADDRESS, server, str(OPEN_PORTS[0]), *PROBED_PLANS)
    counted = json.loads(agent_guest.run(*command, timeout_s=120).stdout)
    assert counted.keys() == set(PROBED_PLANS)
    for one in counted.values():
        (flow,) = one["flows"]
        assert flow["command"].startswith("kworker/"), counted
        assert (flow["attempts"], flow["established"], flow["unsettled"]) == (1, 1, 0), counted


def test_watch_prints_the_exchange_format(agent_guest: Guest, server: str) -> None:
    """What a guest calls while ``dma watch`` runs stands in its array, each destination once."""
    # The first array tells that the capture is on.
    script = f"""
        dma watch --json --interval 0.5 --duration 60 --no-reverse-dns > /var/tmp/watched & watch=$!
        until [ -s /var/tmp/watched ]; do sleep 0.1; done
        cd /var/tmp && {INTERPRETER} {IN_GUEST} {server} && lines=$(wc -l < watched)
        until [ "$(wc -l < watched)" -ge $((lines + 2)) ]; do sleep 0.1; done
        kill $watch && wait $watch; tail -n1 /var/tmp/watched
    """
    printed = json.loads(agent_guest.run("sh", "-c", script, timeout_s=120).stdout)
    seen = sorted((entry["ip"], entry["port"]) for entry in printed)
    assert seen == sorted((server, port) for port in CONNECTS | DATAGRAMS)
