"""
The status as Prometheus metrics: base units, and no URL or key in any label.

Figures of a source (``SourceHealth.figures``) become ``listener_source_<figure>``. Counters start with the process.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from listener import __version__
from listener.contracts import SourceState
from listener.daemon.freshness import BOUNDS_SECONDS, Freshness

__all__ = ["Gauges", "exposition"]

_STATES = ("pending", "deferred", "in_flight", "failed", "parked", "unconfirmed")
_QUOTA = {
    "limit": "Units that may be spent in a window of the allowance",
    "spent": "Units spent in the present window, by anybody",
    "held": "Units held for what is being sent",
    "left": "Units that may still be held in the present window",
    "others": "Units spent in the present window by anybody else",
}
_NO_NAME = re.compile(r"[^a-z0-9_]")


class Gauges(NamedTuple):
    """Values that the status does not contain."""

    longest_commit_seconds: float
    loop_late_seconds: float
    state_bytes: int
    missed_wake_ups: int
    """Since the start of the pipeline."""
    accounts_open: Mapping[str, bool]
    watches_limit: int | None
    """How many directories one user may watch; None where the kernel has no such limit."""


def exposition(status: Mapping[str, Any], gauges: Gauges, freshness: Freshness) -> bytes:
    """Return the text of ``/metrics`` for a status as :func:`~listener.daemon.status.status_of` gives it."""
    registry = CollectorRegistry()
    ProcessCollector(namespace="listener", registry=registry)
    GCCollector(registry=registry)
    registry.register(_Snapshot(status, gauges, freshness))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, status: Mapping[str, Any], gauges: Gauges, freshness: Freshness) -> None:
        self._status = status
        self._gauges = gauges
        self._freshness = freshness

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("listener_build_info", "What runs here", labels=["version"])
        build.add_metric([__version__], 1.0)
        yield build
        yield from self._fleet()
        for name, (text, value) in self._plain().items():
            yield GaugeMetricFamily(name, text, value=value)
        text = "Changes that were found by a slow tick, since nothing had announced them"
        yield CounterMetricFamily("listener_missed_wake_ups", text, value=self._gauges.missed_wake_ups)
        needs = GaugeMetricFamily("listener_needs", "Stale URLs by state", labels=["state"])
        for state in _STATES:
            needs.add_metric([state], self._status[state])
        yield needs
        yield from self._waits()
        accounts = GaugeMetricFamily("listener_account_open", "Whether requests may be sent to it", labels=["account"])
        for account, is_open in self._gauges.accounts_open.items():
            accounts.add_metric([account], float(is_open))
        yield accounts
        yield from self._quota()
        yield from self._sources()
        yield from self._refreshes()
        yield from self._edge()

    def _waits(self) -> Iterator[Metric]:
        """Yield how much waits for us, the CDN and a person, and how long the oldest has."""
        text = "Stale URLs by who must act next: us, the CDN or a person"
        needs = GaugeMetricFamily("listener_waiting_needs", text, labels=["waits_for"])
        text = "Age of the oldest change by who must act next"
        oldest = GaugeMetricFamily("listener_oldest_waiting_seconds", text, labels=["waits_for"])
        for who, found in self._status["waits_for"].items():
            needs.add_metric([who], found["needs"])
            oldest.add_metric([who], found["oldest_seconds"])
        yield from (needs, oldest)

    def _plain(self) -> dict[str, tuple[str, float]]:
        status, gauges = self._status, self._gauges
        gauge = {
            "listener_ready": ("Whether every source listens and its first scan is durable", float(status["ready"])),
            "listener_oldest_unsettled_seconds": (
                "Age of the oldest change that waits for us or for the CDN",
                status["oldest_unsettled_seconds"],
            ),
            "listener_dead_letters": (
                "Rejected URLs, and unreadable keys and messages",
                status["dead_letters"],
            ),
            "listener_store_commit_group_longest_seconds": (
                "Longest time a commit group held the writer",
                gauges.longest_commit_seconds,
            ),
            "listener_store_size_bytes": ("Size of the state", gauges.state_bytes),
            "listener_loop_late_seconds": (
                "How late the event loop was when last measured",
                gauges.loop_late_seconds,
            ),
        }
        if gauges.watches_limit is not None:
            text = "How many directories the kernel lets this user watch"
            gauge["listener_inotify_watches_limit"] = (text, gauges.watches_limit)
        return gauge

    def _edge(self) -> Iterator[Metric]:
        """Yield what probes of the edge found, where they are on."""
        if (edge := self._status["edge"]) is None:
            return
        probes = CounterMetricFamily("listener_edge_probes", "Probes after complete refreshes", labels=["state"])
        for state in ("fresh", "stale", "unknown"):
            probes.add_metric([state], edge[state])
        text = "URLs that an edge serves stale after complete refreshes"
        stale = GaugeMetricFamily("listener_edge_stale_urls", text, labels=["edge"])
        for name, count in edge["stale_urls"].items():
            stale.add_metric([name], count)
        yield from (probes, stale)
        text = "URLs that were refreshed once more since an edge was stale"
        yield CounterMetricFamily("listener_edge_repeats", text, value=edge["repeated"])
        text = "URLs whose origin still serves the old copy"
        yield GaugeMetricFamily("listener_edge_late_origins", text, value=edge["late_origins"])

    def _fleet(self) -> Iterator[Metric]:
        """Yield which instance this is, which of those that share the store are alive, and what this one leads."""
        own = self._status["instance"]
        info = GaugeMetricFamily("listener_instance_info", "Which instance this is", labels=["name"])
        info.add_metric([own], 1.0)
        yield info
        alive = GaugeMetricFamily("listener_instance_alive", "Whether it has a heartbeat", labels=["name"])
        text = "Whether it reports a problem of its own: its name, its clock, or commits that were lost"
        trouble = GaugeMetricFamily("listener_instance_trouble", text, labels=["name"])
        for one in self._status["instances"]:
            alive.add_metric([one["name"]], float(one["alive"]))
            trouble.add_metric([one["name"]], float(bool(one["trouble"])))
        yield from (alive, trouble)
        led = GaugeMetricFamily("listener_account_led", "Whether this instance sends for it", labels=["account"])
        for account, leader in self._status["leader"].items():
            led.add_metric([account], float(leader == own))
        yield led

    def _quota(self) -> Iterator[Metric]:
        labels = ["target", "kind"]
        for field, text in _QUOTA.items():
            family = GaugeMetricFamily(f"listener_quota_{field}", text, labels=labels)
            for target, kind, figures in self._quotas():
                if field in figures:
                    family.add_metric([target, kind], figures[field])
            yield family
        text = "When spent units come back"
        resets = GaugeMetricFamily("listener_quota_resets_timestamp_seconds", text, labels=labels)
        text = "What the spent and held units of the present window cost, where units cost money"
        dollars = GaugeMetricFamily("listener_quota_dollars", text, labels=labels)
        text = "What the units of a window may cost, where units cost money"
        most_dollars = GaugeMetricFamily("listener_quota_dollars_limit", text, labels=labels)
        for target, kind, figures in self._quotas():
            if figures["resets_at"] is not None:
                resets.add_metric([target, kind], _epoch(figures["resets_at"]))
            if "dollars" in figures:
                dollars.add_metric([target, kind], figures["dollars"]["spent"])
                most_dollars.add_metric([target, kind], figures["dollars"]["limit"])
        yield from (resets, dollars, most_dollars)
        yield self._spenders()

    def _spenders(self) -> Metric:
        text = "What one source spent within an hour, of what was left before, where that is more than a quarter"
        family = GaugeMetricFamily("listener_quota_spender_ratio", text, labels=["account", "source", "kind"])
        greatest: dict[tuple[str, str, str], float] = {}
        for account, spenders in self._status["spenders"].items():
            for one in spenders:
                labels = (account, one["source"], one["kind"])
                greatest[labels] = max(greatest.get(labels, 0.0), one["units"] / one["left"])
        for labels, ratio in greatest.items():
            family.add_metric(labels, ratio)
        return family

    def _quotas(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for target, kinds in self._status["quota"].items():
            for kind, figures in kinds.items():
                yield target, kind, figures

    def _sources(self) -> Iterator[Metric]:
        own = self._status["instance"]
        # In a fleet those of this instance: each is scraped.
        sources = {name: one["instances"].get(own, one) for name, one in self._status["sources"].items()}
        ready = GaugeMetricFamily("listener_source_ready", "Whether it listens, its first scan done", labels=["source"])
        degraded = GaugeMetricFamily("listener_source_degraded", "Whether it misses something", labels=["source"])
        last_event = GaugeMetricFamily("listener_source_last_event_timestamp_seconds", "Last event", labels=["source"])
        lost = CounterMetricFamily("listener_source_lost_events", "Lost events, found by a scan", labels=["source"])
        rescans = CounterMetricFamily("listener_source_rescans", "Scans beyond the first", labels=["source"])
        for name, source in sources.items():
            ready.add_metric([name], float(source["ready"]))
            degraded.add_metric([name], float(source["state"] == SourceState.DEGRADED.value))
            if source["last_event_at"] is not None:
                last_event.add_metric([name], _epoch(source["last_event_at"]))
            lost.add_metric([name], source["lost_events"])
            rescans.add_metric([name], source["rescans"])
        families: list[Metric] = [ready, degraded, last_event, lost, rescans]
        yield from families
        taken = {family.name for family in families}
        yield from _figures({name: source["figures"] for name, source in sources.items()}, taken)

    def _refreshes(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "listener_refreshes", "Attempts that ended, by outcome", labels=["target", "kind", "outcome"]
        )
        for outcome, count in sorted(self._freshness.outcomes.items()):
            ended.add_metric(outcome, count)
        yield ended
        latency = HistogramMetricFamily(
            "listener_freshness_seconds",
            "From the oldest change that a refresh covered to its completion",
            labels=["target", "kind"],
        )
        for labels, spread in sorted(self._freshness.histograms().items()):
            latency.add_metric(labels, _cumulated(spread.buckets), spread.sum_seconds)
        yield latency


def _figures(figures: Mapping[str, Mapping[str, float]], taken: set[str]) -> Iterator[Metric]:
    """Yield a gauge for each figure of any source, except those whose name is taken."""
    for figure in sorted({name for each in figures.values() for name in each}):
        name = f"listener_source_{_NO_NAME.sub('_', figure.lower())}"
        if name in taken:
            continue
        taken.add(name)
        family = GaugeMetricFamily(name, f"Reported by the source: {figure}", labels=["source"])
        for source, values in figures.items():
            if figure in values:
                family.add_metric([source], values[figure])
        yield family


def _cumulated(buckets: Iterable[int]) -> list[tuple[str, float]]:
    names = [*(repr(bound) for bound in BOUNDS_SECONDS), "+Inf"]
    return list(zip(names, map(float, itertools.accumulate(buckets)), strict=True))


def _epoch(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
