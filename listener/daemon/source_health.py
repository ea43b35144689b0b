"""
How each source is: of one process as it reports itself, of a fleet from what each instance reports.

An instance that died reports nothing: what it said last does not count, and that it is dead is a problem by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from listener.contracts import HELD_DELETIONS, SourceHealth, SourceState
from listener.settings import Settings
from listener.store.fleet import Instance

__all__ = [
    "CHECK",
    "SILENT_SECONDS",
    "Reported",
    "held_deletions",
    "is_blind",
    "of_living",
    "source_rows",
    "troubles_of",
]

Row = Mapping[str, Any]
Reports = Mapping[str, Mapping[str, Row]]
"""By source and instance; of a state file's owner the instance is empty."""

CHECK: Final = "run cdn-listener check for details"
"""The remedy where no better one is known."""
SILENT_SECONDS: Final = 150.0
"""A daemon stores the health of its sources once a minute at least; older health means that it does not listen."""
_UNKNOWN: Final[Row] = {
    "state": SourceState.STOPPED.value,
    "ready": False,
    "last_event_at": None,
    "lost_events": 0,
    "rescans": 0,
    "detail": "",
    "figures": {},
    "told_at": None,
    "trouble_since": None,
}
_WORST_FIRST: Final = [
    state.value
    for state in (
        SourceState.FAILED,
        SourceState.STOPPED,
        SourceState.DEGRADED,
        SourceState.STARTING,
        SourceState.SCANNING,
        SourceState.LISTENING,
        SourceState.STANDBY,
    )
]
HEALTHY: Final = frozenset(
    state.value for state in (SourceState.STARTING, SourceState.SCANNING, SourceState.LISTENING, SourceState.STANDBY)
)


class Reported(NamedTuple):
    """What is known of the sources."""

    stored: Reports
    instances: Sequence[Instance]
    """Those that share the store; none where one process owns it."""
    live: Mapping[str, SourceHealth]
    """The present health of the sources of this process."""
    is_running: bool | None


def of_living(rows: Mapping[str, Row], instances: Sequence[Instance]) -> Mapping[str, Row]:
    """Return the rows of the instances that live; all where none is known, as with a state file."""
    living = {one.name for one in instances if one.is_alive}
    return {name: row for name, row in rows.items() if name in living or not living}


def is_blind(rows: Mapping[str, Row], instances: Sequence[Instance]) -> bool:
    """Return whether changes of a source may be missed by an instance that lives, or none reports it."""
    found = of_living(rows, instances)
    return not found or not all(row["ready"] for row in found.values())


def held_deletions(rows: Mapping[str, Row], instances: Sequence[Instance], live: SourceHealth | None = None) -> int:
    """
    Return how many deletions a source holds back until a person confirms them, by the reports of those that live.

    ``live`` is its present health in this process, newer than what it reported of itself.
    """
    figures = [row["figures"] for row in of_living(rows, instances).values()]
    if live is not None:
        figures = [live.figures, *(figures if instances else ())]
    return max((int(one.get(HELD_DELETIONS, 0)) for one in figures), default=0)


def source_rows(settings: Settings, reported: Reported, now: float) -> dict[str, dict[str, Any]]:
    """Return each configured source as a whole, and in a fleet as ``instances`` how it is on each that lives."""
    own = settings.instance.effective_name if reported.instances else ""
    found = {}
    for name, table in settings.sources.items():
        rows = dict(of_living(reported.stored.get(name, {}), reported.instances))
        if name in reported.live:
            since = rows.get(own, _UNKNOWN)["trouble_since"]
            rows[own] = {**_plain_health(reported.live[name], now), "trouble_since": since}
        present = {instance: _present(row, reported, now, instance, own) for instance, row in sorted(rows.items())}
        instances = {instance: row for instance, row in present.items() if instance}
        held = {"held_deletions": held_deletions(present, ())}
        found[name] = {"type": table["type"], **_joined(present), **held, "instances": instances}
    return found


def _present(row: Row, reported: Reported, now: float, instance: str, own: str) -> Row:
    """Return a report as it counts now: one that was not repeated for long means that nobody listens."""
    is_live = instance == own and bool(reported.live)
    is_silent = reported.is_running is False or now - row["told_at"] > SILENT_SECONDS
    return {**row, "state": SourceState.STOPPED.value, "ready": False} if is_silent and not is_live else row


def _joined(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return several instances' rows as one: the worst state counts, but who stands by leaves it to another."""
    if len(rows) < 2:
        return dict(next(iter(rows.values()), _UNKNOWN))
    since = [row["trouble_since"] for row in rows.values() if row["trouble_since"] is not None]
    events = [row["last_event_at"] for row in rows.values() if row["last_event_at"] is not None]
    newest = max(rows.values(), key=lambda row: (row["state"] != SourceState.STANDBY.value, row["told_at"]))
    return {
        "state": min((row["state"] for row in rows.values()), key=_WORST_FIRST.index),
        "ready": all(row["ready"] for row in rows.values()),
        "last_event_at": max(events, default=None),
        "lost_events": sum(row["lost_events"] for row in rows.values()),
        "rescans": sum(row["rescans"] for row in rows.values()),
        "detail": "; ".join(f"{instance}: {row['detail']}" for instance, row in rows.items() if row["detail"]),
        "figures": newest["figures"],
        "told_at": newest["told_at"],
        "trouble_since": min(since, default=None),
    }


def _plain_health(health: SourceHealth, now: float) -> dict[str, Any]:
    """Return what the store keeps of it."""
    names = ("state", "ready", "last_event_at", "lost_events", "rescans", "detail", "figures")
    return {**{name: getattr(health, name) for name in names}, "told_at": now}


def troubles_of(sources: Mapping[str, Row], *, is_running: bool | None) -> Iterator[tuple[str, float | None, str]]:
    """Yield what is wrong with a source, on which instance where several report it, since when, and what to do."""
    for name, source in sources.items():
        rows: Mapping[str, Row] = source["instances"] or {"": source}
        for instance, row in rows.items():
            is_silent = is_running and row["told_at"] is not None and row["state"] not in HEALTHY
            if row["detail"] or is_silent:
                where = f"{name} on {instance}" if instance else name
                is_held = row["figures"].get(HELD_DELETIONS, 0) > 0
                remedy = f"bring the files back, or run cdn-listener confirm-deletions {name}" if is_held else CHECK
                yield f"source {where}: {row['detail'] or row['state']}", row["trouble_since"], remedy
