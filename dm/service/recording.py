"""What agents and deployers said, kept in a file: to be played to the core again, in a test or for a bug report.

A file has a line of JSON for each message, in the order of arrival. It suffices by itself: the golden images that are
in force at its beginning are written as if somebody imported them then.
"""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

import grpc
import grpc.aio
import structlog
from google.protobuf.json_format import MessageToDict

from dm.golden import GoldenImage, encode
from dm.service.handler import Method, wrapped
from dm.v1.golden_service_pb2 import ImportGoldenRequest

IMPORT = "/dm.v1.GoldenService/ImportGolden"
METHODS = frozenset(
    {
        "/dm.v1.AgentService/Report",
        "/dm.v1.GoldenService/CaptureGolden",
        IMPORT,
        "/dm.v1.GoldenService/SetGoldenRule",
        "/dm.v1.RollbackService/Attend",
        "/dm.v1.StackService/ApplyStack",
        "/dm.v1.StackService/RemoveStack",
    }
)
"""What changes a stack; the rest only asks."""
MAX_BYTES = 64 << 20

log = structlog.get_logger()


class RecordingError(Exception):
    """The file cannot be written; the message says why."""


class Recorder(grpc.aio.ServerInterceptor):
    """Writes down each request of :data:`METHODS` with its time, its call's number and the end of its stream."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._left = MAX_BYTES
        self._begin_s = time.monotonic()
        self._calls = count(1)

    def begin(self, images: Iterable[GoldenImage]) -> None:
        """Write down the images that are in force already."""
        for image in images:
            self._write(next(self._calls), IMPORT, ImportGoldenRequest(document=encode(image)))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler."""
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        if handler is None or name not in METHODS:
            return handler
        return wrapped(
            handler,
            single=lambda method: self._single(name, method),
            stream=lambda method: self._stream(name, method),
        )

    def _single(self, name: str, method: Method) -> Method:
        async def call(request: Any, context: Any) -> Any:
            self._write(next(self._calls), name, request)
            return await method(request, context)

        return call

    def _stream(self, name: str, method: Method) -> Method:
        async def call(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            number = next(self._calls)
            try:
                async for response in method(self._written(number, name, requests), context):
                    yield response
            finally:
                self._write(number, name, None)

        return call

    async def _written(self, number: int, name: str, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._write(number, name, request)
            yield request

    def _write(self, number: int, name: str, request: Any) -> None:
        """``request`` is None at the end of a stream."""
        said = {"at_s": round(time.monotonic() - self._begin_s, 3), "call": number, "method": name}
        if request is not None:
            said["request"] = MessageToDict(request, preserving_proto_field_name=True)
        line = json.dumps(said, separators=(",", ":")) + "\n"
        if self._left < 0:
            return
        self._left -= len(line)
        if self._left < 0:
            log.warning("recording is full: what follows is not kept", bytes=MAX_BYTES)
            return
        try:
            self._file.write(line)
        except OSError as error:
            log.warning("recording ended", reason=error.strerror)
            self._left = -1


@contextmanager
def recording(path: Path, images: Iterable[GoldenImage] = ()) -> Iterator[Recorder]:
    """The recorder to a file; raises :class:`RecordingError`. ``images`` are in force at its beginning.

    The file is its owner's alone, for it tells who calls whom. What was in it is kept beside it, as FILE.old: a manager
    that was killed is started again with the same file.
    """
    try:
        if path.is_file() and path.stat().st_size:
            path.replace(path.with_name(f"{path.name}.old"))
        path.touch(mode=0o600)
        file = path.open("w", buffering=1)
    except OSError as error:
        raise RecordingError(
            f"cannot write {path}: {error.strerror}; choose another file for --record"
        ) from error
    with file:
        recorder = Recorder(file)
        recorder.begin(images)
        yield recorder
