"""The command line's option for the configuration file."""

from pathlib import Path

import click

from dma import config


def _configure(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """What a file says stands in for options that are not given."""
    if path is not None:
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
