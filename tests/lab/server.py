"""A server process in a namespace of the lab, which tests start, kill and start again."""

import json
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

from dm.tls import Tls
from dma.namespace import enter_network
from tests.lab.namespace import LabError, Namespace

READY_S, CALL_S = 30.0, 5.0
LOOK_S = 0.05
"""Servers do not tell when they answer: they are asked."""


class Server:
    """An HTTP server that runs while the context lasts; ``url`` is where it is called, from its own namespace here."""

    def __init__(
        self,
        namespace: Namespace,
        command: Sequence[str],
        *,
        url: str,
        log: Path,
        tls: Tls | None = None,
    ) -> None:
        self.url = url
        self.headers: dict[str, str] = {}
        """Sent with every call."""
        self._command = namespace.enter(*command)
        self._log = log
        self._tls = _context(tls) if tls else None
        self._inside = ThreadPoolExecutor(1, initializer=enter_network, initargs=(namespace.path,))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._inside.shutdown()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise LabError(f"{self.url} does not answer: {self._log.read_text()[-2000:]}")
            time.sleep(LOOK_S)  # nobody tells that it is ready but its own answer

    def kill(self) -> None:
        """What it has not written to its disk is lost."""
        self._process.kill()
        self._process.wait()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What it answers, as JSON; None where it answers nothing. Raises ``OSError``."""
        return self._inside.submit(self._call, method, path, body).result()

    def ready(self) -> bool:
        """Whether it does its work; may raise ``OSError``."""
        raise NotImplementedError

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, headers=self.headers, method=method)
        with urlopen(request, timeout=CALL_S, context=self._tls) as answer:
            text = answer.read()
            return json.loads(text) if text.strip() else None

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.ready()
        return False


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    return context
