"""What an operator may read of a manager: its judgement of each stack, and how far it sees."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.registry import Collector

from dm.manager import Manager
from dm.vcd import VcdState
from dm.verdict import Verdict


class ManagerCollector(Collector):
    """Reads the stacks' state whenever it is asked."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        yield self._verdicts()
        yield self._deviations()
        yield self._agents()
        yield self._losses()

    def _verdicts(self) -> Metric:
        family = StateSetMetricFamily("stackmend_verdict", "The judgement of each stack.", labels=["stack"])
        for guarded in self._manager.stacks():
            if guarded.judgement is not None:
                verdict = guarded.judgement.verdict
                states = {one.value: one is verdict for one in Verdict}
                family.add_metric([guarded.stack.spec.name], states)
        return family

    def _deviations(self) -> Metric:
        what = "Missing and incorrect edges as a share of the golden ones."
        family = GaugeMetricFamily("stackmend_deviation_ratio", what, labels=["stack"])
        for guarded in self._manager.stacks():
            if guarded.judgement is not None:
                family.add_metric([guarded.stack.spec.name], guarded.judgement.deviation)
        return family

    def _agents(self) -> Metric:
        family = GaugeMetricFamily(
            "stackmend_vcd_connected", "Whether a machine's agent is heard.", labels=["stack", "vcd"]
        )
        for stack, vcd in self._vcds():
            family.add_metric([stack, vcd.name], vcd.connected)
        return family

    def _losses(self) -> Metric:
        what = "Events that an agent did not count, by reason, since its session began."
        family = CounterMetricFamily("stackmend_vcd_losses", what, labels=["stack", "vcd", "reason"])
        for stack, vcd in self._vcds():
            for reason, count in vcd.losses.items():
                family.add_metric([stack, vcd.name, _word(reason)], count)
        return family

    def _vcds(self) -> Iterator[tuple[str, VcdState]]:
        for guarded in self._manager.stacks():
            for vcd in guarded.stack.vcds.values():
                yield guarded.stack.spec.name, vcd


def _word(reason: str) -> str:
    return reason.removeprefix("LOSS_REASON_").replace("_", " ").lower()
