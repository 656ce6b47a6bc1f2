"""The agents inside guests: when what is delivered, and what is said when one is not heard."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from idm.delivery import agents
from idm.delivery.agents import GuestAgents
from idm.delivery.guest import Shell
from idm.delivery.payload import File, Payload
from idm.delivery.script import Refusal
from idm.driver import Completed, DriverError, Instance, Power
from idm.errors import DeployError
from tests.idm.until import until


class MemoryShell:
    """Guests in memory: ``says`` is how each script ends from now on; one that is not ``up`` does not answer."""

    def __init__(self, *, says: int = 0) -> None:
        self.up = True
        self.says = says
        self.delivered: list[str] = []
        self.journal = ""
        self.restarts = 0

    def execute(self, vcd: str, command: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Scripts come with an archive, all else asks for the journal, or how often systemd has started the agent."""
        del timeout_s
        if not self.up:
            raise DriverError(f"{vcd} cannot run {command[0]}: guest agent is not connected")
        if command[0] == "systemctl":
            self.restarts += 1
            return Completed(0, f"{self.restarts}\n")
        if not stdin:
            return Completed(0, self.journal)
        if self.says == 0:
            self.delivered.append(vcd)
        return Completed(self.says, "")

    def write(self, *_: object) -> None:
        """Never to be called here."""
        raise AssertionError


class MemoryInstaller:
    """Makes the guest's next script end well."""

    def install(self, shell: Shell, vcd: str, program: str) -> None:
        """As if the program were there now."""
        del vcd, program
        assert isinstance(shell, MemoryShell)
        shell.says = 0


class Agents:
    """The agents of one VCD, "web", and what is known about it."""

    def __init__(
        self, shell: MemoryShell, *, installer: MemoryInstaller | None = None, seeded: bool = False
    ) -> None:
        self.heard: set[str] = set()
        self.gone: list[str] = []
        self.certificate = b"first"
        self.asked = 0
        self.all = GuestAgents(
            shell,
            ["web"],
            payloads=self._payloads,
            heard=self._heard,
            gone=self.gone.append,
            installers={"web": installer} if installer else {},
            seeded={"web"} if seeded else set(),
        )

    def _payloads(self, _: str) -> tuple[Payload, ...]:
        self.asked += 1
        return (Payload("a.service", b"", "/bin/a", (File("/etc/a", self.certificate),)),)

    async def _heard(self) -> set[str]:
        return self.heard

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While they are at work."""
        work = asyncio.create_task(self.all.run())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    def become(self, incarnation: str) -> None:
        """The VCD is this instance now."""
        self.all.follow(Instance("web", Power.RUNNING, incarnation, None, None))


def test_what_a_guest_needs_comes_as_soon_as_it_answers() -> None:
    """While a guest boots it is asked again; the launch goes on once the manager hears its agent."""

    async def story() -> None:
        shell = MemoryShell()
        shell.up = False
        web = Agents(shell)
        async with web.running():
            web.become("1")
            ready = asyncio.create_task(web.all.ready())
            await asyncio.sleep(0)
            shell.up = True
            await until(lambda: shell.delivered == ["web"])
            assert not ready.done()
            web.heard.add("web")
            assert await ready == 1
        assert web.gone == []

    asyncio.run(story())


def test_another_instance_is_served_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a revert old connections go and the guest is looked at; the same one again only for a new certificate."""
    monkeypatch.setattr(agents, "RENEW_S", 0.05)

    async def story() -> None:
        shell = MemoryShell()
        web = Agents(shell)
        async with web.running():
            web.become("1")
            await until(lambda: len(shell.delivered) == 1)
            web.become("1")
            web.become("2")
            await until(lambda: len(shell.delivered) == 2)
            assert web.gone == ["web"]
            asked = web.asked
            await until(lambda: web.asked >= asked + 3)
            assert len(shell.delivered) == 2
            web.certificate = b"second"
            await until(lambda: len(shell.delivered) == 3)

    asyncio.run(story())


def test_a_first_boot_with_a_seed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed gets time to do its work; later instances, as out of a snapshot, are served like others, at once."""
    monkeypatch.setattr(agents, "RENEW_S", 0.02)
    monkeypatch.setattr(agents, "SEED_S", 0.5)

    async def story() -> None:
        shell = MemoryShell()
        web = Agents(shell, seeded=True)
        async with web.running():
            web.become("1")
            web.heard.add("web")
            assert await web.all.ready() == 1
            began = time.monotonic()
            await until(lambda: len(shell.delivered) == 1)
            assert time.monotonic() - began > 0.4
            monkeypatch.setattr(agents, "SEED_S", 60.0)
            web.become("2")
            await until(lambda: len(shell.delivered) == 2)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal.NO_SYSTEMD, "web cannot take an agent, it is not run by systemd"),
        (Refusal.NO_TOOLS, "web cannot take an agent, it has no tar or no cmp"),
        (Refusal.NO_PROGRAM, "web has no /bin/a: install it in its image"),
    ],
)
def test_a_guest_that_cannot_be_served_ends_the_launch(refusal: Refusal, words: str) -> None:
    """Nobody waits for what will never be."""

    async def story() -> None:
        web = Agents(MemoryShell(says=refusal))
        async with web.running():
            web.become("1")
            with pytest.raises(DeployError, match=words):
                await web.all.ready()

    asyncio.run(story())


def test_a_program_that_is_missing_is_installed() -> None:
    """What an image lacks is brought, and then set up."""

    async def story() -> None:
        shell = MemoryShell(says=Refusal.NO_PROGRAM)
        web = Agents(shell, installer=MemoryInstaller())
        async with web.running():
            web.become("1")
            await until(lambda: shell.delivered == ["web"])

    asyncio.run(story())


def test_an_agent_that_ends_again_and_again_ends_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are told at once, and not when the time for all guests is up."""
    monkeypatch.setattr(agents, "ENDS_LOOK_S", 0.0)

    async def story() -> None:
        shell = MemoryShell()
        shell.journal = "Error: this kernel has no kprobes\n"
        shell.restarts = 40
        web = Agents(shell)
        async with web.running():
            web.become("1")
            with pytest.raises(
                DeployError, match="web ends again and again: Error: this kernel has no kprobes"
            ):
                await web.all.ready()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("up", "words"),
    [
        (True, r"the agent of web does not report, its service says: no route \| trying on \(see that"),
        (
            False,
            "the agent of web is not delivered after 0 s: web cannot run sh: guest agent is not connected",
        ),
    ],
)
def test_an_agent_that_is_not_heard_is_told_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, up: bool, words: str
) -> None:
    """The launch ends with the end of the service's journal, or with why nothing could be delivered."""
    monkeypatch.setattr(agents, "READY_S", 0.3)

    async def story() -> None:
        shell = MemoryShell()
        shell.up, shell.journal = up, "no route\ntrying on\n"
        web = Agents(shell)
        async with web.running():
            web.become("1")
            with pytest.raises(DeployError, match=words):
                await web.all.ready()

    asyncio.run(story())
