"""The exchange format is what agents of other makes write."""

import json
from ipaddress import ip_address

from dma.exchange import dependency, encode


def test_format() -> None:
    """One array on one line, each element with service, ip and port, each dependency once, in a stable order."""
    web = dependency("web", ip_address("fd00::1"), 80)
    routing = dependency("routing-service", ip_address("10.0.0.10"), 8080)
    text = encode([web, routing, web])
    assert json.loads(text) == [
        {"service": "routing-service", "ip": "10.0.0.10", "port": 8080},
        {"service": "web", "ip": "fd00::1", "port": 80},
    ]
    assert "\n" not in text
    assert encode([]) == "[]"
