"""Figures in the text format of Prometheus, by prometheus_client (the extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from emq_compat.monitor.figures import Family, Figures, Histogram

__all__ = ["MISSING", "exposed", "kind_of_text"]

MISSING = "metrics need prometheus_client, which isn't installed here: pip install 'emq-compat[metrics]'\n"


def exposed(families: Iterable[Family], figures: Figures) -> bytes:
    """Return the text of these families' figures, and of those that Prometheus has of each process.

    Raises:
        ImportError: prometheus_client isn't installed.
    """
    import prometheus_client  # noqa: PLC0415 - an extra

    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(families, figures))
    prometheus_client.ProcessCollector(registry=registry)
    return bytes(prometheus_client.generate_latest(registry))


def kind_of_text() -> str:
    """Return the Content-Type of what ``exposed`` returns; raises as that."""
    import prometheus_client  # noqa: PLC0415 - an extra

    return str(prometheus_client.CONTENT_TYPE_LATEST)


class _Collector:
    def __init__(self, families: Iterable[Family], figures: Figures) -> None:
        self._families = families
        self._figures = figures

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core  # noqa: PLC0415 - an extra

        kinds: dict[str, Any] = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        for family in self._families:
            metric = kinds[family.kind](family.name, family.help, labels=family.labels)
            for labels, value in self._figures.get(family.name, {}).items():
                if isinstance(value, Histogram):
                    metric.add_metric(labels, buckets=_buckets(value), sum_value=value.sum)
                else:
                    metric.add_metric(labels, value)
            yield metric


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    """Return each bound → how many values there were up to it."""
    found, total = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
    return found
