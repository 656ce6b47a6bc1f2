"""How a manifest is declared to the manager. Pure."""

from ipaddress import ip_address

from dm.v1.rollback_service_pb2 import InstanceReport
from dm.v1.stack_pb2 import (
    POWER_ABSENT,
    POWER_CRASHED,
    POWER_PAUSED,
    POWER_RUNNING,
    POWER_STOPPED,
    ROLLBACK_MODE_APPROVE,
    ROLLBACK_MODE_AUTO,
    ROLLBACK_MODE_OBSERVE,
    JudgePolicy,
    RollbackMode,
    RollbackPolicy,
    StackSpec,
    VcdSpec,
)
from dm.v1.stack_pb2 import Power as WirePower
from idm.driver import Instance, Power
from idm.journal import Launch
from idm.manifest import Judge, Manifest, Mode, Rollback, Vcd

MODES: dict[Mode, RollbackMode.ValueType] = {
    Mode.OBSERVE: ROLLBACK_MODE_OBSERVE,
    Mode.APPROVE: ROLLBACK_MODE_APPROVE,
    Mode.AUTO: ROLLBACK_MODE_AUTO,
}
POWERS: dict[Power, WirePower.ValueType] = {
    Power.ABSENT: POWER_ABSENT,
    Power.STOPPED: POWER_STOPPED,
    Power.RUNNING: POWER_RUNNING,
    Power.PAUSED: POWER_PAUSED,
    Power.CRASHED: POWER_CRASHED,
}


def declare(manifest: Manifest, *, fingerprint: str, launch: Launch) -> StackSpec:
    """The stack as the manager has to know it."""
    vcds = [
        VcdSpec(name=name, role=vcd.role, addresses=[ip_address(vcd.address).packed] if vcd.address else [])
        for name, vcd in manifest.vcd.items()
    ]
    return StackSpec(
        name=manifest.stack.name,
        fingerprint=fingerprint,
        vcds=vcds,
        judge=_judge(manifest.judge),
        rollback=_rollback(manifest.rollback),
        launch=launch.id,
        launch_age_ms=launch.age_ms,
    )


def report(instance: Instance, vcd: Vcd) -> InstanceReport:
    """What the manager has to know of an instance. One that was only prepared for its start is no incarnation yet."""
    running = instance.power in (Power.RUNNING, Power.PAUSED)
    incarnation = instance.incarnation if running else ""
    return InstanceReport(
        vcd=instance.vcd,
        power=POWERS[instance.power],
        incarnation=incarnation,
        reverted=instance.reverted,
        unrevertible=_unrevertible(instance, vcd),
        held=instance.held,
    )


def _unrevertible(instance: Instance, vcd: Vcd) -> str:
    """An existing domain that is gone has taken its snapshots along, and is for others to make anew."""
    if instance.power is not Power.ABSENT or not vcd.domain:
        return ""
    return f'{vcd.name} has no domain "{vcd.domain}" of its own: idm up adopts it once it is there again'


def _judge(judge: Judge) -> JudgePolicy:
    return JudgePolicy(
        stack_threshold=judge.stack_threshold,
        vcd_threshold=judge.vcd_threshold,
        confirm_ms=round(judge.confirm_s * 1000),
        launch_slack_ms=round(judge.launch_slack_s * 1000),
        count_external=judge.count_external,
        vcd_thresholds=judge.vcd_thresholds,
        hysteresis=judge.hysteresis,
        patience_ms=round(judge.patience_s * 1000),
    )


def _rollback(rollback: Rollback) -> RollbackPolicy:
    return RollbackPolicy(
        mode=MODES[rollback.mode],
        attempts_per_vcd=rollback.attempts_per_vcd,
        attempts_per_stack=rollback.attempts_per_stack,
        at_once=rollback.at_once,
        cooldown_ms=round(rollback.cooldown_s * 1000),
    )
