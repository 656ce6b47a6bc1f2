"""The agent's command line.

What only one command needs is loaded by that: `run` is to see its first call within half a second.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from dma import logs
from dma.capture.plans import open_capture
from dma.capture.target import entered
from dma.conntrack import conntrack_around
from dma.flow import CaptureError, Transport
from dma.namespace import NamespaceError
from dma.naming.methods import Naming, open_names
from dma.naming.options import naming_options
from dma.netlink import NetlinkError
from dma.options import config_option, loader_option, plan_option
from dma.run import run


@click.group()
@click.version_option(package_name="stackmend")
def main() -> None:
    """See which services this machine depends on, and report them."""


main.add_command(run)


@contextmanager
def reported() -> Iterator[None]:
    """Turn what can go wrong outside the program into one line and an exit code."""
    try:
        yield
    except (CaptureError, NamespaceError, NetlinkError) as e:
        raise click.ClickException(str(e)) from e
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


PLACE = click.Path(path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)


@main.command("watch")
@click.option("--json", "as_json", is_flag=True, help="Print one array of the exchange format per interval.")
@click.option("--interval", type=POSITIVE, default=2.0, show_default=True, help="Seconds between updates.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many updates.")
@click.option("--duration", type=POSITIVE, help="End after so many seconds.")
@click.option("--netns", type=PLACE, help="Watch one network namespace, such as /proc/PID/ns/net.")
@click.option("--cgroup", type=PLACE, help="Watch one cgroup, by its directory below the cgroup2 mount.")
@plan_option
@loader_option
@naming_options
def watch_command(
    *,
    as_json: bool,
    interval: float,
    count: int | None,
    duration: float | None,
    netns: Path | None,
    cgroup: Path | None,
    plan: str,
    loader: str,
    naming: Naming,
) -> None:
    """Show live dependencies; no manager is needed."""
    from dma import watch

    logs.configure()
    show = watch.show_json if as_json else watch.show_table if sys.stdout.isatty() else watch.show_lines
    with (
        reported(),
        conntrack_around(netns) as around,
        open_capture(target := entered(netns=netns, cgroup=cgroup), plan=plan, loader=loader) as capture,
        open_names(naming=naming, target=target) as names,
    ):
        for probe in capture.probes:
            if probe.problem:
                click.echo(f"plan {capture.plan}, without {probe.name}: {probe.problem}", err=True)
        intervals = watch.ticks(capture, names, interval_s=interval, count=count, duration_s=duration)
        show(watch.View(capture, names, around=around), intervals, sys.stdout, sys.stderr)


@main.command("resolve")
@click.argument("destination", metavar="ADDRESS:PORT")
@click.option("--udp", is_flag=True, help="A destination of datagrams.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
@click.option("--timeout", type=POSITIVE, default=3.0, show_default=True, help="Seconds to wait for answers.")
@click.option("--netns", type=PLACE, help="Ask from inside this network namespace, such as /proc/PID/ns/net.")
@click.option("--root", type=PLACE, default=Path("/"), help="Where the watched machine's files are.")
@config_option
@naming_options
def resolve_command(
    *,
    destination: str,
    udp: bool,
    as_json: bool,
    timeout: float,
    netns: Path | None,
    root: Path,
    naming: Naming,
) -> None:
    """Say what each way of finding names calls a destination, which name is taken, and why."""
    from rich.console import Console

    from dma import resolve

    try:
        place = resolve.read_destination(destination, Transport.UDP if udp else Transport.TCP)
    except resolve.ResolveError as e:
        raise click.UsageError(str(e)) from e
    logs.silence()
    with reported():
        entered(netns=netns, cgroup=None)
        # Only a running agent hears what applications say and are answered.
        with open_names(root, dataclasses.replace(naming, passive_dns=False, traffic_names=False)) as names:
            explanation = resolve.explain(names, place, within_s=timeout)
    if as_json:
        click.echo(resolve.encode(destination, explanation))
    else:
        Console().print(resolve.table(explanation))
        click.echo(resolve.verdict(destination, explanation))


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def doctor_command(*, as_json: bool) -> None:
    """Say what this kernel allows, by trying it; the exit code is 0 when some plan works."""
    from rich.console import Console

    from dma import doctor

    findings, tried = list(doctor.examine()), list(doctor.try_ways())
    ways = [finding for _, finding in tried]
    chosen = next((way for way, finding in tried if finding.works), None)
    if as_json:
        records = [finding._asdict() for finding in findings + ways]
        plan, loader = (chosen.plan, chosen.loader) if chosen else (None, None)
        click.echo(msgspec.json.encode({"plan": plan, "loader": loader, "findings": records}))
    else:
        for part in (findings, ways):
            Console().print(doctor.shown(part), "")
        click.echo(f"chosen: {chosen or 'none works here'}")
    if chosen is None:
        raise SystemExit(1)
