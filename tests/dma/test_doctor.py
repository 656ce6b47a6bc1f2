"""The doctor's findings are what the kernel really does."""

import json
import socket

import pytest
from click.testing import CliRunner

from dma import doctor
from dma.capture.cgroup import CGROUP_HOOKS, TRACEPOINTS, open_cgroup_capture
from dma.cli import main

pytestmark = pytest.mark.kernel


def test_every_hook_is_tried() -> None:
    """Each hook of the cgroup plan is loaded and attached, and each plan opened."""
    findings = {finding.subject: finding for finding in doctor.examine()}
    hooks = {f"tracepoint {name}" for name in TRACEPOINTS} | {f"cgroup hook {name}" for name in CGROUP_HOOKS}
    assert hooks <= findings.keys()
    assert all(findings[hook].works for hook in hooks)
    assert findings["passive dns"].works
    assert next((plan.subject, plan.detail) for plan in doctor.plans()) == ("plan cgroup", "complete")


def test_destroying_sockets_is_tried_on_its_own() -> None:
    """The trial destroys its own connection, and leaves another to the same address alone."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as peer,
    ):
        assert {f.subject: f.works for f in doctor.examine()}["destroying sockets"]
        client.sendall(b"x")
        assert peer.recv(1) == b"x"


def test_json_is_one_object() -> None:
    """With --json the command prints the plan that would be chosen and every finding with its reason."""
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert report["plan"] == "cgroup"
    assert all(finding["detail"] for finding in report["findings"])


def test_missing_object_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """When nothing can be loaded the findings say why, and without a plan that needs nothing the exit code is not 0."""
    missing = tmp_path_factory.mktemp("empty") / "flows.bpf.o"
    for module in ("dma.doctor", "dma.capture.cgroup"):
        monkeypatch.setattr(f"{module}.OBJECT", missing)
    monkeypatch.setattr("dma.doctor.OPENERS", {"cgroup": open_cgroup_capture})
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "none works here" in result.output
    assert "make dma/capture/flows.bpf.o" in " ".join(result.output.split())
