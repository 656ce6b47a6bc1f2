"""Golden images."""

from dm import wire
from dm.edge import EdgeKey
from dm.golden import GoldenEdge, GoldenError, decode, diff, encode, merge
from dm.manager import Manager, now_ms
from dm.service import Context
from dm.store.sqlite import KeptImage
from dm.v1 import golden_service_pb2 as pb
from dm.v1 import golden_service_pb2_grpc


class GoldenService(golden_service_pb2_grpc.GoldenServiceServicer):
    """Spoken by deployers and command lines."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def CaptureGolden(
        self, request: pb.CaptureGoldenRequest, context: Context
    ) -> pb.CaptureGoldenResponse:
        """Learn from the live stack."""
        image = self._manager.learn(request.stack, join=request.merge, smoke=request.smoke)
        return pb.CaptureGoldenResponse(golden=self._summary(image.id))

    async def ListGolden(self, request: pb.ListGoldenRequest, context: Context) -> pb.ListGoldenResponse:
        """All images."""
        return pb.ListGoldenResponse(
            golden=[summary(kept) for kept in self._manager.store.golden(request.stack)]
        )

    async def GetGolden(self, request: pb.GetGoldenRequest, context: Context) -> pb.GetGoldenResponse:
        """One image."""
        kept = self._manager.store.find_golden(request.id)
        return pb.GetGoldenResponse(golden=summary(kept), document=encode(kept.image))

    async def DiffGolden(self, request: pb.DiffGoldenRequest, context: Context) -> pb.DiffGoldenResponse:
        """Two images, or one and the live stack."""
        image = self._manager.store.find_golden(request.id).image
        if request.other:
            other = self._manager.store.find_golden(request.other).image
        else:
            other = self._manager.stack(image.stack).stack.learn(smoke=False)
        return pb.DiffGoldenResponse(lines=diff(_by_key(image.edges), _by_key(other.edges)))

    async def MergeGolden(self, request: pb.MergeGoldenRequest, context: Context) -> pb.MergeGoldenResponse:
        """One image of several."""
        if len(set(request.ids)) < 2:
            raise GoldenError("two or more golden images are needed to merge")
        image = merge([self._manager.store.find_golden(name).image for name in request.ids])
        self._manager.store.put_golden(image, created_ms=now_ms())
        self._manager.golden_changed(image.stack)
        return pb.MergeGoldenResponse(golden=self._summary(image.id))

    async def ImportGolden(
        self, request: pb.ImportGoldenRequest, context: Context
    ) -> pb.ImportGoldenResponse:
        """Take in a document."""
        image = decode(request.document)
        self._manager.store.put_golden(image, created_ms=now_ms())
        self._manager.golden_changed(image.stack)
        return pb.ImportGoldenResponse(golden=self._summary(image.id))

    async def DeleteGolden(
        self, request: pb.DeleteGoldenRequest, context: Context
    ) -> pb.DeleteGoldenResponse:
        """Delete an image; an older one, if there is one, comes into force."""
        image = self._manager.store.delete_golden(request.id)
        self._manager.golden_changed(image.stack)
        return pb.DeleteGoldenResponse()

    def _summary(self, image_id: str) -> pb.GoldenSummary:
        return summary(self._manager.store.find_golden(image_id))


def summary(kept: KeptImage) -> pb.GoldenSummary:
    """An image's line in a listing."""
    return wire.golden_summary(kept.image, created_ms=kept.created_ms, current=kept.current)


def _by_key(edges: tuple[GoldenEdge, ...]) -> dict[EdgeKey, GoldenEdge]:
    return {edge.key: edge for edge in edges}
