"""Options that several commands share: where the manager is, and the certificates to show."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from dm.tls import Tls, TlsError

Command = Callable[..., Any]


class Peer(NamedTuple):
    """A manager to call; without a target, the only one on this machine."""

    target: str
    tls: Tls | None


def tls_options(command: Command) -> Command:
    """Add ``--tls-ca``, ``--tls-cert`` and ``--tls-key``; the command gets ``tls``, None when none of them is given."""
    place = click.Path(path_type=Path)

    @click.option("--tls-ca", type=place, envvar="STACKMEND_TLS_CA", help="The stack's CA, in PEM form.")
    @click.option("--tls-cert", type=place, envvar="STACKMEND_TLS_CERT", help="The certificate to show.")
    @click.option(
        "--tls-key", type=place, envvar="STACKMEND_TLS_KEY", help="Its key; not needed when in the same file."
    )
    @wraps(command)
    def with_tls(
        *arguments: Any, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **options: Any
    ) -> Any:
        try:
            tls = Tls.chosen(ca=tls_ca, certificate=tls_cert, key=tls_key)
        except TlsError as error:
            raise click.UsageError(str(error)) from error
        return command(*arguments, tls=tls, **options)

    return with_tls


def manager_option(command: Command) -> Command:
    """Add ``--dm`` and the certificates; the command gets ``peer``."""

    @click.option("--dm", "target", envvar="STACKMEND_DM", default="", help="The manager's address.")
    @tls_options
    @wraps(command)
    def with_peer(*arguments: Any, target: str, tls: Tls | None, **options: Any) -> Any:
        return command(*arguments, peer=Peer(target, tls), **options)

    return with_peer
