"""The podman driver against a real podman, in a private network namespace."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from idm import manifest, settings
from idm.driver import DriverError, Power
from idm.drivers.podman import PodmanDriver
from tests.lab.podman import PodmanLab
from tests.lab.processes import processes
from tests.lab.tiny import TINY

pytestmark = [
    pytest.mark.lab,
    # podman-py leaves a socket that could not be connected to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*UDSSocket:pytest.PytestUnraisableExceptionWarning"),
]

STACK = """
[stack]
name = "tiny"

[network]
subnet = "198.18.66.0/24"
hosts = {{ "payments.example" = "198.18.67.5" }}

[vcd.one]
image = "{image}"
address = "198.18.66.11"
command = ["/bin/sh", "-c", "echo from $COLOUR; trap exit TERM; while :; do sleep 0.1; done"]
environment = {{ COLOUR = "blue" }}
capabilities = ["NET_ADMIN"]

[vcd.two]
image = "{image}"
command = ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"]
after = ["one"]
"""


@pytest.fixture
def driver(podman_lab: PodmanLab, tmp_path: Path) -> Iterator[PodmanDriver]:
    """A driver of a defined and started stack, which is removed at the end."""
    path = tmp_path / "stack.toml"
    path.write_text(STACK.format(image=podman_lab.image(TINY)))
    stack = manifest.load(path)
    driver = PodmanDriver(stack, settings.load(podman_lab.settings).podman)
    try:
        driver.check()
        driver.prepare()
        for vcd in stack.vcd.values():
            driver.define(vcd)
            driver.start(vcd.name)
        yield driver
    finally:
        driver.remove()
        driver.close()
        gc.collect()


def _shell(driver: PodmanDriver, vcd: str, script: str) -> str:
    done = driver.execute(vcd, ["/bin/sh", "-c", script], timeout_s=10)
    assert done.status == 0, done.output
    return done.output.strip()


def _eventually(holds: Callable[[], bool], *, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    ticks = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        ticks.wait(0.05)


def test_a_container_is_as_the_manifest_says(driver: PodmanDriver) -> None:
    """Address, host name, environment, capabilities and the names of the others are those of the manifest."""
    assert _shell(driver, "two", "hostname") == "two"
    assert _shell(driver, "one", "echo $COLOUR") == "blue"
    assert "198.18.66.11/24" in _shell(driver, "one", "ip -4 addr show eth0")
    assert _shell(driver, "one", "ip link set lo down && ip link set lo up && echo yes") == "yes"
    hosts = [line.split() for line in _shell(driver, "two", "cat /etc/hosts").splitlines()]
    assert ["198.18.66.11", "one"] in hosts
    assert ["198.18.67.5", "payments.example"] in hosts
    assert _shell(driver, "two", "ping -c 1 -W 2 one >/dev/null && echo reached") == "reached"


def test_defining_twice_is_an_error(driver: PodmanDriver) -> None:
    """An instance of that name is not replaced."""
    vcd = driver._manifest.vcd["one"]
    with pytest.raises(DriverError, match=r"^one cannot be created: .*in use.*: idm down removes"):
        driver.define(vcd)


def test_powers_through_a_life(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """Running, paused, resumed, stopped, crashed and absent are told apart, and each start is another incarnation."""
    first = driver.instances()["one"]
    assert first.power is Power.RUNNING
    assert first.netns is not None
    assert first.netns.exists()
    podman_lab.podman("pause", "tiny-one")
    assert driver.instances()["one"].power is Power.PAUSED
    driver.start("one")
    assert driver.instances()["one"] == first
    driver.stop("one", grace_s=5)
    assert driver.instances()["one"].power is Power.STOPPED
    driver.start("one")
    again = driver.instances()["one"]
    assert again.power is Power.RUNNING
    assert again.incarnation != first.incarnation
    podman_lab.podman("kill", "tiny-one")
    _eventually(lambda: driver.instances()["one"].power is Power.CRASHED)
    driver.destroy("one")
    driver.destroy("one")
    assert set(driver.instances()) == {"two"}


def test_restore_brings_the_file_system_back(driver: PodmanDriver) -> None:
    """What changed after the snapshot is undone, for that VCD alone; name, address and environment stay."""
    for vcd in ("one", "two"):
        _shell(driver, vcd, "mkdir -p /data && echo good > /data/state")
    taken = driver.snapshot(["one", "two"], tag="first", golden="abc")
    assert [(snapshot.vcd, snapshot.tag, snapshot.golden) for snapshot in taken] == [
        ("one", "first", "abc"),
        ("two", "first", "abc"),
    ]
    assert {instance.power for instance in driver.instances().values()} == {Power.RUNNING}
    before = driver.instances()
    for vcd in ("one", "two"):
        _shell(driver, vcd, "echo bad > /data/state; rm -rf /etc/fstab")
    driver.restore("one", tag="first")
    assert _shell(driver, "one", "cat /data/state; ls /etc/fstab; hostname; echo $COLOUR").split() == [
        "good",
        "/etc/fstab",
        "one",
        "blue",
    ]
    interface = _shell(driver, "one", "ip addr show eth0")
    assert "198.18.66.11/24" in interface
    assert "02:42:c6:12:42:0b" in interface
    assert _shell(
        driver, "two", "cat /data/state; ping -c 1 -W 2 one >/dev/null && echo reached"
    ).split() == [
        "bad",
        "reached",
    ]
    after = driver.instances()
    assert after["one"].incarnation != before["one"].incarnation
    assert after["two"] == before["two"]


@pytest.mark.parametrize("state", ["pause", "kill", "rm"])
def test_restore_from_any_state(driver: PodmanDriver, podman_lab: PodmanLab, state: str) -> None:
    """A paused, a dead and a removed container come back as well."""
    driver.snapshot(["one"], tag="first", golden="abc")
    podman_lab.podman(state, *(["--force", "--time=0"] if state == "rm" else []), "tiny-one")
    driver.restore("one", tag="first")
    assert _shell(driver, "one", "hostname") == "one"


def test_restore_twice_and_snapshot_of_a_restored_one(driver: PodmanDriver) -> None:
    """A restored container can be restored again, and be part of the next snapshot."""
    driver.snapshot(["one", "two"], tag="first", golden="abc")
    driver.restore("one", tag="first")
    driver.restore("one", tag="first")
    _shell(driver, "one", "echo second > /state")
    driver.snapshot(["one", "two"], tag="second", golden="def")
    driver.restore("one", tag="first")
    assert driver.execute("one", ["/bin/cat", "/state"], timeout_s=5).status == 1
    driver.restore("one", tag="second")
    assert _shell(driver, "one", "cat /state") == "second"
    # One time for each snapshot, and of microseconds: podman's own have whole seconds, and differ by container.
    assert len({snapshot.created for snapshot in driver.snapshots()}) == 2
    assert [(s.vcd, s.tag, s.golden) for s in driver.snapshots()] == [
        ("one", "first", "abc"),
        ("two", "first", "abc"),
        ("one", "second", "def"),
        ("two", "second", "def"),
    ]


def test_a_missing_snapshot_touches_nothing(driver: PodmanDriver) -> None:
    """The snapshot is looked for before the running container is removed."""
    before = driver.instances()
    with pytest.raises(
        DriverError, match=r'^one has no snapshot "lost": choose one that idm snapshots lists$'
    ):
        driver.restore("one", tag="lost")
    assert driver.instances() == before


@pytest.mark.parametrize(
    ("vcds", "tag", "message"),
    [
        (["one", "one"], "first", r"^the stack cannot be paused: .*: see podman ps --all$"),
        (["one", "two"], "no such tag", r"cannot be saved: .*: look at the disk space, podman system df$"),
    ],
)
def test_a_failed_snapshot_is_not_kept(
    driver: PodmanDriver, podman_lab: PodmanLab, vcds: list[str], tag: str, message: str
) -> None:
    """When one VCD cannot be paused or saved no snapshot stays of any, and all run on."""
    with pytest.raises(DriverError, match=message):
        driver.snapshot(vcds, tag=tag, golden="abc")
    assert driver.snapshots() == []
    assert {instance.power for instance in driver.instances().values()} == {Power.RUNNING}
    assert podman_lab.podman("images", "--quiet", "--filter=label=stackmend.snapshot").stdout == ""


def test_a_snapshot_takes_running_vcds(driver: PodmanDriver) -> None:
    """What does not run is not saved as good, and a tag is given once."""
    driver.snapshot(["one"], tag="first", golden="abc")
    with pytest.raises(DriverError, match=r'^one has a snapshot "first" already: choose another tag$'):
        driver.snapshot(["one", "two"], tag="first", golden="abc")
    driver.stop("two", grace_s=5)
    with pytest.raises(
        DriverError, match=r"^two is exited, and a snapshot takes running VCDs: start it first$"
    ):
        driver.snapshot(["one", "two"], tag="second", golden="abc")


def test_a_snapshot_in_use_is_deleted_later(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """Deleting what a container runs on leaves the container alone, and no image for ever."""
    driver.snapshot(["one"], tag="first", golden="abc")
    driver.restore("one", tag="first")
    driver.delete_snapshot("one", tag="first")
    driver.delete_snapshot("one", tag="first")
    assert driver.snapshots() == []
    assert _shell(driver, "one", "hostname") == "one"
    driver.destroy("one")
    driver.delete_snapshot("two", tag="never")
    assert podman_lab.podman("images", "--all", "--quiet", "--filter=label=stackmend.snapshot").stdout == ""


def test_remove_leaves_nothing(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """After remove no container, image or network carries the stack's label, and the base image is still there."""
    driver.snapshot(["one", "two"], tag="first", golden="abc")
    driver.restore("two", tag="first")
    driver.remove()
    driver.remove()
    for listing in ("ps --all", "images --all", "network ls"):
        found = podman_lab.podman(*listing.split(), "--quiet", "--filter=label=stackmend.stack=tiny").stdout
        assert found == "", listing
    podman_lab.podman("image", "exists", podman_lab.image(TINY))


