"""The one sentence that says how fresh everything is: the page's heading and title, and the first line of `status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from listener.store.staleness import WaitsFor

__all__ = ["Verdict", "held_back", "verdict_of"]

_COUNTED_LATE: Final = (WaitsFor.US, WaitsFor.CDN)


class Verdict(NamedTuple):
    """How fresh everything is."""

    words: str
    mark: str
    """``good`` where nothing is stale and nothing is wrong, ``warn`` where something is wrong, otherwise empty."""


def held_back(status: Mapping[str, Any]) -> int:
    """Return how many deletions wait for a person."""
    return sum(source["held_deletions"] for source in status["sources"].values())


def verdict_of(status: Mapping[str, Any]) -> Verdict:
    """Return the verdict on a status; ``ready`` may be missing where no daemon runs."""
    needs = {who: status["waits_for"][who.value]["needs"] for who in WaitsFor}
    late, for_person = sum(needs[who] for who in _COUNTED_LATE), needs[WaitsFor.PERSON]
    if held := held_back(status):
        return Verdict(f"{_counted(held, 'deletion')} held back until a person confirms", "warn")
    if not status.get("ready", True):
        return Verdict("Some changes are not detected or not sent", "warn")
    if late:
        return Verdict(f"{_counted(late, 'URL')} not fresh yet", "warn" if status["problems"] else "")
    if status["problems"]:
        return Verdict(
            f"Nothing is known to be stale, but {_counted(len(status['problems']), 'problem')} reported", "warn"
        )
    if for_person:
        return Verdict(f"Everything is fresh except {for_person} that {_wait(for_person)} for a person", "")
    return Verdict("Everything is fresh", "good")


def _counted(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _wait(count: int) -> str:
    return "waits" if count == 1 else "wait"
