"""Podman's own API, typed: the part of it that a stack needs, with every failure as a :class:`DriverError`."""

import json
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from podman.api.client import APIClient, APIResponse
from podman.errors import APIError
from requests import RequestException, Timeout

from idm.driver import DriverError

# The oldest version of the API that has all this; podman 4 and 5 both serve it.
API = "4.0.0"
CALL_S = 30.0
# More threads than that may call at once; the rest of their connections are not kept.
CONNECTIONS = 16
CHUNK = 65536

T = TypeVar("T")
Parameters = Mapping[str, str | list[str]]
_NOT_FOUND = 404
# Of a multiplexed stream: which of the outputs, three bytes of padding, length of what follows.
_FRAME = struct.Struct(">B3xI")


class RefusedError(DriverError):
    """Podman answered, and the answer is no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Limit(msgspec.Struct, frozen=True):
    """One of POSIX's resource limits."""

    type: str
    soft: int
    hard: int


class NetworkOptions(msgspec.Struct, frozen=True):
    """How a container is attached to a network."""

    static_ips: list[str]
    static_mac: str


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a container is created from; the keys are those of podman's SpecGenerator."""

    name: str
    image: str
    hostname: str
    labels: dict[str, str]
    networks: dict[str, NetworkOptions]
    netns: dict[str, str]
    hostadd: list[str]
    # What an image declares as volumes stays in the container's file system, so that snapshots have it.
    image_volume_mode: str
    # The stack's names are in /etc/hosts; this host's resolvers are none of its dependencies.
    use_image_resolve_conf: bool
    command: list[str] = []
    env: dict[str, str] = {}
    cap_add: list[str] = []
    r_limits: list[Limit] = []


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """One container of a listing. ``started_at`` is in Unix seconds, ``pid`` 0 unless it runs."""

    id: str
    names: list[str]
    state: str
    pid: int
    started_at: int
    exit_code: int
    labels: dict[str, str] | None


