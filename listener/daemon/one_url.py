"""What is known of one URL, under whichever addresses its targets keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from listener.contracts import Target
from listener.daemon.status import iso, plain_stale, plain_suppressed, stale_of
from listener.errors import ConfigurationError
from listener.plugins import sites_of
from listener.router.routing import served_by, share_name
from listener.settings import Settings
from listener.store import Store
from listener.store.filtering import Suppressed
from listener.store.owner import Owner
from listener.store.report import Refreshed
from listener.store.staleness import StaleNeed

__all__ = ["UrlFacts", "attempts_at", "facts_of", "url_status"]

ATTEMPTS_SHOWN = 5
NOT_SERVED = "no site serves this URL"


class UrlFacts(NamedTuple):
    """What the store has about a URL."""

    needs: Sequence[StaleNeed] = ()
    attempts: Sequence[dict[str, Any]] = ()
    suppressed: Suppressed | None = None


async def facts_of(
    store: Store,
    targets: Mapping[str, Target],
    addresses: Sequence[str],
    *,
    now: float,
    owner: Owner,
    limit: int,
) -> UrlFacts:
    """Return what is stale at these addresses of a URL, the newest ``limit`` requests, and what was suppressed."""
    needs = [need for url in addresses for need in await stale_of(store, targets, now, owner, url=url)]
    found = [await store.suppressed(url) for url in addresses]
    suppressed = next((one for one in found if one is not None), None)
    return UrlFacts(needs, await attempts_at(store, addresses, limit=limit), suppressed)


async def attempts_at(store: Store, addresses: Sequence[str], *, limit: int) -> list[dict[str, Any]]:
    """Return the newest requests at these addresses."""
    rows = [row for url in addresses for row in await store.history(limit=limit, url=url)]
    return sorted(rows, key=lambda row: -int(row["id"]))[:limit]


async def url_status(
    store: Store | None, settings: Settings, targets: Mapping[str, Target], url: str, *, now: float, owner: Owner
) -> dict[str, Any]:
    """
    Return what is known of a URL in normal form, as plain data.

    ``site``, ``source`` and ``targets`` are null or empty, and ``problem`` says why, where no site serves it.
    ``last_change`` is the newest that its needs and refreshes show, null where the history has none. ``last_refresh``
    is the newest complete one of the URL or of a directory above it, ``next_step`` what happens next, at ``next_at`` if
    that is known.
    """
    addresses, facts, refreshed = sites_of(settings, targets).addresses(url), UrlFacts(), None
    if store is not None:
        facts = await facts_of(store, targets, addresses, now=now, owner=owner, limit=ATTEMPTS_SHOWN)
        found = [await store.refreshed_last(one) for one in addresses]
        refreshed = max(filter(None, found), key=lambda one: one.finished_at, default=None)
    stale = facts.needs
    step, next_at = _next_step(stale)
    changes = [one.since for one in stale if one.scope != "prefetch"]
    changes += [None if refreshed is None or refreshed.url not in addresses else refreshed.changed_at]
    return {
        "url": url,
        **_served(settings, url),
        "stale": any(one.scope != "prefetch" for one in stale),
        "last_change": iso(max((at for at in changes if at is not None), default=None)),
        "last_refresh": _plain(refreshed),
        "next_step": step,
        "next_at": iso(next_at),
        "needs": [plain_stale(one) for one in stale],
        "attempts": facts.attempts,
        "suppressed": plain_suppressed(facts.suppressed),
    }


def _served(settings: Settings, url: str) -> dict[str, Any]:
    """Return which site serves a URL, or why no change can make it stale."""
    try:
        site = served_by(settings.sites, url).site
    except ConfigurationError as error:
        return {"problem": f"{NOT_SERVED}. {error.hint}", "site": None, "source": None, "targets": []}
    return {"problem": "", "site": share_name(site), "source": site.source, "targets": list(site.targets)}


def _next_step(stale: Sequence[StaleNeed]) -> tuple[str, float | None]:
    """Return what happens next, and when that is known: of several needs to the one that waits longest."""
    if not stale:
        return "nothing: it is fresh as far as is known, and its next change is refreshed", None
    oldest = min(stale, key=lambda one: one.since or 0.0)
    return oldest.reason or oldest.state, oldest.next_at


def _plain(refreshed: Refreshed | None) -> dict[str, Any] | None:
    if refreshed is None:
        return None
    times = {"changed_at": iso(refreshed.changed_at), "finished_at": iso(refreshed.finished_at)}
    return {**refreshed._asdict(), **times}
