"""A real etcd of one member, spoken to through its JSON gateway."""

from base64 import b64encode
from pathlib import Path
from typing import Any

from dm.tls import Tls
from tests.lab.namespace import Namespace
from tests.lab.programs import ETCD, program
from tests.lab.server import Server

PORT, PEER_PORT = 2379, 2380
ROOT_PASSWORD = "lab-root"


class Etcd(Server):
    """Keeps what it knows in ``directory``; with ``tls`` it speaks HTTPS and nothing else."""

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        directory: Path,
        *,
        tls: Tls | None = None,
        client: Tls | None = None,
    ) -> None:
        directory.mkdir()
        url, peer = f"{'https' if tls else 'http'}://{address}:{PORT}", f"http://{address}:{PEER_PORT}"
        options = {
            "data-dir": directory / "data",
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
        }
        if tls:
            # Its own gateway would have to show a client's certificate, so it asks nobody for one.
            options |= {"cert-file": tls.certificate, "key-file": tls.key}
        command = [str(program(ETCD)), *(f"--{name}={value}" for name, value in options.items())]
        super().__init__(namespace, command, url=url, log=directory / "log", tls=client)

    def ready(self) -> bool:
        """Whether it has a leader and takes writes."""
        return bool(self.call("GET", "/health")["health"] == "true")

    def put(self, key: str, value: str, *, lease_s: int = 0) -> int:
        """Write a key, gone after ``lease_s`` if that is given; returns the revision."""
        body: dict[str, Any] = self.pair(key, value)
        if lease_s:
            body["lease"] = self.call("POST", "/v3/lease/grant", {"TTL": lease_s})["ID"]
        return int(self.call("POST", "/v3/kv/put", body)["header"]["revision"])

    def pair(self, key: str, value: str) -> dict[str, str]:
        """A key and its value as requests carry them."""
        return {"key": _coded(key), "value": _coded(value)}

    def delete(self, key: str) -> int:
        """Take a key away; returns the revision."""
        return int(self.call("POST", "/v3/kv/deleterange", {"key": _coded(key)})["header"]["revision"])

    def compact(self, revision: int) -> None:
        """Forget everything that was before a revision."""
        self.call("POST", "/v3/kv/compaction", {"revision": revision, "physical": True})

    def require_passwords(self, prefix: str, user: str, password: str) -> None:
        """From now on everybody must log in; the user may read below the prefix and do nothing else."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        permission = {"permType": "READ", "key": _coded(prefix), "range_end": _coded(end)}
        for path, body in (
            ("user/add", {"name": "root", "password": ROOT_PASSWORD}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": user, "password": password}),
            ("role/add", {"name": "reader"}),
            ("role/grant", {"name": "reader", "perm": permission}),
            ("user/grant", {"user": user, "role": "reader"}),
            ("enable", {}),
        ):
            self.call("POST", f"/v3/auth/{path}", body)
        root = {"name": "root", "password": ROOT_PASSWORD}
        self.headers = {"Authorization": self.call("POST", "/v3/auth/authenticate", root)["token"]}


def _coded(text: str) -> str:
    return b64encode(text.encode()).decode()
