"""What an operator may read of an agent; sums only, since every destination more would be a series more."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from dma.flow import Loss
from dma.report import Report
from dma.stream import Reporter

TABLE_FULL = "table full"


class AgentCollector(Collector):
    """Reads the agent's state whenever it is asked."""

    def __init__(self, report: Report, reporter: Reporter) -> None:
        self._report = report
        self._reporter = reporter

    def collect(self) -> Iterator[Metric]:
        """All metrics; raises ``CaptureError``."""
        yield self._info()
        yield self._probes()
        yield self._losses()
        table = self._report.observation.table
        yield GaugeMetricFamily("stackmend_agent_edges", "Destinations called.", len(table))
        flows = table.changed_since(0)
        opened = sum(flow.open for flow in flows)
        yield GaugeMetricFamily("stackmend_agent_open_connections", "Connections open now.", opened)
        pending = sum(flow.pending for flow in flows)
        yield GaugeMetricFamily(
            "stackmend_agent_pending_attempts", "Attempts without an answer yet.", pending
        )
        connected = "Whether the manager has welcomed the agent on the stream that is open now."
        yield GaugeMetricFamily("stackmend_agent_connected", connected, self._reporter.connected)

    def _info(self) -> Metric:
        identity, capture = self._report.identity, self._report.observation.capture
        labels = {"stack": identity.stack, "vcd": identity.vcd, "version": identity.version}
        labels |= {"plan": capture.plan, "loader": capture.loader}
        return InfoMetricFamily("stackmend_agent", "Whom the agent watches, and how.", labels)

    def _probes(self) -> Metric:
        family = GaugeMetricFamily("stackmend_agent_probe_attached", "Hooks of the plan.", labels=["probe"])
        for probe in self._report.observation.capture.probes:
            family.add_metric([probe.name], not probe.problem)
        return family

    def _losses(self) -> Metric:
        what = "Events that were not counted, by reason, since the capture began or was cleared."
        family = CounterMetricFamily("stackmend_agent_losses", what, labels=["reason"])
        lost = self._report.observation.losses()
        for reason in Loss:
            family.add_metric([reason.value], lost.get(reason, 0))
        family.add_metric([TABLE_FULL], self._report.observation.table.overflow)
        return family
