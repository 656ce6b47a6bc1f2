"""What the agent knows of its machine."""

import socket

import pytest

from dma.naming.names import Names
from dma.observation import LISTENERS_EVERY, Observation
from tests.dma.capture.lab import Cable, within
from tests.dma.scripted import ScriptedCapture

PORT = 8080


@pytest.mark.kernel
def test_a_service_that_is_restarted_is_seen_again_by_the_next_survey(network: Cable) -> None:
    """Listeners are read seldom, but at once after a change: a restart must not look like an end for long."""
    with ScriptedCapture() as capture:
        with network.server_socket(socket.SOCK_STREAM, PORT):
            observation = within(network.server, lambda: Observation(capture, Names([])))
            assert listens(observation)
        for _ in range(LISTENERS_EVERY):
            within(network.server, observation.survey)
            if not listens(observation):
                break
        assert not listens(observation)
        with network.server_socket(socket.SOCK_STREAM, PORT):
            within(network.server, observation.survey)
            assert listens(observation)


def listens(observation: Observation) -> bool:
    """Whether the machine takes calls."""
    return PORT in {one.port for one in observation.presence.listeners}
