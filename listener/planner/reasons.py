"""
Why something is sent or deferred: the decision in an operator's words, then the numbers behind it.

A reason is one text, so that it can be stored and printed anywhere: ``decision [planner: numbers]``. Text output and
the page show the decision, and the numbers where they are asked for (:func:`split_reason`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from listener.planner.model import DirectoryLoad, Limit, PlanInput
from listener.planner.pacing import NO_BUDGET, TokenPrices
from listener.refresh import RefreshKind

__all__ = ["Cause", "Reasons", "split_reason"]

_NUMBERS = " [planner: "


def split_reason(reason: str) -> tuple[str, str]:
    """Return the decision, and the numbers behind it (empty where a reason has none)."""
    decision, _, numbers = reason.partition(_NUMBERS)
    return (decision, numbers.removesuffix("]")) if reason.endswith("]") else (reason, "")


class Cause(NamedTuple):
    """What some needs of one directory wait for."""

    what: str
    needs: int
    until: float | None
    """Seconds since the epoch; ``None`` where it is not known."""


@dataclass(slots=True)
class Reasons:
    """The reasons of one plan."""

    given: PlanInput
    prices: TokenPrices
    left: dict[RefreshKind, int]
    """Tokens left, which the plan keeps up to date."""
    evictions: Callable[[DirectoryLoad], int | None] = lambda _: None
    """How many unchanged objects a refresh of a load's own directory would evict; ``None``: not known."""
    _state: tuple[tuple[int, int], str] = field(default=((-1, -1), ""))
    _made: dict[tuple[object, ...], str] = field(default_factory=dict)
    """Texts made so far: a plan may defer a million directories for the same few reasons."""

    def directory(self, files: int, subtrees: int, evicts: int, *, known: bool) -> str:
        """Return why a directory is refreshed, which covers so many file and subtree needs."""
        gains = [f"replaces {_counted(files, 'file refresh', 'file refreshes')}"] if files else []
        gains += [f"covers {_counted(subtrees, 'changed folder', 'changed folders')}"] if subtrees else []
        decision = f"One directory refresh {' and '.join(gains)}, and {self._touches(evicts, known=known)}."
        numbers = f"covers {files + subtrees}, evicts {evicts}{'' if known else ' (assumed)'}; {self._tokens()}"
        return f"{decision}{_NUMBERS}{numbers}]"

    def _touches(self, evicts: int, *, known: bool) -> str:
        verb = "evicts" if self.given.force else "revalidates"
        if not evicts:
            return f"{verb} nothing else"
        return f"{verb} {_objects(evicts if known else None)}"

    def file(self, kind: RefreshKind, due: int, sent: int) -> str:
        """Return why needs are sent one by one."""
        decision = "Sent by itself: the quota allows it, and no directory refresh costs less."
        return f"{decision}{_NUMBERS}{kind}, {sent} of {due} due; {self._tokens()}]"

    def directory_waits(self, limit: Limit, needs: int) -> str:
        """Return why a load waits for the refresh of a directory above it."""
        return self._deferred([Cause(f"its directory refresh waits for {limit.name}", needs, limit.resets_at)], "")

    def waits(self, load: DirectoryLoad, causes: list[Cause]) -> str:
        """Return why a load waits."""
        return self._deferred(causes, self._no_directory(load))

    def subtree_cause(self, load: DirectoryLoad) -> Cause:
        """Return what a subtree need waits for, which only a directory refresh can end."""
        if not self.given.allowed(load.url):
            return Cause("its directory may not be refreshed now (min_directory_depth, directory_blackout)", 1, None)
        return self.quota_cause(RefreshKind.DIRECTORY, 1, used_up="")

    def quota_cause(self, kind: RefreshKind, needs: int, *, used_up: str) -> Cause:
        """Return the cause where the quota is short: the day's, or with ``used_up`` what a site may have of it."""
        resets_at = None if self.given.cover_all else self.given.budgets.get(kind, NO_BUDGET).resets_at or None
        kept = " beyond the reserve for urgent refreshes" if self.given.reserve and not self.given.urgent else ""
        today = "" if self.given.cover_all else " today"
        return Cause(used_up or f"no {kind} quota left{today}{kept}", needs, resets_at)

    def _deferred(self, causes: list[Cause], directory: str) -> str:
        key = (*causes, directory, self.left[RefreshKind.FILE], self.left[RefreshKind.DIRECTORY])
        text = self._made.get(key)
        if text is None:
            times = [cause.until for cause in causes if cause.until is not None]
            until = f" until {_clock(max(times))}" if times else ""
            decision = f"Deferred{until}: {'; '.join(cause.what for cause in causes)}.{directory}"
            counts = ", ".join(f"{cause.needs} due: {cause.what}" for cause in causes)
            text = self._made[key] = f"{decision}{_NUMBERS}{counts}; {self._tokens()}]"
        return text

    def _no_directory(self, load: DirectoryLoad) -> str:
        """Return a sentence on why no directory refresh covers it."""
        if not load.due:
            return ""
        if not self.left[RefreshKind.DIRECTORY]:
            return " No directory quota is left either."
        if not self.given.allowed(load.url):
            return " Its directory may not be refreshed (min_directory_depth, directory_blackout)."
        if self.given.cover_all:
            return " No directory that may be refreshed covers it."
        evicts = self.evictions(load)
        if evicts == 0:
            return " The directory quota left is kept for larger changes."
        return f" A directory refresh would evict {_objects(evicts)}, more than waiting costs."

    def _tokens(self) -> str:
        """Return what is left, and at which prices."""
        left = self.left[RefreshKind.FILE], self.left[RefreshKind.DIRECTORY]
        if self._state[0] != left:
            self._state = left, f"{left[0]} file and {left[1]} directory refreshes left{self._prices(left[1])}"
        return self._state[1]

    def _prices(self, directories: int) -> str:
        prices = self.prices
        if prices.covers_all:
            return ""
        text = f", {prices.expected:.0f} more changes expected in {prices.hours:.1f} h"
        text += f"; waiting weighs {prices.defer_cost:.1f} evictions each"
        return f"{text}, the next directory refresh {prices.directories.lowest:.1f}" if directories else text


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _objects(count: int | None) -> str:
    return "an unknown number of objects" if count is None else _counted(count, "unchanged object", "unchanged objects")


def _clock(at: float) -> str:
    minutes = int(at // 60) % 1440
    return f"{minutes // 60:02}:{minutes % 60:02} UTC"
