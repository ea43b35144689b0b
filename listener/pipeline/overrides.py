"""Overrides as the dispatcher sees them: which loads wait, and until when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from listener.planner import Deferral
from listener.refresh import Scope
from listener.settings import Approval
from listener.store import Store
from listener.store.controls import Control, ControlKind, Controls
from listener.store.needs import DueRow, Load

__all__ = ["ActiveOverrides", "Overrides"]

STOPS = (ControlKind.HOLD, ControlKind.PAUSE)


class ActiveOverrides(NamedTuple):
    """The orders that hold while one plan is made."""

    orders: Sequence[Control]

    @property
    def ends_at(self) -> float | None:
        """When the first of them ends by itself, in seconds since the epoch."""
        return min((one.until for one in self.orders if one.until is not None), default=None)

    def part(self, loads: Sequence[Load]) -> tuple[list[Load], list[Deferral]]:
        """Part what may be planned from what waits, each of that with the order's reason."""
        free: list[Load] = []
        waits: list[Deferral] = []
        for load in loads:
            order = self._over(load.target, load.url, STOPS)
            if order is None:
                free.append(load)
            else:
                count = load.exact + load.subtree + load.all_params
                waits.append(Deferral(load.target, load.url, count, _why(order), load.oldest))
        return free, waits

    def manual(self, rows: Sequence[DueRow]) -> list[DueRow]:
        """Return what people requested and may go: a hold is for what changes by itself."""
        kinds = (ControlKind.PAUSE,)
        return [
            row
            for row in rows
            if self._over(row.target, row.url, kinds) is None
            and not (row.scope is Scope.SUBTREE and self.reached(row.url, kinds))
        ]

    def reached(self, directory: str, kinds: Sequence[ControlKind] = STOPS) -> bool:
        """Return whether a directory refresh would reach URLs below it that are to be left alone."""
        return any(one.kind in kinds and one.place.prefix.startswith(directory) for one in self.orders)

    def unapproved(self, files: int, directories: int, targets: Collection[str], most: Approval) -> str:
        """Return why a plan of so many requests waits for a person, or an empty string."""
        if not (0 < most.file < files or 0 < most.directory < directories):
            return ""
        if all(self._over(target, "", (ControlKind.APPROVAL,)) for target in targets):
            return ""
        return (
            f"waits for approval: a plan of {files} URLs and {directories} directories is above planner.approve_above;"
            " cdn-listener approve"
        )

    def _over(self, target: str, url: str, kinds: Sequence[ControlKind]) -> Control | None:
        return next((one for one in self.orders if one.kind in kinds and one.place.holds(target, url)), None)


def _why(order: Control) -> str:
    verb = "held" if order.kind is ControlKind.HOLD else "paused"
    until = "" if order.until is None else f" until {datetime.fromtimestamp(order.until, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"{verb}{until}" + (f": {order.reason}" if order.reason else "")


class Overrides:
    """Reads the orders of one store."""

    def __init__(self, store: Store) -> None:
        """Take the store that they are kept in."""
        self._controls = Controls(store)

    async def active(self) -> ActiveOverrides:
        """Return what holds now."""
        return ActiveOverrides(await self._controls.active())
