"""A real Consul server of one node."""

import json
from pathlib import Path
from typing import Any

from dm.tls import Tls
from tests.lab.namespace import Namespace
from tests.lab.programs import CONSUL, program
from tests.lab.server import Server

HTTP, HTTPS, DNS = 8500, 8501, 8600
DATACENTRE = "lab"
MASTER = "6f0c4b5e-0000-4000-8000-000000000001"


class Consul(Server):
    """Keeps what it knows in ``directory``; with ``tls`` it speaks HTTPS and nothing else, to clients of its CA.

    With ``acl`` nobody reads or writes anything without a token.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        directory: Path,
        *,
        tls: Tls | None = None,
        client: Tls | None = None,
        acl: bool = False,
    ) -> None:
        directory.mkdir()
        settings: dict[str, Any] = {
            "datacenter": DATACENTRE,
            "node_name": "lab-node",
            "server": True,
            "bootstrap_expect": 1,
            "data_dir": str(directory / "data"),
            "bind_addr": address,
            "client_addr": address,
            "performance": {"raft_multiplier": 1},
            "log_level": "WARN",
            "disable_update_check": True,
        }
        if tls:
            settings["ports"] = {"http": -1, "https": HTTPS}
            settings |= {"verify_incoming_https": True, "ca_file": str(tls.ca)}
            settings |= {"cert_file": str(tls.certificate), "key_file": str(tls.key)}
        if acl:
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER}}
            settings["acl"]["tokens"]["agent"] = MASTER
        configuration = directory / "consul.json"
        configuration.write_text(json.dumps(settings))
        url = f"https://{address}:{HTTPS}" if tls else f"http://{address}:{HTTP}"
        command = [str(program(CONSUL)), "agent", "-config-file", str(configuration)]
        super().__init__(namespace, command, url=url, log=directory / "log", tls=client)
        self.headers = {"X-Consul-Token": MASTER} if acl else {}

    def ready(self) -> bool:
        """Whether it has elected itself, and its own node is in the catalogue."""
        return bool(self.call("GET", "/v1/status/leader") and self.call("GET", "/v1/catalog/nodes"))

    def register(self, service: str, address: str, port: int, *, check: str = "") -> None:
        """Register an instance, named after its place; ``check`` is the state that its health check begins with."""
        body: dict[str, Any] = {"Name": service, "ID": f"{address}:{port}", "Address": address, "Port": port}
        if check:
            body["Check"] = {"TTL": "1h", "Status": check}
        self.call("PUT", "/v1/agent/service/register", body)

    def store(self, key: str, value: str) -> None:
        """Keep a value of up to 500 kB, which the server reads again whenever it starts."""
        self.call("PUT", f"/v1/kv/{key}", {"value": value})

    def deregister(self, address: str, port: int) -> None:
        """Take an instance out."""
        self.call("PUT", f"/v1/agent/service/deregister/{address}:{port}")

    def reader(self) -> str:
        """A token that may read the catalogue and nothing else."""
        rules = 'node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }'
        self.call("PUT", "/v1/acl/policy", {"Name": "reader", "Rules": rules})
        token = self.call("PUT", "/v1/acl/token", {"Policies": [{"Name": "reader"}]})
        return str(token["SecretID"])
