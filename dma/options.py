"""What several commands have in common: the configuration file, and how to watch the kernel."""

from pathlib import Path

import click

from dma.capture.plans import AUTO, LOADERS, PLANS


def _configure(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """What a file says stands in for options that are not given."""
    if path is not None:
        from dma import config

        try:
            context.default_map = config.load(path)
        except config.ConfigError as e:
            raise click.ClickException(str(e)) from e


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_configure,
    help="A TOML file with dm, stack, vcd and others of these options; those given here win.",
)
plan_option = click.option(
    "--plan", type=click.Choice([AUTO, *PLANS]), default=AUTO, show_default=True, help="The hooks to use."
)
loader_option = click.option(
    "--loader",
    type=click.Choice([AUTO, *LOADERS]),
    default=AUTO,
    show_default=True,
    help="How to bring them into the kernel.",
)
