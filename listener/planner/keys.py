"""The offline plan of ``cdn-listener plan``: keys in, refreshes out, nothing but arithmetic."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from listener.allowances import Allowance, Day, for_each_kind
from listener.planner.constants import OBJECT_DOLLARS
from listener.planner.model import Budget, DirectoryLoad, PlanInput
from listener.planner.plan import plan
from listener.refresh import RefreshKind

__all__ = ["KeyDeferral", "KeyPlan", "KeyRefresh", "plan_keys"]

_BASE = "key://storage/"
"""Turns a key into something with a root, as URLs have; never seen outside."""

_DAY_SECONDS = 86_400.0


class KeyRefresh(NamedTuple):
    """One refresh of an offline plan; the fields are those of ``plan --json``."""

    kind: str
    """``file`` or ``directory``."""
    key: str
    """As the storage has it; a directory ends with ``/``, the root is empty."""
    covers: int
    collateral: int
    reason: str


class KeyDeferral(NamedTuple):
    """One key that an offline plan leaves for later."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """An offline plan; the fields are those of ``plan --json``."""

    refreshes: list[KeyRefresh]
    deferred: list[KeyDeferral]
    spent: dict[str, int]
    """Tokens by kind: ``file``, ``directory``."""
    collateral: int
    dollars: float = 0.0


def plan_keys(
    changes: Iterable[str],
    objects: Iterable[str],
    *,
    files: int,
    directories: int,
    min_directory_depth: int = 1,
    shared: Allowance | None = None,
    object_dollars: float = OBJECT_DOLLARS,
) -> KeyPlan:
    """
    Plan for a whole day, or a month, from lists of keys.

    Args:
        changes: Changed keys in order of their changes; one that ends with ``/`` is a changed subtree.
        objects: All keys that the storage holds now, for the weights.
        files: File tokens that may be spent.
        directories: Directory tokens that may be spent.
        min_directory_depth: The shallowest directory that may be refreshed; 0 allows the root.
        shared: What files and directories spend together instead of tokens of their own, all of it left.
        object_dollars: What an evicted object is worth, where that costs money.
    """
    changed = [key for key in dict.fromkeys(changes) if key]
    inventory = _Inventory(objects)
    due = _by_directory(changed)
    kinds = {RefreshKind.FILE: files, RefreshKind.DIRECTORY: directories}
    allowances = for_each_kind(kinds, Day()) if shared is None else (shared,)
    budgets = [Budget(one, one.limit, _DAY_SECONDS) for one in allowances]
    made = plan(
        PlanInput(
            now=0.0,
            loads=[_load(directory, keys, inventory) for directory, keys in due.items()],
            budgets=budgets,
            object_dollars=object_dollars,
            kinds=kinds.keys(),
            weights=lambda url: inventory.below(url[len(_BASE) :]),
            allowed=lambda url: url.count("/", len(_BASE)) >= min_directory_depth,
            cover_all=True,
        )
    )
    refreshes = [
        KeyRefresh("directory", d.url[len(_BASE) :], d.covers, d.collateral if d.collateral_known else 0, d.reason)
        for d in made.directories
    ]
    deferred: list[KeyDeferral] = []
    for planned in made.files:
        keys = due[planned.directory_url[len(_BASE) :]].exact
        refreshes.extend(KeyRefresh("file", key, 1, 0, planned.reason) for key in keys[: planned.take])
        del keys[: planned.take]
    for deferral in made.deferred:
        directory = deferral.directory_url[len(_BASE) :]
        waiting = due[directory]
        keys = ([directory] if waiting.subtree else []) + waiting.exact
        deferred.extend(KeyDeferral(key, deferral.reason) for key in keys)
    spent = {kind.value: made.spent.get(kind, 0) for kind in kinds}
    collateral = sum(refresh.collateral for refresh in refreshes)
    return KeyPlan(refreshes, deferred, spent, collateral, made.dollars)


class _Inventory:
    """All keys of a storage, to be counted by prefix."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = sorted(set(keys))

    def below(self, directory: str) -> int:
        """Return how many keys start with this one (which ends with ``/``, or is empty for all)."""
        if not directory:
            return len(self._keys)
        end = directory[:-1] + "0"  # the character after "/"
        return bisect_left(self._keys, end) - bisect_left(self._keys, directory)

    def __contains__(self, key: str) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key


@dataclass(slots=True)
class _Due:
    exact: list[str]
    subtree: bool = False


def _by_directory(changed: Sequence[str]) -> dict[str, _Due]:
    due: dict[str, _Due] = {}
    for key in changed:
        directory = key[: key.rfind("/") + 1]
        here = due.setdefault(directory, _Due([]))
        if key == directory:
            here.subtree = True
        else:
            here.exact.append(key)
    return due


def _load(directory: str, due: _Due, inventory: _Inventory) -> DirectoryLoad:
    return DirectoryLoad(
        target="",
        url=_BASE + directory,
        due=len(due.exact),
        subtree_due=due.subtree,
        objects=sum(key in inventory for key in due.exact),
    )
