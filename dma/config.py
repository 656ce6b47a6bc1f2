"""The agent's configuration file, in TOML: with it a machine's service needs no arguments."""

import tomllib
from pathlib import Path

import msgspec

from dma.naming.registry.settings import Consul, Etcd, Static


class ConfigError(Exception):
    """The file cannot be used; the message is one line that names it."""


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths; the key may be in the certificate's file."""

    ca: str
    certificate: str
    key: str | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file may say; an option on the command line wins, and nothing is required of either alone."""

    dm: str | None = None
    stack: str | None = None
    vcd: str | None = None
    interval_ms: int | None = None
    plan: str | None = None
    loader: str | None = None
    metrics: str | None = None
    passive_dns: bool | None = None
    dns_ports: list[int] | None = None
    reverse_dns: bool | None = None
    reverse_dns_servers: list[str] | None = None
    traffic_names: bool | None = None
    consul: Consul | None = None
    etcd: Etcd | None = None
    registry: Static | None = None
    tls: Tls | None = None


def load(path: Path) -> dict[str, object]:
    """What a file says, by the parameters of ``dma run``. Raises :class:`ConfigError`."""
    try:
        config = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Config)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}; check the path") from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path} is not TOML: {e}; correct it there") from e
    except msgspec.ValidationError as e:
        known = ", ".join(Config.__struct_fields__)
        raise ConfigError(f"{path}: {e}; known are {known}, and tls with ca, certificate, key") from e
    tls = config.tls
    said: dict[str, object] = {
        "manager": config.dm,
        "stack": config.stack,
        "vcd": config.vcd,
        "interval_ms": config.interval_ms,
        "plan": config.plan,
        "loader": config.loader,
        "metrics": config.metrics,
        "passive_dns": config.passive_dns,
        "dns_ports": config.dns_ports,
        "reverse_dns": config.reverse_dns,
        "reverse_dns_servers": config.reverse_dns_servers,
        "traffic_names": config.traffic_names,
        "consul": config.consul,
        "etcd": config.etcd,
        "registry": config.registry,
        "tls_ca": tls.ca if tls else None,
        "tls_cert": tls.certificate if tls else None,
        "tls_key": tls.key if tls else None,
    }
    return {name: value for name, value in said.items() if value is not None}