class Image(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of a listing; ``created`` in Unix seconds, ``size`` in bytes."""

    id: str
    created: int
    size: int
    names: list[str] | None = None
    labels: dict[str, str] | None = None


class Subnet(msgspec.Struct, frozen=True):
    """A subnet of a network."""

    subnet: str


class Network(msgspec.Struct, frozen=True):
    """A network as podman has it, or as it is to be created."""

    name: str
    driver: str
    subnets: list[Subnet]
    dns_enabled: bool
    labels: dict[str, str] = {}


class Actor(msgspec.Struct, frozen=True, rename="pascal"):
    """Whom an event happened to."""

    attributes: dict[str, str] = {}


class Event(msgspec.Struct, frozen=True, rename="pascal"):
    """One event of a container."""

    action: str
    actor: Actor


class Version(msgspec.Struct, frozen=True, rename="pascal"):
    """What the service says of itself."""

    version: str


class _Id(msgspec.Struct, frozen=True, rename="pascal"):
    id: str


class Session(msgspec.Struct, frozen=True, rename="pascal"):
    """A command in a container; ``pid`` is its process on this host."""

    running: bool
    exit_code: int
    pid: int


class Change(msgspec.Struct, frozen=True, rename="pascal"):
    """A path that differs from the image: 0 modified, 1 added, 2 deleted."""

    path: str
    kind: int


class Libpod:
    """A connection to the service at ``socket``. Threads may share it: nothing in the session changes after its making.

    Every call is over within its ``timeout_s``. It fails with :class:`RefusedError` when podman says no, and with a
    plain :class:`DriverError` when there is no answer.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        url = f"http+unix://{socket}"
        # The full client would also read its user's podman settings, which may not be readable and do not matter here.
        self._client = APIClient(base_url=url, version=API, timeout=CALL_S, max_pool_size=CONNECTIONS)
        self._streaming = APIClient(base_url=url, version=API)

    def close(self) -> None:
        """Let go of all connections that are not in use."""
        for client in (self._client, self._streaming):
            client.close()

    def version(self) -> str:
        """The version of the service."""
        return self._call("GET", "version", Version).version

    def containers(self, *, filters: Mapping[str, list[str]]) -> list[Container]:
        """All containers that match, running or not."""
        return self._call(
            "GET", "containers/json", list[Container], {"all": "true", "filters": json.dumps(filters)}
        )

    def create(self, spec: ContainerSpec) -> str:
        """Create a container; returns its identifier."""
        return self._call("POST", "containers/create", _Id, body=spec).id

    def post(self, path: str, parameters: Parameters | None = None, *, timeout_s: float = CALL_S) -> None:
        """An action without an answer, such as ``containers/NAME/pause``."""
        self._send("POST", path, parameters, timeout_s=timeout_s)

    def delete(self, path: str, parameters: Parameters | None = None) -> None:
        """Remove something; harmless when it is not there."""
        try:
            self._send("DELETE", path, parameters)
        except RefusedError as e:
            if e.status != _NOT_FOUND:
                raise

    def commit(
        self, container: str, *, repository: str, tag: str, labels: Mapping[str, str], timeout_s: float
    ) -> str:
        """Save a container's file system and configuration as an image; returns the image's identifier."""
        changes = [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]
        where = {"container": container, "repo": repository, "tag": tag, "pause": "false"}
        return self._call("POST", "commit", _Id, where | {"changes": changes}, timeout_s=timeout_s).id

    def images(self, *, label: str) -> list[Image]:
        """All images that carry the label, those without a name as well."""
        return self._call("GET", "images/json", list[Image], {"filters": json.dumps({"label": [label]})})

    def has_image(self, reference: str) -> bool:
        """Whether an image of that name is in the store."""
        return self._exists(f"images/{reference}/exists")

    def network(self, name: str) -> Network | None:
        """The network of that name, if there is one."""
        if not self._exists(f"networks/{name}/exists"):
            return None
        return self._call("GET", f"networks/{name}/json", Network)

    def create_network(self, network: Network) -> None:
        """Create a network."""
        self._call("POST", "networks/create", Network, body=network)

    def inspection(self, container: str) -> bytes:
        """All that podman knows of a container, as JSON."""
        inspection: bytes = self._send("GET", f"containers/{container}/json").content
        return inspection

    def changes(self, container: str) -> list[Change]:
        """How the container's file system differs from its image."""
        return self._call("GET", f"containers/{container}/changes", list[Change])

    def log(self, container: str, *, lines: int) -> bytes:
        """The end of what the container wrote to its outputs."""
        path = f"containers/{container}/logs"
        parameters = {"stdout": "true", "stderr": "true", "tail": str(lines)}
        return b"".join(_outputs([self._send("GET", path, parameters).content]))

    def open_session(self, container: str, command: list[str]) -> str:
        """Prepare to run a command in a container; returns the session's identifier."""
        request = {"Cmd": command, "AttachStdout": True, "AttachStderr": True}
        return self._call("POST", f"containers/{container}/exec", _Id, body=request).id

    def run_session(self, session: str, *, most: int, timeout_s: float) -> bytes | None:
        """Run it to its end; returns the last ``most`` bytes of its output, or None when the time was up first."""
        body = {"Detach": False, "Tty": False}
        response = self._send("POST", f"exec/{session}/start", body=body, timeout_s=timeout_s, stream=True)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _interrupt(response)

        alarm = threading.Timer(timeout_s, expire)
        alarm.start()
        output = bytearray()
        try:
            for part in _outputs(response.iter_content(CHUNK)):
                output += part
                del output[:-most]
        except RequestException as e:
            if not expired.is_set():
                raise self._unanswered(e, timeout_s) from e
        finally:
            alarm.cancel()
            response.close()
        return None if expired.is_set() else bytes(output)

    def session(self, session: str) -> Session:
        """How a command fares."""
        return self._call("GET", f"exec/{session}/json", Session)

    def events(self, *, filters: Mapping[str, list[str]]) -> "Events":
        """Subscribe to what happens from now on."""
        parameters = {"stream": "true", "filters": json.dumps(filters)}
        return Events(self._send("GET", "events", parameters, timeout_s=None, stream=True))

    def _exists(self, path: str) -> bool:
        try:
            self._send("GET", path)
        except RefusedError as e:
            if e.status == _NOT_FOUND:
                return False
            raise
        return True

    def _call(
        self,
        method: str,
        path: str,
        form: type[T],
        parameters: Parameters | None = None,
        *,
        body: object = None,
        timeout_s: float | None = CALL_S,
    ) -> T:
        answer = self._send(method, path, parameters, body=body, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(answer.content, type=form)
        except msgspec.DecodeError as e:
            raise DriverError(
                f"podman's answer to {method} {path} is not understood, {e}: use podman 4.3 or later"
            ) from e

    def _send(
        self,
        method: str,
        path: str,
        parameters: Parameters | None = None,
        *,
        body: object = None,
        timeout_s: float | None = CALL_S,
        stream: bool = False,
    ) -> APIResponse:
        api = self._streaming if timeout_s is None else self._client
        data = None if body is None else msgspec.json.encode(body)
        try:
            match method:
                case "GET":
                    response = api.get(path, params=parameters, timeout=timeout_s, stream=stream)
                case "DELETE":
                    response = api.delete(path, params=parameters, timeout=timeout_s)
                case _:
                    response = api.post(path, params=parameters, data=data, timeout=timeout_s, stream=stream)
            response.raise_for_status()
        except APIError as e:
            if e.response is None:
                raise self._unanswered(e, timeout_s) from e
            raise RefusedError(" ".join(str(e.explanation).split()), e.response.status_code) from e
        return response

    def _unanswered(self, error: BaseException, timeout_s: float | None) -> DriverError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, Timeout):
                return DriverError(
                    f"podman did not answer within {timeout_s:.0f} s: look at the machine's load"
                )
            cause = cause.__cause__
        return DriverError(
            f"podman does not answer at {self._socket}: systemctl start podman.socket, or set [podman] socket"
        )


class Events:
    """An open subscription; iterating ends with the service or when another thread calls :meth:`close`."""

    def __init__(self, response: APIResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Event]:
        with closing(self._response), suppress(RequestException):
            for line in self._response.iter_lines(CHUNK):
                yield msgspec.json.decode(line, type=Event)

    def close(self) -> None:
        """Wake up and end the iteration."""
        _interrupt(self._response)


def _interrupt(response: APIResponse) -> None:
    """End a read that another thread is blocked in."""
    # It raises these when the response has come to its end by itself in the meantime.
    with suppress(ValueError, RuntimeError):
        response.raw.shutdown()


def _outputs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Take a multiplexed stream apart; standard output and error come as they were written, interleaved."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _FRAME.size:
            end = _FRAME.size + _FRAME.unpack_from(buffer)[1]
            if len(buffer) < end:
                break
            yield bytes(buffer[_FRAME.size : end])
            del buffer[:end]
