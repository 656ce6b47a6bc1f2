"""Reads metrics as Prometheus does."""

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

DEADLINE_S = 10.0
ANY_PORT = "127.0.0.1:0"

Samples = dict[tuple[str, ...], float]


def url(listener: socket.socket) -> str:
    """Where a listener's metrics are."""
    host, port = listener.getsockname()
    return f"http://{host}:{port}/metrics"


def scrape(address: str) -> Samples:
    """Every sample, by its name and the values of its labels in the order of their names."""
    with urllib.request.urlopen(address, timeout=DEADLINE_S) as response:
        text = response.read().decode()
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
