"""
Layers of caches: an outer one is refreshed once the inner ones, which it fetches from, have dropped the old copy.

Refreshed before, it would fetch the old copy again and keep it. What waits for a person at an inner layer (rejected, or
never confirmed) holds up no outer one, nor does what that layer has no kind of request for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from listener.contracts import Target
from listener.planner import Deferral
from listener.refresh import RefreshKind, Scope
from listener.router.routing import Sites
from listener.store.layering import Inner, after_layers, is_unsettled
from listener.store.needs import DueRow, Load, Snapshot
from listener.store.transitions import AttemptRequest

__all__ = ["LOOK_SECONDS", "Layers"]

LOOK_SECONDS: Final = 15.0
"""How often to look whether an inner layer is done that another instance refreshes."""


class Layers:
    """What the targets of one account wait for."""

    def __init__(self, sites: Sites, targets: Collection[str], *, known: Mapping[str, Target]) -> None:
        """Take all sites, the targets of the account, and all that this process knows, of any account."""
        self._sites = sites
        self._files_only = {name for name, one in known.items() if RefreshKind.DIRECTORY not in one.limits}
        own = frozenset(targets)
        self._are_any = any(not own.isdisjoint(site.targets[1:]) for site in sites.behind(targets))

    def part(self, snapshot: Snapshot, loads: Sequence[Load]) -> tuple[list[Load], list[Deferral]]:
        """Part what may be planned from what waits for an inner layer."""
        if not self._are_any:
            return list(loads), []
        free: list[Load] = []
        waits: list[Deferral] = []
        for load in loads:
            if not (inner := self._sites.inner_layers(load.target, load.url)):
                free.append(load)
                continue
            left, behind = snapshot.run(after_layers, load, self._parted(inner))
            if behind:
                waits.append(Deferral(load.target, load.url, behind, _why(inner), load.oldest))
            if left.exact or left.all_params or left.subtree or left.prefetch:
                free.append(left)
        return free, waits

    def manual(self, snapshot: Snapshot, rows: Sequence[DueRow]) -> list[DueRow]:
        """Return those of these needs that no inner layer holds up."""
        if not self._are_any:
            return list(rows)
        return [row for row in rows if not self._is_behind(snapshot, row.target, row.url, row.scope)]

    def directories(
        self, snapshot: Snapshot, wanted: Sequence[AttemptRequest]
    ) -> tuple[list[AttemptRequest], list[Deferral]]:
        """Part what may be requested from directories below which an inner layer still has something to drop."""
        if not self._are_any:
            return list(wanted), []
        held_up = [
            one
            for one in wanted
            if one.kind is RefreshKind.DIRECTORY and self._is_behind(snapshot, one.target, one.url, Scope.SUBTREE)
        ]
        left = [one for one in wanted if one not in held_up]
        return left, [
            Deferral(
                one.target,
                one.url,
                one.covered,
                _why(self._sites.inner_layers(one.target, one.url)),
                one.stale_since,
            )
            for one in held_up
        ]

    def _is_behind(self, snapshot: Snapshot, target: str, url: str, scope: Scope) -> bool:
        inner = self._sites.inner_layers(target, url)
        return bool(inner) and snapshot.run(is_unsettled, self._parted(inner), url, below=scope is Scope.SUBTREE)

    def _parted(self, names: Sequence[str]) -> Inner:
        """Part the targets that refresh files only from the others."""
        return Inner(
            [name for name in names if name not in self._files_only],
            [name for name in names if name in self._files_only],
        )


def _why(inner: Sequence[str]) -> str:
    return f"waits until the layer {', '.join(inner)} has been refreshed, from which it fetches"
