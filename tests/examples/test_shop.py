"""The sample shop: it works, it is light, and every fault breaks it as it says."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from examples.shop import faults
from idm.manifest import Manifest, Vcd
from tests.examples.place import load_filter
from tests.examples.shop import MANIFEST, image, payments
from tests.lab.namespace import LabError, run
from tests.lab.podman import PodmanLab

pytestmark = pytest.mark.lab

NETWORK = "shop"
WORKS_S = 20
BROKEN_S = 2
POLL_S = 0.1


class Shop:
    """The shop's containers in a lab, started by podman alone."""

    def __init__(self, lab: PodmanLab) -> None:
        self.manifest = msgspec.toml.decode(MANIFEST.read_bytes(), type=Manifest)
        self._lab = lab
        lab.podman("network", "create", "--disable-dns", "--subnet", self.manifest.network.subnet, NETWORK)

    def start(self, name: str) -> None:
        """Run a container anew from the image, whatever became of it."""
        vcd: Vcd = self.manifest.vcd[name]
        addresses = {other: known.address for other, known in self.manifest.vcd.items()}
        hosts = [f"--add-host={host}:{at}" for host, at in (addresses | self.manifest.network.hosts).items()]
        # Neighbours remember a MAC address for up to a minute.
        mac = "02:00:" + ":".join(f"{int(byte):02x}" for byte in vcd.address.split("."))
        self._lab.podman("rm", "--force", "--ignore", "--time=0", name)
        options = [
            "--detach",
            "--name",
            name,
            "--network",
            NETWORK,
            "--ip",
            vcd.address,
            "--mac-address",
            mac,
        ]
        self._lab.podman("run", *options, *hosts, vcd.image, *vcd.command)

    def fix_gateway(self) -> None:
        """Keep the bridge's MAC address, which otherwise follows the containers that come and go."""
        inspected = json.loads(self._lab.podman("network", "inspect", NETWORK).stdout)
        bridge = ["dev", inspected[0]["network_interface"]]
        run(["ip", "-n", self._lab.netns, "link", "set", *bridge, "address", "02:00:00:00:00:01"])

    def run(self, vcd: str, command: Sequence[str]) -> None:
        """Run a command inside a container."""
        self._lab.podman("exec", vcd, *command)

    def pid(self, vcd: str) -> int:
        """The first process of a container."""
        return int(self._lab.podman("inspect", "--format", "{{.State.Pid}}", vcd).stdout)

    def load_filter(self, vcd: str, rules: str) -> None:
        """Load a packet filter's rules in a container's network."""
        load_filter(self.pid(vcd), rules)

    def restart(self, vcd: str) -> None:
        """Restart a container, keeping what is in it."""
        self._lab.podman("restart", vcd)

    def running(self, vcd: str) -> bool:
        """Whether a container looks healthy from outside."""
        return self._lab.podman("inspect", "--format", "{{.State.Status}}", vcd).stdout.strip() == "running"

    def smoke(self, seconds: float) -> dict[str, str]:
        """Run the smoke workload; what failed and why, which is nothing when the shop works."""
        done = self._lab.podman("exec", "client", "/srv/shop/smoke", "--seconds", str(seconds), check=False)
        result: dict[str, dict[str, str]] = json.loads(done.stdout)
        assert done.returncode == bool(result["failures"]), done.stdout
        return result["failures"]

    @contextmanager
    def broken(self, vcd: str, fault: Callable[[], None]) -> Iterator[None]:
        """A shop that works, and then has a fault; at the end the container is made anew, and that must help."""
        assert not self.smoke(WORKS_S)
        fault()
        try:
            yield
        finally:
            self.start(vcd)
        assert not self.smoke(WORKS_S)

    def says(self, vcd: str, text: str) -> None:
        """Wait until a container's newest lines of log say something."""
        wait_until(
            lambda: text in self.newest(vcd), what=lambda: f"{vcd} to say {text!r}: {self.newest(vcd)!r}"
        )

    def newest(self, vcd: str) -> str:
        """The end of a container's log."""
        logged = self._lab.podman("logs", "--tail", "5", vcd)
        return logged.stdout + logged.stderr


def wait_until(condition: Callable[[], bool], *, what: Callable[[], str]) -> None:
    """Poll until it is so, for a bounded time."""
    deadline = time.monotonic() + WORKS_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what()}"
        time.sleep(POLL_S)


