"""What keeps changes from being seen or refreshed, since when, and what to do: one list for every view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from listener.contracts import SourceState
from listener.errors import StoreError
from listener.store.ownership import Owner
from listener.store.staleness import AccountReport

__all__ = ["Problem", "problems_of"]

CHECK = "cdn-listener check tries everything and says more"
SPENDER_REMEDY = (
    "if that is not meant, stop it with cdn-listener pause; give each of the [[sites]] a share or a guaranteed part"
)
_WELL = {SourceState.STARTING.value, SourceState.SCANNING.value, SourceState.LISTENING.value}


class Problem(NamedTuple):
    """One thing that is wrong."""

    what: str
    since: float | None
    """Seconds since the epoch; None where it is not known."""
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
        sources: what each configured source said last; ``trouble_since`` says since when its detail is not empty.
        accounts: what each account's sender said last.
        store_trouble: what the state file could not do, where that is known in this process.
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
        is_silent = owner.is_running and source["told_at"] is not None and source["state"] not in _WELL
        if source["detail"] or is_silent:
            words = source["detail"] or source["state"]
            yield Problem(f"source {name}: {words}", source.get("trouble_since"), CHECK)
