"""The part of each quota that may be spent on refreshing once more what an edge still serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from listener.allowances import Allowance
from listener.contracts import Target
from listener.refresh import KIND_OF_SCOPE, RefreshKind, Scope
from listener.store import Store

__all__ = ["REPEATED", "RepeatShare"]

REPEATED: Final = "refreshed once more"
"""Begins the reason of such an attempt: by it a later process counts what was spent."""


class RepeatShare:
    """Counts units by account, allowance and window."""

    LEARNED_ROWS: Final = 20_000
    """Attempts of the audit trail that are looked through at the start."""

    def __init__(self, targets: Mapping[str, Target], share: float) -> None:
        """Take the targets, and the part of each of their allowances."""
        self._targets = targets
        self._share = share
        self._spent: Counter[tuple[str, str, int]] = Counter()

    async def take(self, store: Store, target: str, scope: Scope, *, now: float) -> bool:
        """Return whether one more refresh is within the share of each of its allowances, and count it."""
        kind, account = KIND_OF_SCOPE[scope], self._targets[target].account
        allowances = self._allowances(target, kind)
        limits = [(await store.budget(account, one)).limit for one in allowances]  # the live ones, where they are known
        for one, limit in zip(allowances, limits, strict=True):
            if self._spent_of(target, one, now) + one.costs[kind] > self._share * limit:
                return False
        self._book(target, kind, now)
        return True

    def learn(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        """Count what earlier processes spent, by the rows of the audit trail."""
        for row in attempts:
            if str(row["reason"]).startswith(REPEATED) and row["target"] in self._targets:
                self._book(row["target"], RefreshKind(row["kind"]), float(row["created_at"]))

    def _allowances(self, target: str, kind: RefreshKind) -> list[Allowance]:
        return [one for one in self._targets[target].allowances if kind in one.costs]

    def _spent_of(self, target: str, allowance: Allowance, now: float) -> int:
        account, first = self._targets[target].account, allowance.window.first(now)
        return sum(
            units
            for (of, name, start), units in self._spent.items()
            if (of, name) == (account, allowance.name) and start >= first
        )

    def _book(self, target: str, kind: RefreshKind, at: float) -> None:
        for one in self._allowances(target, kind):
            self._spent[self._targets[target].account, one.name, one.window.start(at)] += one.costs[kind]