def processes(pid: int) -> list[Path]:
    """All processes of a container, by its first one."""
    own = Path(f"/proc/{pid}/ns/pid").readlink()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "ns/pid").readlink() == own:
                found.append(process)
    return found


def cpu_s(process: Path) -> float:
    """Processor time of a process and of those that it waited for."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def memory_mb(process: Path) -> float:
    """A process's share of the memory in use."""
    rollup = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


def connects(pid: int) -> int:
    """TCP connections attempted so far in a process's network namespace."""
    names, values = (
        line.split() for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines() if "Tcp:" in line
    )
    return int(values[names.index("ActiveOpens")])


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """The shop at work, with the payments provider beside it."""
    with PodmanLab() as lab, payments(lab.namespace):
        lab.image(image())
        shop = Shop(lab)
        for vcd in shop.manifest.vcd:
            shop.start(vcd)
            shop.fix_gateway()
        yield shop


def test_every_check_is_right_soon_after_the_start(shop: Shop) -> None:
    """The whole shop works a few seconds after its containers were started, without help."""
    assert not shop.smoke(WORKS_S)


def test_light(shop: Shop) -> None:
    """Under the client's two requests a second the stack takes less than 15 % of a core and 200 MB."""
    client = shop.pid("client")
    members = {vcd: processes(shop.pid(vcd)) for vcd in shop.manifest.vcd}
    flat = [process for group in members.values() for process in group]
    since, used, requests = time.monotonic(), sum(map(cpu_s, flat)), connects(client)
    wait_until(lambda: connects(client) >= requests + 10, what=lambda: "ten requests")
    elapsed = time.monotonic() - since
    share = (sum(map(cpu_s, flat)) - used) / elapsed
    memory = {vcd: round(sum(map(memory_mb, group)), 1) for vcd, group in members.items()}
    assert 3 < elapsed < 10
    assert share < 0.15
    assert sum(memory.values()) < 200, memory


@pytest.mark.parametrize("vcd", ["db", "queue"])
def test_crash_outlasts_a_restart(shop: Shop, vcd: str) -> None:
    """A service whose program is gone refuses connections, also after a restart, while its container runs."""
    with shop.broken(vcd, lambda: faults.crash(shop, vcd)):
        shop.says("api", f"{vcd}: ")
        shop.restart(vcd)
        assert shop.smoke(BROKEN_S)["queue"]
        shop.says("api", "Connection refused")
        assert shop.running(vcd)


@pytest.mark.parametrize("vcd", ["db", "cache"])
def test_corrupt_outlasts_a_restart(shop: Shop, vcd: str) -> None:
    """A server whose data is ruined refuses connections, also after a restart, while its container runs."""
    with shop.broken(vcd, lambda: faults.corrupt(shop, vcd)):
        shop.says("api", f"{vcd}: ")
        shop.restart(vcd)
        assert shop.smoke(BROKEN_S)[vcd]
        shop.says("api", "Connection refused")
        assert shop.running(vcd)


def test_corrupt_needs_data(shop: Shop) -> None:
    """A container that keeps no data cannot be corrupted, and goes on working."""
    with pytest.raises(LabError):
        faults.corrupt(shop, "api")
    assert not shop.smoke(WORKS_S)


def test_misconfig_hurts_the_caller_alone(shop: Shop) -> None:
    """A caller with a wrong address fails towards it, while another client of the same server goes on."""
    worker = processes(shop.pid("worker"))
    with shop.broken("api", lambda: faults.misconfig(shop, "api", "db", f"{faults.NOBODY}:5432")):
        assert shop.smoke(BROKEN_S).keys() == {"db", "queue"}
        shop.says("api", "db: ")
        assert "db: " not in shop.newest("worker")
        assert processes(shop.pid("worker")) == worker


def test_misconfig_needs_the_key(shop: Shop) -> None:
    """A dependency that the service does not have cannot be misconfigured."""
    with pytest.raises(LabError):
        faults.misconfig(shop, "web", "db", f"{faults.NOBODY}:5432")


def test_partition_is_silence(shop: Shop) -> None:
    """Behind a broken firewall a server neither answers nor refuses, and it still runs."""
    with shop.broken("db", lambda: faults.partition(shop, "db")):
        assert shop.smoke(BROKEN_S).keys() == {"db", "queue"}
        shop.says("api", "db: timed out")
        assert shop.running("db")
