"""The doctor's findings are what the kernel really does."""

import errno
import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from dma import doctor
from dma.capture.hooks import CGROUP, KPROBE, Kind
from dma.capture.libbpf import explain
from dma.capture.plans import WAYS
from dma.capture.probed import kprobes
from dma.cli import main

pytestmark = pytest.mark.kernel


def test_every_hook_is_tried() -> None:
    """Each hook of each plan is loaded and attached, kprobes only where there are any, and each plan opened."""
    findings = {finding.subject: finding for finding in doctor.examine()}
    hooks = {f"{hook.kind.value} {hook.program}": hook for hook in (*CGROUP.hooks, *KPROBE.hooks)}
    assert hooks.keys() <= findings.keys()
    assert all(findings[subject].works for subject, hook in hooks.items() if hook in CGROUP.hooks)
    probed = {findings[subject].works for subject, hook in hooks.items() if hook.kind is Kind.KPROBE}
    assert probed == {kprobes() is not None}
    assert findings["passive dns"].works
    opened = {finding.subject: finding.detail for _, finding in doctor.try_ways()}
    assert opened["plan cgroup by core"] == "complete"
    assert ("boot one built with CONFIG_KPROBES" in opened["plan kprobe by core"]) == (kprobes() is None)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where IPv6 is off that is said, and its functions, which may be absent, are not tried."""
    monkeypatch.setattr("dma.capture.probed.IPV6", tmp_path / "absent")
    monkeypatch.setattr("dma.doctor.IPV6", tmp_path / "absent")
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert not findings["IPv6"].works
    assert "runs without it" in findings["IPv6"].detail
    assert not [subject for subject in findings if "v6_" in subject or "udpv6" in subject]
    assert {finding.subject: finding.detail for _, finding in doctor.try_ways()}[
        "plan cgroup by core"
    ] == "complete"


def test_a_privileged_process_is_not_told_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel permits to nobody is told so, and what an unprivileged process lacks is named."""
    assert "permits it to nobody" in explain(errno.EPERM)
    monkeypatch.setattr("dma.privileges.held", lambda: frozenset({"CAP_BPF"}))
    assert (
        explain(errno.EPERM) == "not permitted: run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )


def test_a_reason_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Of several findings in a row with one reason, the first gives it."""
    refused = [doctor.Finding(f"hook {number}", works=False, detail="no kprobes") for number in range(3)]
    Console().print(doctor.shown([*refused, doctor.Finding("libbpf", works=True, detail="found")]))
    assert capsys.readouterr().out.count("no kprobes") == 1


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
    assert (report["plan"], report["loader"]) == ("fentry" if kprobes() else "cgroup", "core")
    assert all(finding["detail"] for finding in report["findings"])


def test_missing_object_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """When nothing can be loaded the findings say why, and without a plan that needs nothing the exit code is not 0."""
    missing = tmp_path_factory.mktemp("empty") / "flows.bpf.o"
    monkeypatch.setattr("dma.capture.core.OBJECT", missing)
    monkeypatch.setattr("dma.doctor.WAYS", [way for way in WAYS if way.loader == "core"])
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "none works here" in result.output
    assert "make dma/capture/flows.bpf.o" in " ".join(result.output.split())
