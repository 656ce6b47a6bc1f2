"""Commands of ``idm`` about machines that are there already: the agent's bundle, and adopting them."""

from pathlib import Path

import click

from idm.adoption import drafted, hypervisor_of, put
from idm.choice import Choice
from idm.delivery import bundle
from idm.delivery.contents import OWN, Python, Role
from idm.errors import DeployError
from idm.site import bundles


@click.command("bundle")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to put it; by default where `idm up` looks for it.",
)
@click.option(
    "--python", "version", default=OWN.version, show_default=True, help="The guests' version of Python."
)
@click.option(
    "--libraries",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the libraries of another version are.",
)
@click.option("--manager", is_flag=True, help="Make the manager's bundle instead.")
@click.pass_obj
def bundle_command(
    choice: Choice, directory: Path | None, version: str, libraries: Path | None, *, manager: bool
) -> None:
    """Make the agent's bundle for VMs that lack it, ahead of `idm up`, and tell its file.

    It is for guests whose Python is of the version that runs this. For others have pip fetch the libraries first: pip
    install --target DIR --only-binary :all: --python-version 3.12 -r runtime.lock
    """
    if version != OWN.version and libraries is None:
        raise click.UsageError(f"the libraries here are for Python {OWN.version}: name others by --libraries")
    role = Role.MANAGER if manager else Role.AGENT
    place = directory or bundles(choice.settings())
    click.echo(bundle.ensure(place, role, Python(version, libraries)).path)


@click.command("adopt")
@click.option("--stack", "name", help="The stack's name; by default the manifest's directory's.")
@click.option(
    "--wait",
    "wait_s",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds to wait for guest agents, which know their guests' addresses best.",
)
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...")
@click.pass_obj
def adopt_command(choice: Choice, domains: tuple[str, ...], name: str | None, wait_s: float) -> None:
    """Write a manifest of libvirt domains that run; `idm up` then guards them.

    DOMAIN is a name or a pattern such as 'lab-*'.
    """
    if choice.manifest.exists():
        raise DeployError(f"{choice.manifest} is there already: remove it, or name another by --file")
    with hypervisor_of(choice) as hypervisor:
        put(choice.manifest, drafted(choice, hypervisor, domains, name=name, wait_s=wait_s))
    click.echo(f"{choice.manifest} is written: look at it, then `idm --file {choice.manifest} up`")
