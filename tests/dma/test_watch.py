"""What the watch shows, of a capture that says what the test wants."""

import io
import json
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from dma import watch
from dma.flow import Loss
from dma.naming.names import Names
from tests.dma.scripted import ScriptedCapture, flow


@pytest.fixture
def capture() -> Iterator[ScriptedCapture]:
    """A capture that has seen one call."""
    with ScriptedCapture() as opened:
        opened.see(flow(attempts=2), urgent=False)
        yield opened


@pytest.fixture
def view(capture: ScriptedCapture) -> watch.View:
    """What it shows, without any names."""
    return watch.View(capture, Names([]))


def losing(capture: ScriptedCapture, *counts: int) -> Iterator[None]:
    """An interval for each number that has been lost by then."""
    for count in counts:
        if count:
            capture.lost[Loss.MAP_FULL] = count
        yield


@pytest.mark.parametrize("show", [watch.show_lines, watch.show_json])
def test_losses_are_told_beside_the_output(
    capture: ScriptedCapture, view: watch.View, show: watch.Show
) -> None:
    """Whatever reads the output, each change of what is lost is a line on the other stream, with its reason."""
    output, errors = io.StringIO(), io.StringIO()
    show(view, losing(capture, 0, 3, 3, 7), output, errors)
    assert errors.getvalue().splitlines() == ["lost (map full): 3", "lost (map full): 7"]
    assert "lost" not in output.getvalue()


def test_losses_stand_below_the_table(capture: ScriptedCapture, view: watch.View) -> None:
    """On a terminal the reasons and counts of all losses are part of the table."""
    capture.lost |= {Loss.MAP_FULL: 3, Loss.MISSED_PROBE: 1}
    output, errors = io.StringIO(), io.StringIO()
    watch.show_table(view, losing(capture, 3), output, errors)
    assert "lost (map full): 3, lost (missed probe): 1" in output.getvalue()
    assert not errors.getvalue()


def test_the_exchange_format_has_what_was_dialled(capture: ScriptedCapture, view: watch.View) -> None:
    """A program that reads the output gets the address that the application used."""
    output = io.StringIO()
    watch.show_json(view, losing(capture, 0), output, io.StringIO())
    assert [ip_address(one["ip"]) for one in json.loads(output.getvalue())] == [flow().destination.address]
