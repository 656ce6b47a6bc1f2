"""How services stand in etcd."""

import pytest

from dma.naming.registry.layout import Layout, LayoutError
from dma.naming.registry.places import placed


@pytest.mark.parametrize(
    ("layout", "key", "value"),
    [
        ("/services/{service}/{instance}", "/services/web/a", "198.18.0.2:80"),
        ("/services/{service}/{instance}", "/services/web/a", ' {"ip": "198.18.0.2", "port": 80}'),
        (
            "/services/{service}/{instance}",
            "/services/web/a",
            '{"host": "198.18.0.2", "port": "80", "ttl": 60}',
        ),
        ("services/{service}/{instance}", "services/web/198.18.0.2:80", '{"Op": 0, "Addr": "198.18.0.2:80"}'),
        ("/{service}/{ip}:{port}", "/web/198.18.0.2:80", ""),
        ("/{service}/{ip}/{port}", "/web/198.18.0.2/80", "anything"),
        ("/x/{instance}/{service}", "/x/y/other", '{"service": "web", "address": "198.18.0.2:80"}'),
    ],
)
def test_common_layouts_are_read(layout: str, key: str, value: str) -> None:
    """The key and the value together say which service is where."""
    assert Layout(layout).read(key.encode(), value.encode()) == ("web", placed("198.18.0.2", 80))


def test_places_of_ipv6_and_without_a_port_are_read() -> None:
    """An address alone stands for all its ports; an IPv4 address in IPv6's clothes is the IPv4 address."""
    layout = Layout("/{service}/{instance}")
    for value, place in (
        ("[fd00::2]:80", placed("fd00::2", 80)),
        ("fd00::2", placed("fd00::2")),
        ("198.18.0.2", placed("198.18.0.2")),
        ("[::ffff:198.18.0.2]:80", placed("198.18.0.2", 80)),
    ):
        assert layout.read(b"/web/1", value.encode()) == ("web", place)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"/services/web", b"198.18.0.2:80"),
        (b"/services/web/a", b"db.example:80"),
        (b"/services/web/a", b"198.18.0.2:99999999999999999999"),
        (b"/services/web/a", b'{"ip": '),
        (b"/services/\xff/a", b"198.18.0.2:80"),
        (b"/services/web/a", b"\xff"),
        (b"/services/web/a", b""),
    ],
)
def test_other_entries_are_passed_over(key: bytes, value: bytes) -> None:
    """What is of no such layout says nothing."""
    assert Layout("/services/{service}/{instance}").read(key, value) is None


@pytest.mark.parametrize(
    "text", ["/services/{instance}", "{service}", "/x/{service}/{service}", "/x/{service}/{host}"]
)
def test_layouts_that_cannot_work_are_refused(text: str) -> None:
    """A layout needs a prefix and a service, and knows four placeholders."""
    with pytest.raises(LayoutError, match=r"\{service\}"):
        Layout(text)
