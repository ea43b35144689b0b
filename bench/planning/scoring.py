"""The score worked out again from a trace and a log of refreshes alone, by other code than the replay's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.planning.traces import Window
from bench.planning.world import Sent


def score_log(windows: Sequence[Window], log: Sequence[Sent]) -> tuple[int, float, int]:
    """
    Return collateral, stale object-hours and late paths of a log.

    At equal times a window closes before a refresh is sent. What is never refreshed counts to the last refresh.
    """
    events = [(window.at, 0, window) for window in windows] + [(sent.at, 1, sent) for sent in log]
    events.sort(key=lambda event: event[:2])
    live: set[str] = set()
    stale: dict[str, float] = {}
    collateral, hours, late = 0, 0.0, 0
    for at, _, event in events:
        if isinstance(event, Window):
            for key, exists in event.changes.items():
                (live.add if exists else live.discard)(key)
                stale.setdefault(key, at)
            continue
        if event.kind == "directory":
            healed = [key for key in stale if key.startswith(event.key)]
            below = sum(key.startswith(event.key) for key in live)
            collateral += below - sum(key in live for key in healed)
        else:
            healed = [event.key] if event.key in stale else []
        for key in healed:
            wait = at - stale.pop(key)
            hours += wait / 3600
            late += wait > 3600
    return collateral, hours, late + len(stale)


def units_by_day(log: Sequence[Sent]) -> Counter[tuple[int, str]]:
    """Count refreshes by quota day and kind."""
    return Counter((int(sent.at + 8 * 3600) // 86_400, sent.kind) for sent in log)