def test_events_tell_who_changed(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """Every VCD is told at first, then the one that changed, also after the service was away; close ends it."""
    told: Queue[str] = Queue(maxsize=1000)

    def listen() -> None:
        for vcd in driver.events():
            told.put(vcd)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert [told.get(timeout=10), told.get(timeout=10)] == ["one", "two"]
    podman_lab.podman("kill", "tiny-two")
    assert told.get(timeout=10) == "two"
    podman_lab.stop_service()
    podman_lab.start_service()
    _drained(told, until="one")
    podman_lab.podman("kill", "tiny-one")
    assert told.get(timeout=10)
    driver.close()
    listener.join(timeout=10)
    assert not listener.is_alive()


def _drained(told: "Queue[str]", *, until: str) -> None:
    """Take all that is told until nothing more comes for a moment, and that VCD was among it."""
    seen: list[str] = []
    deadline = time.monotonic() + 15
    while True:
        assert time.monotonic() < deadline
        try:
            seen.append(told.get(timeout=0.5))
        except Empty:
            if until in seen:
                return


def test_a_dead_service_is_told(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """Without the service every call is one line that says what to do, and works again when it is back."""
    podman_lab.stop_service()
    try:
        for call in (
            driver.check,
            driver.instances,
            lambda: driver.restore("one", tag="x"),
            driver.snapshots,
        ):
            with pytest.raises(
                DriverError, match=r"does not answer at .*: systemctl start podman.socket, or set"
            ):
                call()
    finally:
        podman_lab.start_service()
    assert set(driver.instances()) == {"one", "two"}


def test_the_service_dies_while_a_command_runs(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """A call in flight ends with the service, as an error."""
    problems: Queue[str] = Queue(maxsize=1)

    def run() -> None:
        try:
            driver.execute("one", ["/bin/sleep", "20"], timeout_s=20)
        except DriverError as e:
            problems.put(str(e))

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    _eventually(lambda: "sleep 20" in podman_lab.podman("top", "tiny-one", "args").stdout)
    podman_lab.stop_service()
    try:
        assert "podman does not answer at" in problems.get(timeout=10)
    finally:
        podman_lab.start_service()


def _monitors(lab: PodmanLab) -> list[str]:
    """The processes that watch over commands in this lab's containers."""
    return [line for line in processes(str(lab.directory)).values() if "--exec-process-spec" in line]


def test_commands_have_a_deadline(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """A command past its time is killed with what it started."""
    began = time.monotonic()
    with pytest.raises(
        DriverError, match=r"^/bin/sh did not end within 1 s in one: allow more, or see why it hangs$"
    ):
        driver.execute("one", ["/bin/sh", "-c", "while :; do echo x; sleep 77; done"], timeout_s=1)
    assert time.monotonic() - began < 5
    _eventually(lambda: "sleep 77" not in podman_lab.podman("top", "tiny-one", "args").stdout)
    assert _monitors(podman_lab) == []


def test_commands_end_with_status_and_output(driver: PodmanDriver, podman_lab: PodmanLab) -> None:
    """The exit status and both outputs are returned; a long output by its end."""
    done = driver.execute("one", ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=10)
    assert done.status == 7
    assert sorted(done.output.split()) == ["err", "out"]
    long = driver.execute("one", ["/bin/sh", "-c", "yes | head -c 3000000; echo end"], timeout_s=20)
    assert long.output.endswith("y\nend\n")
    assert len(long.output) == 256 * 1024
    assert _monitors(podman_lab) == []
    missing = driver.execute("one", ["/bin/nothing"], timeout_s=5)
    assert missing.status == 127
    assert "no such file or directory" in missing.output


def test_evidence_is_written(driver: PodmanDriver, tmp_path: Path) -> None:
    """Inspection, log and changed paths are saved; an absent VCD has none."""
    _shell(driver, "one", "echo lost > /etc/clue; rm /etc/fstab")
    paths = driver.evidence("one", tmp_path / "evidence")
    assert [path.name for path in paths] == ["inspect.json", "log.txt", "changes.txt"]
    assert '"tiny-one"' in paths[0].read_text()
    assert paths[1].read_text() == "from blue\n"
    assert {"added /etc/clue", "deleted /etc/fstab"} <= set(paths[2].read_text().splitlines())
    driver.destroy("one")
    assert driver.evidence("one", tmp_path / "none") == []
