"""What several packages' tests stand on."""

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.lab.podman import PodmanLab

# How long an example takes is the machine's affair: a busy one failed tests by it. In CI Hypothesis sees to that.
if not os.environ.get("CI"):
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


@pytest.fixture(scope="session")
def podman_lab() -> Iterator[PodmanLab]:
    """One private podman for the whole run; tests keep apart by the names of their stacks."""
    if os.geteuid():
        pytest.skip("the podman lab makes namespaces and containers: needs root")
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with PodmanLab() as lab:
        yield lab


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one: its machine has no excuse."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
