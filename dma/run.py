"""``dma run``: watches one machine and reports to its manager until it is told to stop."""

import asyncio
import contextlib
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import click

from dm.peer import ManagerError
from dm.tls import Tls, TlsError
from dma import __version__, logs
from dma.call import transport
from dma.capture.plans import open_capture
from dma.capture.target import Target, entered
from dma.conntrack import Backends, Conntrack, conntrack_around
from dma.flow import Capture, CaptureError
from dma.logs import log
from dma.namespace import NamespaceError
from dma.naming.methods import Naming, open_names
from dma.naming.options import naming_options
from dma.netlink import NetlinkError
from dma.notify import notify
from dma.observation import Observation
from dma.options import config_option, loader_option, plan_option
from dma.report import Identity, Report
from dma.stream import Reporter
from dma.tasks import first_of
from dma.urgency import Urgency

READY_S = 2.0
"""A manager that does not answer holds nobody's start up for longer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line and the configuration file say."""

    manager: str
    tls: Tls | None
    identity: Identity
    generation: int
    plan: str
    loader: str
    target: Target
    root: Path
    naming: Naming
    around: Conntrack | None
    metrics: socket.socket | None


@click.command()
@config_option
@click.option(
    "--dm",
    "manager",
    required=True,
    metavar="TARGET",
    help="The manager: unix:/path/to/dm.sock, or with certificates ADDRESS:PORT.",
)
@click.option("--tls-ca", type=click.Path(path_type=Path), help="The stack's CA, in PEM form.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="This machine's certificate.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key; not needed when in the same file.")
@click.option("--stack", required=True, help="The stack that this machine belongs to.")
@click.option("--vcd", required=True, help="This machine's name in the stack.")
@click.option(
    "--netns",
    type=click.Path(path_type=Path),
    help="Watch this network namespace, such as /proc/PID/ns/net, from inside; else all of this machine.",
)
@click.option(
    "--cgroup",
    type=click.Path(path_type=Path),
    help="Watch one cgroup, by its directory below the cgroup2 mount.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    show_default=True,
    help="Where the watched machine's files are, such as /proc/PID/root.",
)
@click.option(
    "--interval-ms",
    type=click.IntRange(100, 2000),
    default=1000,
    show_default=True,
    help="How often to report what changed; first sightings and failures are reported at once.",
)
@click.option(
    "--generation",
    type=click.IntRange(min=0),
    default=0,
    help="The machine's generation, if it is known already.",
)
@plan_option
@loader_option
@click.option(
    "--metrics",
    metavar="ADDRESS:PORT",
    help="Serve metrics in Prometheus' format to whoever reaches this address, such as 127.0.0.1:9464.",
)
@naming_options
def run(
    *,
    manager: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    stack: str,
    vcd: str,
    netns: Path | None,
    cgroup: Path | None,
    root: Path,
    interval_ms: int,
    generation: int,
    plan: str,
    loader: str,
    metrics: str | None,
    naming: Naming,
) -> None:
    """Report this machine's dependencies to a manager, until SIGTERM or SIGINT."""
    logs.configure()
    identity = Identity(stack=stack, vcd=vcd, version=__version__, interval_s=interval_ms / 1000)
    try:
        tls = Tls.chosen(ca=tls_ca, certificate=tls_cert, key=tls_key)
    except TlsError as e:
        raise click.UsageError(str(e)) from e
    try:
        # Both belong to the namespace from which the agent is started, not to the one that it watches.
        with _listening(metrics) as listener, conntrack_around(netns) as around:
            settings = Settings(
                manager=manager,
                tls=tls,
                identity=identity,
                generation=generation,
                plan=plan,
                loader=loader,
                target=entered(netns=netns, cgroup=cgroup),
                root=root,
                naming=naming,
                around=around,
                metrics=listener,
            )
            asyncio.run(_watch(settings))
    except* (CaptureError, ManagerError, NamespaceError, NetlinkError) as group:
        raise click.ClickException(str(first_of(group))) from group


async def _watch(settings: Settings) -> None:
    """Attach first, so that no connection falls between what is captured and what was there before."""
    # An address that cannot work is refused before anything is attached.
    transport(settings.manager, tls=settings.tls)
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(
            open_capture(settings.target, plan=settings.plan, loader=settings.loader)
        )
        log.info("attached", plan=capture.plan, loader=capture.loader, **_problems(capture))
        names = stack.enter_context(open_names(settings.root, settings.naming, target=settings.target))
        for method in names.methods:
            if method.counters.problem:
                log.warning("fewer names", method=method.source.value, reason=method.counters.problem)
        urgency = stack.enter_context(Urgency(capture))
        backends = Backends(around=settings.around)
        observation = Observation(capture, names, cgroup=settings.target.cgroup, backends=backends)
        report = Report(settings.identity, observation, generation=settings.generation)
        reporter = Reporter(report, urgency, target=settings.manager, tls=settings.tls)
        async with _metrics(settings.metrics, report, reporter):
            if settings.metrics:
                log.info("serving metrics", at=settings.metrics.getsockname())
            await _until_stopped(reporter)


def _listening(metrics: str | None) -> contextlib.AbstractContextManager[socket.socket | None]:
    """A socket for metrics, if there are to be any."""
    if metrics is None:
        return contextlib.nullcontext()
    from dm.exposition import MetricsError, listening

    try:
        return listening(metrics)
    except MetricsError as e:
        raise click.ClickException(str(e)) from e


def _metrics(
    at: socket.socket | None, report: Report, reporter: Reporter
) -> contextlib.AbstractAsyncContextManager[None]:
    """Metrics while the block runs, if there are to be any; their libraries are loaded only then."""
    if at is None:
        return contextlib.nullcontext()
    from dm.exposition import exposed
    from dma.metrics import AgentCollector

    return exposed(at, AgentCollector(report, reporter))


async def _until_stopped(reporter: Reporter) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with asyncio.TaskGroup() as group:
        reporting = group.create_task(reporter.run())
        announcing = group.create_task(_announce(reporter.greeted))
        await stopped.wait()
        notify("STOPPING=1")
        log.info("stopping")
        announcing.cancel()
        reporting.cancel()


async def _announce(greeted: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_S):
            await greeted.wait()
    notify("READY=1")
    log.info("ready", greeted=greeted.is_set())


def _problems(capture: Capture) -> dict[str, str]:
    return {probe.name: probe.problem for probe in capture.probes if probe.problem}
