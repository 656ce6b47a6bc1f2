"""Who calls, and what a caller may do.

On a unix socket, and on loopback without TLS, whoever gets that far may do everything. Over TLS the peer's certificate
names one stack and a role in it; :data:`RIGHTS` says for every method which roles may call it, and which stacks a
request is about. A method that is not in the table is refused to all.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

from dm.golden import decode
from dm.manager import Manager
from dm.service import Context
from dm.service.handler import Method, wrapped

_URI = re.compile(r"stackmend://(?P<stack>[^/]+)/(?:(?P<role>deployer|operator)|vcd/(?P<vcd>[^/]+))")
NAME_SHOWN = 64


class RefusedError(Exception):
    """The caller may not do this; the message says why."""


class Role(StrEnum):
    """What a certificate is for."""

    VCD = "vcd"
    DEPLOYER = "deployer"
    OPERATOR = "operator"


class Identity(NamedTuple):
    """Whom a certificate names; ``vcd`` is empty for a deployer and an operator."""

    stack: str
    role: Role
    vcd: str = ""

    def __str__(self) -> str:
        return f"{self.role} {self.vcd} of {self.stack}" if self.vcd else f"the {self.role} of {self.stack}"

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """The identity in a URI such as ``stackmend://shop/vcd/web``."""
        match = _URI.fullmatch(uri)
        if match is None:
            return None
        return cls(match["stack"], Role(match["role"] or "vcd"), match["vcd"] or "")


class Right(NamedTuple):
    """Who may call a method. ``stacks`` finds what a request, or a stream's first message, is about.

    ``narrow`` makes a request about all stacks one about the caller's own, and ``sift`` does so to a response.
    """

    roles: frozenset[Role]
    stacks: Callable[[Any, Manager], Iterable[str]]
    narrow: Callable[[Any, str], None] | None = None
    sift: Callable[[Any, str], None] | None = None


def _named(request: Any, _: Manager) -> Iterable[str]:
    return [request.stack]


def _images(request: Any, manager: Manager) -> Iterable[str]:
    """The stacks of the golden images that a request names in any of the ways in which requests do."""
    names = [*getattr(request, "ids", ()), getattr(request, "id", ""), getattr(request, "other", "")]
    return [manager.store.find_golden(name).image.stack for name in names if name]


def _operation(request: Any, manager: Manager) -> Iterable[str]:
    under_way = ((guarded, guarded.operations.current) for guarded in manager.stacks())
    return [
        guarded.stack.spec.name
        for guarded, operation in under_way
        if operation is not None and operation.id == request.operation
    ]


def _choose(request: Any, stack: str) -> None:
    request.stack = request.stack or stack


def _keep(response: Any, stack: str) -> None:
    kept = [one for one in response.stacks if one.stack == stack]
    del response.stacks[:]
    response.stacks.extend(kept)


_AGENT = frozenset({Role.VCD})
_DEPLOYER = frozenset({Role.DEPLOYER})
_OPERATOR = frozenset({Role.OPERATOR})
_READERS = _DEPLOYER | _OPERATOR

