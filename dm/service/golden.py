"""Golden images."""

from msgspec.structs import replace

from dm.capture import sureness
from dm.difference import Difference, diff, diff_live
from dm.expected import expect
from dm.golden import FORMAT, GoldenError, GoldenImage, decode, encode
from dm.golden_wire import difference_message, rule_of, summary_message
from dm.learning import merge
from dm.manager import Manager
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
        graph = self._manager.stack(request.stack).stack.graph
        return pb.CaptureGoldenResponse(golden=self._summary(image.id), sentences=sureness(image, graph))

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
            found = diff(image, self._manager.store.find_golden(request.other).image)
        else:
            found = self._diff_live(image)
        return pb.DiffGoldenResponse(
            lines=[str(one) for one in found], differences=[difference_message(one) for one in found]
        )

    async def MergeGolden(self, request: pb.MergeGoldenRequest, context: Context) -> pb.MergeGoldenResponse:
        """One image of several."""
        if len(set(request.ids)) < 2:
            raise GoldenError("two or more golden images are needed to merge")
        image = merge([self._manager.store.find_golden(name).image for name in request.ids])
        self._manager.put_in_force(image)
        return pb.MergeGoldenResponse(golden=self._summary(image.id))

    async def ImportGolden(
        self, request: pb.ImportGoldenRequest, context: Context
    ) -> pb.ImportGoldenResponse:
        """Take in a document."""
        image = decode(request.document)
        self._manager.put_in_force(image)
        return pb.ImportGoldenResponse(golden=self._summary(image.id))

    async def SetGoldenRule(
        self, request: pb.SetGoldenRuleRequest, context: Context
    ) -> pb.SetGoldenRuleResponse:
        """Add, change or remove a rule."""
        image = self._manager.store.find_golden(request.id).image
        rule, action = rule_of(request)
        rules = without(image.rules, rule.pattern) if action is None else changed(image.rules, rule)
        image = replace(image, rules=rules, format=FORMAT)
        self._manager.store.update_golden(image)
        self._manager.golden_changed(image.stack)
        return pb.SetGoldenRuleResponse(
            golden=self._summary(image.id),
            rules=[str(one) for one in image.rules],
            matched=sum(rule.matches(key) for key in expect(replace(image, rules=())).edges),
        )

    async def DeleteGolden(
        self, request: pb.DeleteGoldenRequest, context: Context
    ) -> pb.DeleteGoldenResponse:
        """Delete an image; an older one, if there is one, comes into force."""
        image = self._manager.store.delete_golden(request.id)
        self._manager.golden_changed(image.stack)
        return pb.DeleteGoldenResponse()

    def _diff_live(self, image: GoldenImage) -> list[Difference]:
        guarded = self._manager.stack(image.stack)
        stack = guarded.stack
        self._manager.evaluate(guarded)
        if silent := [vcd.name for vcd in stack.vcds.values() if vcd.seen_since_s is None]:
            raise GoldenError(
                f"the agent of {', '.join(silent)} is silent, so what is missing may only be unseen: try again later"
            )
        worked = [edge.key for edge in stack.graph if edge.seen_ok]
        judged = stack.deviation.judged() if stack.deviation else {}
        return diff_live(image, worked, judged, fingerprint=stack.spec.fingerprint)

    def _summary(self, image_id: str) -> pb.GoldenSummary:
        return summary(self._manager.store.find_golden(image_id))


def summary(kept: KeptImage) -> pb.GoldenSummary:
    """An image's line in a listing."""
    return summary_message(kept.image, created_ms=kept.created_ms, current=kept.current)
