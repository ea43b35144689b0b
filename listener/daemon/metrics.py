"""The status in Prometheus' words: base units, and no URL or key in any label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from listener import __version__

__all__ = ["exposition"]

_STATES = ("pending", "deferred", "in_flight", "failed", "parked", "unconfirmed")


def exposition(
    status: Mapping[str, Any], *, ready: bool, longest_commit_seconds: float, loop_late_seconds: float
) -> bytes:
    """Return the text of ``/metrics`` for a status as :func:`~listener.daemon.status.status_of` gives it."""
    registry = CollectorRegistry()
    ProcessCollector(namespace="listener", registry=registry)
    registry.register(_Snapshot(status, ready, longest_commit_seconds, loop_late_seconds))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, status: Mapping[str, Any], ready: bool, commit: float, late: float) -> None:
        self._status = status
        self._plain = {
            "listener_ready": ("Whether every source listens and its first scan is durable", float(ready)),
            "listener_store_commit_group_longest_seconds": ("Longest time a commit group held the writer", commit),
            "listener_loop_late_seconds": ("How late the event loop was at its last beat", late),
            "listener_oldest_unsettled_seconds": (
                "Age of the oldest change that is not settled",
                status["oldest_unsettled_seconds"],
            ),
            "listener_dead_letters": ("Keys, messages and URLs that were set aside", status["dead_letters"]),
        }

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("listener_build_info", "What runs here", labels=["version"])
        build.add_metric([__version__], 1.0)
        yield build
        for name, (help_text, value) in self._plain.items():
            yield GaugeMetricFamily(name, help_text, value=value)
        needs = GaugeMetricFamily("listener_needs", "Stale URLs by what becomes of them next", labels=["state"])
        for state in _STATES:
            needs.add_metric([state], self._status[state])
        yield needs
        yield from self._quota()
        yield from self._sources()

    def _quota(self) -> Iterator[Metric]:
        texts = {"limit": "Units a day", "spent": "Units spent today", "held": "Units held now", "left": "Units left"}
        for field, text in texts.items():
            family = GaugeMetricFamily(f"listener_quota_{field}", text, labels=["target", "kind"])
            for target, kinds in self._status["quota"].items():
                for kind, figures in kinds.items():
                    family.add_metric([target, kind], figures[field])
            yield family

    def _sources(self) -> Iterator[Metric]:
        sources = self._status["sources"]
        ready = GaugeMetricFamily("listener_source_ready", "Whether it listens, scan done", labels=["source"])
        heard = GaugeMetricFamily("listener_source_last_event_timestamp_seconds", "Last event", labels=["source"])
        lost = CounterMetricFamily("listener_source_lost_events", "Lost events; a scan made up", labels=["source"])
        rescans = CounterMetricFamily("listener_source_rescans", "Scans beyond the first", labels=["source"])
        figures = GaugeMetricFamily("listener_source_figure", "What it tells of itself", labels=["source", "figure"])
        for name, source in sources.items():
            ready.add_metric([name], float(source["ready"]))
            if source["last_event_at"] is not None:
                heard.add_metric([name], datetime.fromisoformat(source["last_event_at"]).timestamp())
            lost.add_metric([name], source["lost_events"])
            rescans.add_metric([name], source["rescans"])
            for figure, value in source["figures"].items():
                figures.add_metric([name, figure], value)
        yield from (ready, heard, lost, rescans, figures)
