"""A bridge's own address, on a real bridge in a namespace of its own."""

import json

import pytest

from idm.driver import DriverError
from idm.drivers import bridge
from tests.lab.namespace import Namespace, namespace, run

pytestmark = pytest.mark.lab


def _address(inside: Namespace) -> str:
    links: list[dict[str, str]] = json.loads(run(["ip", "-n", inside.name, "-json", "link", "show", "br0"]))
    return links[0]["address"]


def test_pinned_bridge_keeps_its_address_when_a_port_comes() -> None:
    """A bridge without an address of its own takes a lower one of a new port; a pinned one does not."""
    with namespace() as inside:
        ip = ["ip", "-n", inside.name, "link"]
        run([*ip, "add", "br0", "type", "bridge"])
        run([*ip, "add", "p0", "address", "02:00:00:00:00:02", "master", "br0", "type", "veth", "peer", "q0"])
        assert _address(inside) == "02:00:00:00:00:02"
        bridge.pin("br0", "02:42:c6:12:0a:01", netns=inside.path)
        run([*ip, "add", "p1", "address", "02:00:00:00:00:01", "master", "br0", "type", "veth", "peer", "q1"])
        assert _address(inside) == "02:42:c6:12:0a:01"


def test_missing_bridge_is_told() -> None:
    """What the kernel says of a bridge that is not there becomes one line."""
    with (
        namespace() as inside,
        pytest.raises(DriverError, match=r"br9 cannot be given its address: .*: run as root"),
    ):
        bridge.pin("br9", "02:42:c6:12:0a:01", netns=inside.path)
