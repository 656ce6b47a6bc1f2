"""The command of ``idm`` for Vagrant's triggers: has the stack follow what Vagrant does with its machines."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from idm import manifest, vagrant
from idm.adopt import untouched
from idm.adoption import drafted, hypervisor_of, put
from idm.choice import Choice
from idm.down import end_deployer
from idm.errors import DeployError
from idm.home import Home, locate
from idm.lock import holder, lock
from idm.process import spawn
from idm.supervise import end_child
from idm.watch import hand_over

if TYPE_CHECKING:
    from idm.drivers.libvirt_connection import Hypervisor

# Machines that have just booted answer when their guest agent is installed.
AGENTS_S = 300.0
IDM_S, INTERRUPT_S = 900.0, 30.0
TURN_S, QUIET_S, LOOK_S = 600.0, 2.0, 0.5
# After a trigger of a machine Vagrant lets go of it within moments, on a host whose guests keep it busy, too.
LET_GO_S = 4.0
# Who was asked whether to destroy a machine may leave it at that, with Vagrant waiting.
LATER, LATER_S = "later", 86_400.0


@click.command("vagrant")
@click.argument("when", type=click.Choice(["before", "after", "later"]))
@click.argument("action")
@click.pass_obj
def vagrant_command(choice: Choice, when: str, action: str) -> None:
    """Keep guarding the machines of a Vagrant project: for its triggers. ACTION is Vagrant's, such as up or destroy.

    The project is the directory of the manifest, which is written when there is none. BEFORE machines are halted,
    reloaded or destroyed nothing is rolled back any more; AFTER they came or went the stack is brought in line. LATER
    waits until Vagrant is at work no more, which may have ended without calling again.
    """
    try:
        if when == "later":
            _wait_for_the_end(choice.project)
        with _turn(choice):
            if when == "before":
                _leave(choice, action)
            else:
                _follow(choice, ending=when == "later" or action == "destroy")
    except KeyboardInterrupt as e:
        raise DeployError("interrupted: vagrant up goes on from here") from e


@contextmanager
def _turn(choice: Choice) -> Iterator[None]:
    """Machines that come up side by side call side by side."""
    run = Path(choice.settings().state.run)
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock(run / "vagrant.lock", purpose="follows Vagrant's machines", wait_s=TURN_S):
        yield


def _leave(choice: Choice, action: str) -> None:
    if choice.manifest.exists() and holder((home := _home(choice)).deployer_lock) is not None:
        end_deployer(home)
        click.echo("nothing is rolled back until vagrant has brought all machines back")
        # Where its locks are not seen, nobody could tell that it is done.
        if vagrant.at_work(choice.project):
            end_child(home.run, LATER, grace_s=QUIET_S)
            spawn(home.run, LATER, _line(choice, "vagrant", "later", action)).close()


def _wait_for_the_end(project: Path) -> None:
    """Wait until Vagrant is at work on none of the machines, nor about to go on with another one."""
    began = busy = time.monotonic()
    while (now := time.monotonic()) - busy < QUIET_S:
        if vagrant.at_work(project):
            busy = now
        if now - began > LATER_S:
            raise DeployError("vagrant has been at work for a day: idm watch guards the machines again")
        # Locks of others can only be looked at.
        time.sleep(LOOK_S)


def _follow(choice: Choice, *, ending: bool) -> None:
    if not ending and _others_at_work(choice.project):
        click.echo("vagrant is at work on other machines: guarded when these are done, too")
        return
    with hypervisor_of(choice) as hypervisor:
        created = vagrant.machines(choice.project)
        domains = sorted(filter(None, map(hypervisor.name_of, created.values())))
        step = vagrant.follow(_view(choice, hypervisor, domains), ending=ending)
        if step.say:
            click.echo(step.say)
        text = drafted(choice, hypervisor, domains, name=None, wait_s=AGENTS_S) if step.draft else ""
    if step.down:
        _idm(choice, "down")
    if step.draft:
        put(choice.manifest, text)
    if step.up:
        _idm(choice, "up")
    if step.resume:
        pid = hand_over(_home(choice).run, manifest=choice.manifest, config=choice.config)
        click.echo(f"process {pid} attends to the stack again")


def _others_at_work(project: Path) -> bool:
    """Whether this is called for other machines afterwards, too; who was called for before lets go soon."""
    deadline = time.monotonic() + LET_GO_S
    while vagrant.at_work(project) > 1:
        if time.monotonic() > deadline:
            return True
        # Locks of others can only be looked at.
        time.sleep(LOOK_S)
    return False


def _view(choice: Choice, hypervisor: "Hypervisor", domains: Sequence[str]) -> vagrant.View:
    declared: set[str] = set()
    text, home = "", None
    if choice.manifest.exists():
        declared = {vcd.domain for vcd in manifest.load(choice.manifest).vcd.values() if vcd.domain}
        text, home = choice.manifest.read_text(), _home(choice)
    powers = hypervisor.running()
    existing = set(domains) | {name for name in declared if name in powers}
    return vagrant.View(
        declared=frozenset(declared),
        existing=frozenset(existing),
        running=frozenset(name for name in existing if powers.get(name)),
        untouched=untouched(text),
        deployed=home is not None and home.run.exists(),
        attended=home is not None and holder(home.deployer_lock) is not None,
    )


def _home(choice: Choice) -> Home:
    declared, state = manifest.load(choice.manifest), choice.settings().state
    return locate(declared.stack.name, list(declared.vcd), state=Path(state.directory), run=Path(state.run))


def _line(choice: Choice, *command: str) -> list[str]:
    """Another command on this stack."""
    line = [sys.executable, "-P", "-m", "idm", "--file", str(choice.manifest.absolute())]
    line += ["--config", str(choice.config.absolute())] if choice.config is not None else []
    return [*line, *command]


def _idm(choice: Choice, command: str) -> None:
    """Run it; its words are its own."""
    with subprocess.Popen(_line(choice, command), stdin=subprocess.DEVNULL) as child:
        try:
            status = child.wait(IDM_S)
        except subprocess.TimeoutExpired as e:
            child.kill()
            raise DeployError(f"idm {command} did not end within {IDM_S:.0f} s: see idm status") from e
        except KeyboardInterrupt:
            _interrupt(child)
            raise
    if status:
        raise click.exceptions.Exit(status)


def _interrupt(child: "subprocess.Popen[bytes]") -> None:
    """Have it end in order, whether or not the terminal has interrupted it already."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(INTERRUPT_S)
    except subprocess.TimeoutExpired:
        child.kill()
