"""Golden images."""

from msgspec.structs import replace

from dm import wire
from dm.golden import FORMAT, GoldenError, decode, encode
from dm.learning import diff, merge
from dm.manager import Manager, now_ms
from dm.rules import changed, without
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
        return pb.DiffGoldenResponse(lines=diff(image, other))

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

    async def SetGoldenRule(
        self, request: pb.SetGoldenRuleRequest, context: Context
    ) -> pb.SetGoldenRuleResponse:
        """Add, change or remove a rule."""
        image = self._manager.store.find_golden(request.id).image
        rule, action = wire.golden_rule(request)
        rules = without(image.rules, rule.pattern) if action is None else changed(image.rules, rule)
        image = replace(image, rules=rules, format=FORMAT)
        self._manager.store.update_golden(image)
        self._manager.golden_changed(image.stack)
        return pb.SetGoldenRuleResponse(
            golden=self._summary(image.id), rules=[str(rule) for rule in image.rules]
        )

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
