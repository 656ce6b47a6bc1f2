"""The agents inside the guests of one stack: each is given what it has to know whenever its VCD is another instance."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress

import structlog

from dm.client import ManagerError
from idm.delivery.guest import DeliveryError, Installer, Shell, journal, provide, restarts
from idm.delivery.payload import Payload
from idm.driver import DriverError, Instance, Power
from idm.errors import DeployError

# From the start of a guest until its agent is heard: a first boot of a cloud image takes a minute, emulated some.
READY_S = 400.0
LOOK_S = 0.5
# An agent that has ended so often meanwhile will not come up; while some are missing their services are looked at.
ENDS, ENDS_LOOK_S = 3, 5.0
AGAIN_S, LATE_AGAIN_S = 0.5, 10.0
# Certificates are looked at so often, and delivered when they were renewed.
RENEW_S = 60.0
# A first boot with a seed installs and configures for so long at most; from then on the guest is served like others.
SEED_S = 900.0

_log = structlog.get_logger()


class GuestAgents:
    """The agents of one stack, each a service of its guest.

    ``payloads`` makes what a VCD gets, as it is now, the agent's at the end; ``heard`` asks the manager whose agents
    are connected; ``gone`` is called when an instance was replaced, whose connections are dead; ``installers`` bring
    the agent itself to VCDs whose image may lack it; ``seeded`` ones get all of it by their first boot, which is left
    alone.
    """

    def __init__(
        self,
        shell: Shell,
        vcds: Sequence[str],
        *,
        payloads: Callable[[str], tuple[Payload, ...]],
        heard: Callable[[], Awaitable[Collection[str]]],
        gone: Callable[[str], None],
        installers: Mapping[str, Installer],
        seeded: Collection[str] = (),
    ) -> None:
        self._shell = shell
        self._heard = heard
        self._posts = {
            vcd: _Post(
                shell,
                vcd,
                payloads=payloads,
                gone=gone,
                installer=None if vcd in seeded else installers.get(vcd),
                seeded=vcd in seeded,
            )
            for vcd in vcds
        }

    def expect(self, vcd: str, generation: int) -> None:
        """Nothing to do: the manager tells a guest's agent its generation."""

    def expect_all(self, generations: Mapping[str, int]) -> None:
        """Nothing to do either."""

    def follow(self, instance: Instance) -> None:
        """See to the agent in this instance from now on."""
        self._posts[instance.vcd].follow(instance)

    async def settle(self) -> None:
        """Nothing to wait for: :meth:`run` is at it."""

    async def run(self) -> None:
        """Deliver wherever something is missing, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for post in self._posts.values():
                tasks.create_task(post.run())

    async def ready(self) -> int:
        """Wait until the manager hears the agents of all guests that run; returns how many there are.

        Raises :class:`DeployError` that says why one is not heard.
        """
        running = {vcd for vcd, post in self._posts.items() if post.runs}
        deadline, look_s = time.monotonic() + READY_S, time.monotonic() + ENDS_LOOK_S
        while missing := sorted(running - set(await self._whom())):
            if refused := next((vcd for vcd in missing if self._posts[vcd].refused), ""):
                raise DeployError(self._posts[refused].problem)
            if time.monotonic() > look_s:
                for vcd in missing:
                    await asyncio.to_thread(self._posts[vcd].check_service)
                look_s = time.monotonic() + ENDS_LOOK_S
            if time.monotonic() > deadline:
                raise DeployError(await asyncio.to_thread(self._why_silent, missing[0]))
            await asyncio.sleep(LOOK_S)
        return len(running)

    async def _whom(self) -> Collection[str]:
        try:
            return await self._heard()
        except ManagerError:
            # It is being started again, or will be missed elsewhere.
            return ()

    def _why_silent(self, vcd: str) -> str:
        post = self._posts[vcd]
        if post.problem:
            return f"the agent of {vcd} is not delivered after {READY_S:.0f} s: {post.problem}"
        return (
            f"the agent of {vcd} does not report, its service says: {post.last_words()} "
            "(see that this host's firewall lets guests reach the manager)"
        )


class _Post:
    """What is brought to one guest."""

    def __init__(
        self,
        shell: Shell,
        vcd: str,
        *,
        payloads: Callable[[str], tuple[Payload, ...]],
        gone: Callable[[str], None],
        installer: Installer | None,
        seeded: bool,
    ) -> None:
        self.runs = False
        self.problem = ""
        self.refused = False
        self._shell, self._vcd = shell, vcd
        self._payloads, self._gone, self._installer = payloads, gone, installer
        self._seeded, self._not_before_s = seeded, 0.0
        self._incarnation = ""
        self._replaced = False
        self._delivered: tuple[Payload, ...] = ()
        self._ends: int | None = None
        self._told = ""
        self._moved = asyncio.Event()

    def follow(self, instance: Instance) -> None:
        self.runs = instance.power is Power.RUNNING
        if self.runs and instance.incarnation != self._incarnation:
            self._replaced = bool(self._incarnation)
            self._incarnation = instance.incarnation
            self._moved.set()

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._moved.wait()
            if self._moved.is_set():
                self._moved.clear()
                self._delivered = ()
                first = self._seeded and not self._replaced
                self._not_before_s = time.monotonic() + SEED_S if first else 0.0
                if self._replaced:
                    await asyncio.to_thread(self._gone, self._vcd)
            if time.monotonic() >= self._not_before_s:
                await self._settle()

    async def _settle(self) -> None:
        """Try until the guest has what it should have, cannot ever, or is another one."""
        began = time.monotonic()
        while self.runs and not self._moved.is_set():
            try:
                await asyncio.to_thread(self._deliver)
            except (DeployError, DriverError) as e:
                self.refused = isinstance(e, DeliveryError)
                late = self.refused or time.monotonic() - began > READY_S
                if late and str(e) != self._told:
                    self._told = str(e)
                    _log.warning("the agent is not delivered", vcd=self._vcd, problem=str(e))
                self.problem = str(e)
                if self.refused:
                    return
                await asyncio.sleep(LATE_AGAIN_S if late else AGAIN_S)
            else:
                self.problem, self.refused = "", False
                return

    def _deliver(self) -> None:
        if (payloads := self._payloads(self._vcd)) == self._delivered:
            return
        for payload in payloads:
            provide(self._shell, self._vcd, payload, self._installer)
        self._delivered = payloads
        _log.info("agent delivered", vcd=self._vcd, incarnation=self._incarnation)

    def check_service(self) -> None:
        """Raise :class:`DeployError` when the agent ends again and again."""
        if not self._delivered:
            return
        ends = restarts(self._shell, self._vcd, self._delivered[-1].unit)
        self._ends = min(ends, ends if self._ends is None else self._ends)
        if ends - self._ends >= ENDS:
            raise DeployError(f"the agent of {self._vcd} ends again and again: {self.last_words()}")

    def last_words(self) -> str:
        """Of the agent's service."""
        return journal(self._shell, self._vcd, self._payloads(self._vcd)[-1].unit)
