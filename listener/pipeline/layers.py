"""
Layers of caches: an outer one is refreshed once the inner ones, which it fetches from, have dropped the old copy.

Refreshed before, it would fetch the old copy again and keep it. What waits for a person at an inner layer (rejected, or
never confirmed) holds up no outer one, nor does what that layer has no kind of request for.

A URL that changes again before the inner layer is done is refreshed at the outer one up to the change that the inner
one dropped: the attempt has the watermark of the inner attempt, and the need outlives it. Every other attempt at an
outer layer covers what was recorded when it was planned, and nothing later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from listener.contracts import JoinsUrls, Target
from listener.planner import Deferral
from listener.refresh import SCOPE_OF_KIND, RefreshKind, Scope
from listener.router.routing import Sites
from listener.store.layering import after_layers, how_far, may_be_exempt
from listener.store.needs import DueRow, Inner, Load, Passed, Snapshot
from listener.store.transitions import AttemptRequest

__all__ = ["DIRECTORY_SECONDS", "LOOK_SECONDS", "Layers"]

LOOK_SECONDS: Final = 15.0
"""How often to look whether an inner layer is done, though nothing announced it."""
DIRECTORY_SECONDS: Final = 60.0
"""
How long a directory waits until nothing below it is left to do at inner layers. Sooner, a deploy would take a refresh
for each part that the inner layers have done; later, what changes all the time would hold up all else in the directory.
"""


class Layers:
    """What the targets of one account wait for."""

    def __init__(self, sites: Sites, targets: Collection[str], *, known: Mapping[str, Target]) -> None:
        """Take all sites, the targets of the account, and all that this process knows, of any account."""
        self._sites = sites
        self._files_only = {name for name, one in known.items() if RefreshKind.DIRECTORY not in one.limits}
        self._by_beginning = frozenset(name for name, one in known.items() if isinstance(one, JoinsUrls))
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
        """Return those of these needs that no inner layer holds up, or not entirely."""
        if not self._are_any:
            return list(rows)
        last = snapshot.last_sequence()
        found: list[DueRow] = []
        for row in rows:
            passed = self._how_far(snapshot, row.target, row.url, row.scope, needs_force=row.needs_force)
            if passed is None or passed.watermark:
                found.append(row._replace(passed=passed or self._up_to(row.target, row.url, last)))
        return found

    def requests(
        self, snapshot: Snapshot, wanted: Sequence[AttemptRequest], *, last_sequence: int, now: float
    ) -> tuple[list[AttemptRequest], list[Deferral]]:
        """
        Return what may be requested, each up to the change that inner layers have dropped, and what waits for them.

        Args:
            snapshot: that was planned from.
            wanted: what was planned.
            last_sequence: of the last change in the snapshot.
            now: seconds since the epoch.
        """
        if not self._are_any:
            return list(wanted), []
        found: list[AttemptRequest] = []
        waits: list[Deferral] = []
        for one in wanted:
            if one.watermark is not None or not self._sites.inner_layers(one.target, one.url):
                found.append(one)
            elif one.kind in (RefreshKind.FILE, RefreshKind.PREFETCH) and not self._is_beginning(one):
                found.append(one._replace(watermark=last_sequence))
            elif (made := self._several(snapshot, one, last_sequence, now)) is not None:
                found.append(made)
            else:
                why = _why(self._sites.inner_layers(one.target, one.url))
                waits.append(Deferral(one.target, one.url, one.covered, why, one.stale_since))
        return found, waits

    def _is_beginning(self, one: AttemptRequest) -> bool:
        """Return whether a request is for all that begins like its URL."""
        return one.target in self._by_beginning and one.kind is RefreshKind.FILE and one.url.endswith("*")

    def _several(
        self, snapshot: Snapshot, one: AttemptRequest, last_sequence: int, now: float
    ) -> AttemptRequest | None:
        """Return how far a directory, or a path with any query, may be refreshed; None while it has to wait."""
        passed = self._how_far(snapshot, one.target, one.url, SCOPE_OF_KIND[one.kind], needs_force=one.force)
        if passed is None:
            return one._replace(watermark=last_sequence)
        if passed.watermark:
            return one._replace(watermark=passed.watermark)
        inner = self._parted(self._sites.inner_layers(one.target, one.url))
        is_young = now - one.stale_since < DIRECTORY_SECONDS
        if (
            one.kind is not RefreshKind.DIRECTORY
            or is_young
            or not snapshot.run(may_be_exempt, inner, one.target, one.url, watermark=last_sequence)
        ):
            return None
        return one._replace(watermark=last_sequence, exempt=inner)

    def _up_to(self, target: str, url: str, last_sequence: int) -> Passed | None:
        return Passed(last_sequence) if self._sites.inner_layers(target, url) else None

    def _how_far(self, snapshot: Snapshot, target: str, url: str, scope: Scope, *, needs_force: bool) -> Passed | None:
        if not (inner := self._sites.inner_layers(target, url)):
            return None
        return snapshot.run(how_far, self._parted(inner), target, url, scope, needs_force=needs_force)

    def _parted(self, names: Sequence[str]) -> Inner:
        """Part the targets that refresh files only from the others."""
        return Inner(
            [name for name in names if name not in self._files_only],
            [name for name in names if name in self._files_only],
            self._by_beginning,
        )


def _why(inner: Sequence[str]) -> str:
    return f"waits until the layer {', '.join(inner)} has been refreshed, from which it fetches"
