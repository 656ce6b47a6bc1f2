"""One stack's rollback operation: driven by judgements and by what the deployer answers, stored before each step."""

import json
import secrets
from collections.abc import Callable, Sequence

import msgspec
import networkx as nx

from dm import rollback
from dm.blame import Suspect
from dm.rollback import Limits, Mode, Operation, Outcome, Phase
from dm.stack import Stack
from dm.store.sqlite import Event, Store
from dm.v1 import rollback_service_pb2 as pb
from dm.verdict import Judgement, Verdict

EVIDENCE_MS = 10_000
REVERT_MS = 300_000
VERIFY_EXTRA_MS = 5_000

Send = Callable[[pb.Command], None]
Tell = Callable[[Event], None]


class OperationError(Exception):
    """A person asked for what cannot be done; the message says why."""


class Operations:
    """Decides, and leads the one operation that a stack may have. Blocking only for the store's short transactions."""

    def __init__(self, stack: Stack, limits: Limits, store: Store, *, send: Send, tell: Tell) -> None:
        self.stack = stack
        self.limits = limits
        self._store = store
        self._send = send
        self._tell = tell
        self._told = ""
        self._step_ms = 0
        past = store.operations(stack.spec.name)
        self.current: Operation | None = next((operation for operation in past if not operation.over), None)

    @property
    def mode(self) -> Mode:
        """The manifest's mode, unless a person set another."""
        return Mode(self._store.guard(self.stack.spec.name) or self.limits.mode)

    def consider(self, judgement: Judgement, *, attended: bool, now_s: float, now_ms: int) -> None:
        """Go on with what is under way, or begin when the verdict says so; while nobody attends, that is only told."""
        operation = self.current
        if operation is None:
            if judgement.verdict is Verdict.FAILED and not attended:
                self._refuse(rollback.NOBODY, self._culprits(judgement), now_ms)
            elif judgement.verdict is Verdict.FAILED:
                self._decide(judgement, now_s=now_s, now_ms=now_ms)
            elif judgement.verdict is Verdict.OK:
                self._told = ""
            return
        self._step_ms = self._step_ms or now_ms
        waited_ms = now_ms - self._step_ms
        match operation.phase:
            case Phase.APPROVAL | Phase.EVIDENCE if judgement.verdict is Verdict.OK and not operation.manual:
                self._end(operation, Outcome.CANCELLED, "the stack recovered by itself", now_ms)
            case Phase.APPROVAL | Phase.EVIDENCE if held := self._held(operation):
                self._end(operation, Outcome.CANCELLED, held, now_ms)
            case Phase.EVIDENCE if waited_ms > EVIDENCE_MS:
                self._revert(operation, "no evidence: the deployer did not answer in time", now_ms)
            case Phase.REVERT if waited_ms > REVERT_MS:
                self._end(
                    operation,
                    Outcome.REVERT_FAILED,
                    "the deployer did not answer: is `idm watch` up?",
                    now_ms,
                )
            case Phase.VERIFY:
                self._verify(operation, judgement, now_s=now_s, now_ms=now_ms)

    def outlook(self, judgement: Judgement) -> str:
        """What is done about a judgement, or why nothing is, in one sentence; empty when there is nothing to say."""
        if (operation := self.current) is not None:
            what = operation.detail or operation.phase
            return f"rollback {operation.id} of {', '.join(operation.vcds)} is under way: {what}"
        return self._told if judgement.verdict is Verdict.FAILED else ""

    def request(self, vcds: Sequence[str], *, now_ms: int) -> Operation:
        """A person asks for a rollback."""
        if self.current is not None:
            raise OperationError(f"operation {self.current.id} is under way: wait for its end")
        unknown = sorted(set(vcds) - set(self.stack.vcds))
        if unknown or not vcds:
            raise OperationError(
                f"{', '.join(unknown) or 'nothing'} is no VCD of the stack {self.stack.spec.name}"
            )
        if self.stack.image is None:
            raise OperationError(
                "there is no golden image, so no snapshot belongs to one: `idm capture` makes both"
            )
        operation = self._new(vcds, now_ms=now_ms, fault_ms=now_ms, manual=True)
        self._go(rollback.begin(operation, self.limits, token=self._token()), now_ms)
        return operation

    def resolve(self, operation_id: str, *, approve: bool, now_ms: int) -> Operation:
        """A person approves or refuses."""
        operation = self.current
        if operation is None or operation.id != operation_id or operation.phase is not Phase.APPROVAL:
            raise OperationError(
                f"operation {operation_id} does not wait for approval: `idm history` shows it"
            )
        if approve:
            self._go(rollback.save_evidence(operation, token=self._token()), now_ms)
        else:
            self._end(operation, Outcome.CANCELLED, "refused by a person", now_ms)
        return self.current or operation

    def result(self, result: pb.CommandResult, *, now_ms: int) -> None:
        """The deployer answered; an answer to an older command is void."""
        operation = self.current
        if operation is None or result.operation != operation.id or result.token != operation.token:
            return
        if operation.phase is Phase.EVIDENCE and (held := self._held(operation)):
            self._end(operation, Outcome.CANCELLED, held, now_ms)
        elif operation.phase is Phase.EVIDENCE:
            said = f"no evidence: {result.problem}" if result.problem else f"evidence in {result.evidence}"
            self._revert(operation, said, now_ms)
        elif operation.phase is Phase.REVERT and result.problem:
            self._end(operation, Outcome.REVERT_FAILED, result.problem, now_ms)
        elif operation.phase is Phase.REVERT:
            verify_ms = round(self.stack.settle_s(operation.vcds) * 1000) + VERIFY_EXTRA_MS
            after = rollback.reverted(
                operation, snapshot=result.snapshot, now_ms=now_ms, verify_by_ms=now_ms + verify_ms
            )
            self._go(after, now_ms)

    def attached(self) -> None:
        """A deployer came, perhaps after a break: send it again what it may not have heard."""
        if self.current is not None:
            self._command(self.current)

    def relaunched(self, *, now_ms: int) -> None:
        """The stack was launched anew, perhaps without the machines that were to be taken back."""
        if self.current is not None:
            self._end(self.current, Outcome.CANCELLED, "the stack was launched anew", now_ms)

    def _decide(self, judgement: Judgement, *, now_s: float, now_ms: int) -> None:
        vcds = self._culprits(judgement)
        past = self._store.operations(self.stack.spec.name)
        limits = self.limits._replace(mode=self.mode)
        fault_ms = now_ms - round((now_s - (judgement.fault_s or now_s)) * 1000)
        operation = self._new(
            vcds,
            now_ms=now_ms,
            fault_ms=fault_ms,
            suspects=judgement.finding.culprits + judgement.finding.others,
            symptoms=tuple(str(symptom.key) for symptom in judgement.symptoms),
        )
        unrevertible = [why for vcd in vcds if (why := self.stack.vcds[vcd].unrevertible)]
        refusal = rollback.refuse(vcds, limits, past, now_ms, unrevertible=unrevertible)
        if refusal is None:
            excluded = rollback.tried_snapshots(vcds, past, now_ms)
            operation = msgspec.structs.replace(operation, excluded=excluded)
            self._told = ""
            self._go(rollback.begin(operation, limits, token=self._token()), now_ms)
        elif refusal.final and not self._gave_up_already(past, vcds, now_ms):
            self._end(operation, Outcome.GAVE_UP, refusal.reason, now_ms)
        else:
            self._refuse(refusal.reason, vcds, now_ms)

    def _refuse(self, reason: str, vcds: Sequence[str], now_ms: int) -> None:
        """Tell once why nothing is done."""
        if reason != self._told:
            self._told = reason
            self._event("no rollback", reason, now_ms, vcd=",".join(vcds))

    def _culprits(self, judgement: Judgement) -> tuple[str, ...]:
        return self._in_order(
            [suspect.name for suspect in judgement.finding.culprits if not suspect.external]
        )

    def _gave_up_already(self, past: Sequence[Operation], vcds: Sequence[str], now_ms: int) -> bool:
        return any(
            operation.outcome is Outcome.GAVE_UP
            and set(operation.vcds) == set(vcds)
            and now_ms - operation.decided_ms < rollback.ATTEMPTS_WINDOW_MS
            for operation in past
        )

    def _verify(self, operation: Operation, judgement: Judgement, *, now_s: float, now_ms: int) -> None:
        whole = judgement.verdict is Verdict.OK
        since_s = now_s - (now_ms - operation.reverted_ms) / 1000
        unproved = self.stack.unproved(operation.symptoms, operation.vcds, since_s=since_s, now_s=now_s)
        if whole and not unproved:
            self._end(operation, Outcome.RECOVERED, "every golden edge is as it should be", now_ms)
        elif now_ms >= operation.verify_by_ms and whole:
            quiet = ", ".join(str(key) for key in unproved[:3])
            self._end(
                operation, Outcome.RECOVERED, f"nothing deviates, though nobody called on {quiet}", now_ms
            )
        elif now_ms >= operation.verify_by_ms:
            self._end(operation, Outcome.STILL_BAD, "; ".join(judgement.reasons[:3]), now_ms)

    def _held(self, operation: Operation) -> str:
        """Which of them came into somebody's hands since the decision, unless a person decided; empty for none."""
        states = [] if operation.manual else [self.stack.vcds[name] for name in operation.vcds]
        return "; ".join(f"{vcd.name} {vcd.held}" for vcd in states if vcd.held)

    def _revert(self, operation: Operation, evidence: str, now_ms: int) -> None:
        self._go(rollback.revert(operation, token=self._token(), evidence=evidence), now_ms)

    def _end(self, operation: Operation, outcome: Outcome, detail: str, now_ms: int) -> None:
        self._go(rollback.end(operation, outcome, detail=detail, now_ms=now_ms), now_ms)

    def _go(self, operation: Operation, now_ms: int) -> None:
        """Store the step, then act on it."""
        self._store.put_operation(operation)
        self.current = None if operation.over else operation
        self._step_ms = now_ms
        what = f"{', '.join(operation.vcds)}: {operation.outcome or operation.phase}: {operation.detail}"
        self._event("rollback", what, now_ms, vcd=",".join(operation.vcds), operation=operation)
        self._command(operation)

    def _command(self, operation: Operation) -> None:
        command = pb.Command(operation=operation.id, token=operation.token)
        if operation.phase is Phase.EVIDENCE:
            command.save_evidence.vcds.extend(operation.vcds)
            command.save_evidence.graph = self._graph_document(operation)
        elif operation.phase is Phase.REVERT:
            command.revert.vcds.extend(operation.vcds)
            command.revert.golden = operation.golden
            command.revert.excluded.extend(operation.excluded)
            for vcd in operation.vcds:
                command.revert.generations[vcd] = self.stack.vcds[vcd].generation + 1
        else:
            return
        self._send(command)

    def _graph_document(self, operation: Operation) -> str:
        judged = self.stack.deviation.judged() if self.stack.deviation else {}
        edges = [
            {"edge": str(key), "state": one.state, "reason": one.reason}
            for key, one in sorted(judged.items())
        ]
        suspects = [suspect._asdict() for suspect in operation.suspects]
        return json.dumps({"operation": operation.id, "suspects": suspects, "edges": edges}, indent=2)

    def _in_order(self, vcds: Sequence[str]) -> tuple[str, ...]:
        """What others need comes first; circles stay together."""
        needs: nx.DiGraph[str] = nx.DiGraph()
        needs.add_nodes_from(sorted(vcds))
        image = self.stack.image
        for edge in image.edges if image else ():
            if edge.source in needs and edge.target in needs:
                needs.add_edge(edge.source, edge.target)
        condensed = nx.condensation(needs)
        order = reversed(list(nx.topological_sort(condensed)))
        return tuple(vcd for part in order for vcd in sorted(condensed.nodes[part]["members"]))

    def _new(
        self,
        vcds: Sequence[str],
        *,
        now_ms: int,
        fault_ms: int,
        suspects: tuple[Suspect, ...] = (),
        symptoms: tuple[str, ...] = (),
        manual: bool = False,
    ) -> Operation:
        return Operation(
            id=secrets.token_hex(4),
            stack=self.stack.spec.name,
            vcds=tuple(vcds),
            golden=self.stack.image.id if self.stack.image else "",
            suspects=suspects,
            symptoms=symptoms,
            decided_ms=now_ms,
            fault_ms=fault_ms,
            manual=manual,
        )

    def _token(self) -> int:
        return self._store.next_token(self.stack.spec.name)

    def _event(
        self, kind: str, message: str, now_ms: int, *, vcd: str, operation: Operation | None = None
    ) -> None:
        fields = {}
        if operation is not None:
            fields = {
                "operation": operation.id,
                "phase": operation.phase.value,
                "outcome": operation.outcome.value,
            }
        self._tell(
            Event(
                time_ms=now_ms, stack=self.stack.spec.name, kind=kind, vcd=vcd, message=message, fields=fields
            )
        )