RIGHTS: Mapping[str, Right] = {
    "/dm.v1.AgentService/Report": Right(_AGENT, lambda first, _: [first.hello.stack]),
    "/dm.v1.StackService/ApplyStack": Right(_DEPLOYER, lambda request, _: [request.stack.name]),
    "/dm.v1.StackService/RemoveStack": Right(_DEPLOYER, _named),
    "/dm.v1.StackService/ListStacks": Right(_READERS, lambda _request, _manager: (), sift=_keep),
    "/dm.v1.StackService/GetStatus": Right(_READERS, _named),
    "/dm.v1.StackService/Explain": Right(_READERS, _named),
    "/dm.v1.StackService/GetGraph": Right(_READERS, _named),
    "/dm.v1.StackService/WatchStatus": Right(_READERS, _named),
    "/dm.v1.StackService/WatchEvents": Right(_READERS, _named, narrow=_choose),
    "/dm.v1.GoldenService/CaptureGolden": Right(_OPERATOR, _named),
    "/dm.v1.GoldenService/ListGolden": Right(_READERS, _named, narrow=_choose),
    "/dm.v1.GoldenService/GetGolden": Right(_READERS, _images),
    "/dm.v1.GoldenService/DiffGolden": Right(_READERS, _images),
    "/dm.v1.GoldenService/MergeGolden": Right(_OPERATOR, _images),
    "/dm.v1.GoldenService/ImportGolden": Right(
        _OPERATOR, lambda request, _: [decode(request.document).stack]
    ),
    "/dm.v1.GoldenService/SetGoldenRule": Right(_OPERATOR, _images),
    "/dm.v1.GoldenService/DeleteGolden": Right(_OPERATOR, _images),
    "/dm.v1.RollbackService/Attend": Right(_DEPLOYER, lambda first, _: [first.attach.stack]),
    "/dm.v1.RollbackService/RequestRollback": Right(_OPERATOR, _named),
    "/dm.v1.RollbackService/ResolveRollback": Right(_OPERATOR, _operation),
    "/dm.v1.RollbackService/SetGuard": Right(_OPERATOR, _named),
    "/dm.v1.RollbackService/ListRollbacks": Right(_READERS, _named, narrow=_choose),
}


class Rights(grpc.aio.ServerInterceptor):
    """Holds every call against :data:`RIGHTS`; a refusal raises :class:`RefusedError`."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method
        return wrapped(
            handler,
            single=lambda method: self._single(name, method),
            stream=lambda method: self._stream(name, method),
        )

    def _single(self, name: str, method: Method) -> Method:
        async def call(request: Any, context: Context) -> Any:
            identity = identify(context)
            if identity is None:
                return await method(request, context)
            right = self._check(identity, name, request)
            response = await method(request, context)
            if right.sift is not None:
                right.sift(response, identity.stack)
            return response

        return call

    def _stream(self, name: str, method: Method) -> Method:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            identity = identify(context)
            if identity is not None and hasattr(request, "__aiter__"):
                request = _Checked(aiter(request), partial(self._check, identity, name))
            elif identity is not None:
                self._check(identity, name, request)
            async for response in method(request, context):
                yield response

        return call

    def _check(self, identity: Identity, name: str, request: Any) -> Right:
        """Narrow the request down, or raise :class:`RefusedError`."""
        right = RIGHTS.get(name)
        if right is None or identity.role not in right.roles:
            wanted = " or ".join(sorted(right.roles)) if right else "nobody"
            raise RefusedError(f"{identity} may not call {name.rpartition('/')[2]}: it is for {wanted}")
        if right.narrow is not None:
            right.narrow(request, identity.stack)
        for stack in right.stacks(request, self._manager):
            if stack != identity.stack:
                raise RefusedError(f"the certificate is of {identity}: it is not for stack {_show(stack)}")
        if identity.role is Role.VCD and request.hello.vcd != identity.vcd:
            raise RefusedError(
                f"the certificate is of {identity}: it is not for VCD {_show(request.hello.vcd)}"
            )
        return right


class _Checked:
    """A stream of requests whose first one is checked when it arrives; what follows is about the same."""

    def __init__(self, requests: AsyncIterator[Any], check: Callable[[Any], object]) -> None:
        self._requests = requests
        self._check: Callable[[Any], object] | None = check

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        request = await anext(self._requests)
        if self._check is not None:
            self._check(request)
            self._check = None
        return request


def identify(context: Context) -> Identity | None:
    """Whom the caller's certificate names; None for a caller without one, on this machine.

    Raises :class:`RefusedError` for a certificate that names nobody.
    """
    properties = context.auth_context()
    if properties.get("transport_security_type") == [b"insecure"]:
        return None
    uris = list(properties.get("peer_uri", ()))
    identity = Identity.parse(uris[0].decode()) if len(uris) == 1 else None
    if identity is None:
        raise RefusedError("the certificate names no vcd, deployer or operator: use one that `idm` issued")
    return identity


def _show(name: str) -> str:
    return repr(name[:NAME_SHOWN])
