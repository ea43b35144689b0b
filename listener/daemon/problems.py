"""The problems that keep changes from being seen or refreshed: one list for every view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from listener.contracts import SourceState
from listener.errors import StoreError
from listener.store.ownership import Owner
from listener.store.staleness import AccountReport

__all__ = ["Problem", "problems_of"]

CHECK = "run cdn-listener check for details"
SPENDER_REMEDY = (
    "if this is not intended, run cdn-listener pause; give each of the [[sites]] a share or a guaranteed part"
)
_HEALTHY = {SourceState.STARTING.value, SourceState.SCANNING.value, SourceState.LISTENING.value}


class Problem(NamedTuple):
    """One problem."""

    what: str
    since: float | None
    """Seconds since the epoch; None where unknown."""
    remedy: str


def problems_of(
    *,
    owner: Owner,
    unsettled: int,
    sources: Mapping[str, Mapping[str, Any]],
    accounts: Iterable[AccountReport],
    store_trouble: StoreError | None,
) -> list[Problem]:
    """
    Return every problem, the most fundamental first.

    Args:
        owner: what is known of the daemon.
        unsettled: how many needs wait to be sent.
        sources: the last health of each configured source; ``trouble_since`` is since when its detail is not empty.
        accounts: the last report of each account.
        store_trouble: the store's error, where it is known in this process.
    """
    return list(_problems(owner, unsettled, sources, accounts, store_trouble))


def _problems(
    owner: Owner,
    unsettled: int,
    sources: Mapping[str, Mapping[str, Any]],
    accounts: Iterable[AccountReport],
    store_trouble: StoreError | None,
) -> Iterator[Problem]:
    if store_trouble is not None:
        yield Problem(f"store: {store_trouble}", None, store_trouble.hint or CHECK)
    if owner.is_running is False and unsettled:
        last = max((source["told_at"] or 0.0 for source in sources.values()), default=0.0)
        yield Problem("no daemon runs: nothing is seen and nothing is sent", last or None, "start cdn-listener run")
    for account in accounts:
        if account.problem:
            yield Problem(f"account {account.name}: {account.problem}", account.since, account.remedy or CHECK)
        for one in account.spenders if owner.is_running is not False else ():
            yield Problem(
                f"account {account.name}: {one.name} spent {one.units} of the {one.left} {one.kind} refreshes that were"
                " left an hour ago",
                None,
                SPENDER_REMEDY,
            )
    for name, source in sources.items():
        is_silent = owner.is_running and source["told_at"] is not None and source["state"] not in _HEALTHY
        if source["detail"] or is_silent:
            words = source["detail"] or source["state"]
            yield Problem(f"source {name}: {words}", source.get("trouble_since"), CHECK)
