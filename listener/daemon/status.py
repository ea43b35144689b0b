"""
The status as plain data: for ``status --json``, ``/api/status`` and the metrics.

The problems that keep changes from being seen or refreshed are one list for every view (:func:`problems_of`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from listener.allowances import Allowance, costs_of
from listener.contracts import UNLIMITED, WAITING_SINCE, SourceHealth, Target, confirms
from listener.daemon.fleet import MOST_DIFFERENT, different_of, held_of, leaders_of, lost_of, plain_instances
from listener.daemon.source_health import CHECK, Reported, source_rows, troubles_of
from listener.errors import StoreError
from listener.pipeline.accounts import accounts_of
from listener.pipeline.configured import LeftOver, left_over
from listener.pipeline.outlook import Outlook, outlooks
from listener.planner import Arrivals
from listener.redaction import mask_url
from listener.refresh import reserved_units
from listener.settings import Settings
from listener.store import Store
from listener.store.controls import AccountReport, Control, Controls, Place, awaits_approval
from listener.store.filtering import Suppressed
from listener.store.ledger import Budget
from listener.store.owner import Owner
from listener.store.report import Counts
from listener.store.staleness import StaleNeed, Surroundings, WaitsFor, waits_for

if TYPE_CHECKING:
    from listener.pipeline import Pipeline

__all__ = [
    "Known",
    "Listed",
    "Problem",
    "iso",
    "plain_order",
    "plain_stale",
    "plain_suppressed",
    "problems_of",
    "quota_of",
    "stale_of",
    "status_of",
]

_NO_NEEDS = {
    "pending": 0,
    "deferred": 0,
    "in_flight": 0,
    "failed": 0,
    "parked": 0,
    "unconfirmed": 0,
    "dead_letters": 0,
    "dead_letters_dropped": 0,
    "oldest_unsettled_seconds": 0.0,
    "waits_for": {who.value: {"needs": 0, "oldest_seconds": 0.0} for who in WaitsFor},
}


def iso(at: float | None) -> str | None:
    """Return a time in seconds since the epoch as ISO 8601 in UTC; None stays None."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


class Listed(NamedTuple):
    """Which stale needs to list."""

    places: Sequence[Place]
    """Only those whose URLs lie here."""
    limit: int


class Known(NamedTuple):
    """What the daemon knows beyond the store."""

    live: Mapping[str, SourceHealth] = MappingProxyType({})
    """The present health of the sources."""
    arrivals: Mapping[str, Arrivals] | None = None
    """The arrivals learned for each account."""
    store_trouble: StoreError | None = None
    """The store's present error."""
    edge: Mapping[str, Any] | None = None
    """What probes of the edge found; None where they are off."""
    edge_problems: Sequence[tuple[str, float | None, str]] = ()
    left_over: Sequence[LeftOver] | None = None
    """What the store keeps and the configuration does not name; None: not compared yet."""
    is_ready: bool | None = None
    """What /readyz answers; None where it was not asked."""

    @classmethod
    def to(cls, pipeline: Pipeline) -> Self:
        """Return what a running pipeline knows."""
        return cls(
            {name: source.health for name, source in pipeline.intake.sources.items()},
            {engine.account.name: engine.account.arrivals for engine in pipeline.engines},
            pipeline.store_trouble,
            None if pipeline.edge is None else pipeline.edge.report(),
            () if pipeline.edge is None else pipeline.edge.problems(),
            pipeline.compared.found,
        )


async def status_of(
    store: Store | None,
    settings: Settings,
    targets: Mapping[str, Target],
    *,
    now: float,
    owner: Owner,
    known: Known | None = None,
    brief: bool = False,
    counts: Counts | None = None,
    listed: Listed | None = None,
) -> dict[str, Any]:
    """
    Return the content of ``status --json``.

    Args:
        store: the state file; None, so that everything is zero, where it does not exist yet.
        settings: the configuration.
        targets: the configured targets.
        now: seconds since the epoch.
        owner: what is known of the process that owns the state file.
        known: what this process knows beyond the store.
        brief: leave out ``forecasts`` and ``backlog``, which cost a planning round.
        counts: the store's counts, where the caller has read them.
        listed: what to list under ``stale``; by default the oldest of each state.
    """
    ahead, known = {}, known or Known()
    if store is not None and not brief:
        ahead = await outlooks(store, settings, targets, now=now, arrivals=known.arrivals)
    instances = [] if store is None else await store.instances()
    stored = {} if store is None else await store.source_reports()
    sources = source_rows(settings, Reported(stored, instances, known.live, owner.is_running), now)
    needs: dict[str, Any] = dict(_NO_NEEDS)
    if store is not None:
        needs = await _needs(store, counts or await store.counts(), sources, now)
    reports = [] if store is None else await _accounts(store, targets)
    leaders = leaders_of(instances, set(account_of(targets).values()), settings, owner)
    unled = [] if store is None else await store.unled_accounts()
    held = [] if store is None else held_of(await store.old_snapshots())
    different = [] if store is None else await store.different_copies(limit=MOST_DIFFERENT)
    stale = [] if store is None else await stale_of(store, targets, now, owner, listed=listed)
    left = known.left_over
    if left is None:
        left = [] if store is None else await left_over(store, settings, targets)
    problems = problems_of(
        fleet=[
            *lost_of(instances, leaders, settings, unled=unled),
            *held,
            *different_of(different),
            *known.edge_problems,
        ],
        owner=owner,
        unsettled=needs["pending"] + needs["in_flight"] + needs["failed"],
        sources=sources,
        accounts=reports,
        store_trouble=known.store_trouble,
        left_over=left,
    )
    return {
        "at": iso(now),
        "instance": settings.instance.effective_name,
        "instances": plain_instances(instances, settings, iso),
        "leader": leaders,
        "running": owner.is_running,
        "pid": owner.pid,
        "running_reason": owner.reason,
        **needs,
        "problems": [{**one._asdict(), "since": iso(one.since)} for one in problems],
        "stale": [plain_stale(one) for one in stale],
        "quota": await quota_of(store, targets, now=now, reserve=settings.planner.reserve),
        "unlimited": unlimited_of(targets),
        "targets": {name: {"confirms": confirms(target)} for name, target in targets.items()},
        "spenders": {one.name: [spender._asdict() for spender in one.spenders] for one in reports},
        **({} if brief else plain_outlooks(ahead)),
        "sources": {name: _plain_source(row) for name, row in sources.items()},
        "different_copies": [{**one._asdict(), "since": iso(one.since)} for one in different],
        "orders": [] if store is None else [plain_order(one) for one in await Controls(store).active()],
        "edge": known.edge,
        "store": {"url": mask_url(settings.store.url), "exists": store is not None},
    }


def account_of(targets: Mapping[str, Target]) -> dict[str, str]:
    """Return the account of each target."""
    return {name: target.account for name, target in targets.items()}


async def _accounts(store: Store, targets: Mapping[str, Target]) -> list[AccountReport]:
    """Return the last report of each configured account."""
    known = set(account_of(targets).values())
    return [one for one in await store.accounts() if one.name in known]


async def stale_of(
    store: Store,
    targets: Mapping[str, Target],
    now: float,
    owner: Owner,
    *,
    url: str | None = None,
    listed: Listed | None = None,
) -> list[StaleNeed]:
    """Return the oldest stale needs, those that are ``listed``, or those of this URL, each with its reason."""
    given = Surroundings(now, owner.is_running, account_of(targets), has_copies=store.has_copies)
    if listed is not None:
        return await store.stale_below(given, listed.places, limit=listed.limit)
    return await store.stale(given, url=url)


def plain_stale(need: StaleNeed) -> dict[str, Any]:
    """Return one stale URL as plain data."""
    who = waits_for(need.state, need.reason)
    return {**need._asdict(), "since": iso(need.since), "next_at": iso(need.next_at), "waits_for": who.value}


def plain_outlooks(found: Mapping[str, Outlook]) -> dict[str, Any]:
    """
    Return the outlooks by account as plain data.

    ``forecasts``: the rate of spending of each allowance, and when it is used up; null: not before the reset.
    ``backlog``: what is due, in how many days file refreshes alone clear it (null: never), and which directory
    refreshes would clear what one day's quota does not.
    """
    return {
        "forecasts": {
            name: {
                allowance: {"per_hour": round(ahead.per_hour, 2), "lasts_until": iso(ahead.lasts_until)}
                for allowance, ahead in one.forecasts.items()
            }
            for name, one in found.items()
        },
        "backlog": {
            name: {
                "needs": one.backlog.needs,
                "drains": one.backlog.days is not None,
                "days": None if one.backlog.days is None else round(one.backlog.days, 2),
                "offer": [offer._asdict() for offer in one.backlog.offer],
            }
            for name, one in found.items()
        },
    }


def plain_order(order: Control) -> dict[str, Any]:
    """Return one active override as plain data; an empty ``target`` or ``prefix`` means all."""
    return {
        "kind": order.kind.value,
        "target": order.place.target,
        "prefix": order.place.prefix,
        "until": iso(order.until),
        "reason": order.reason,
        "at": iso(order.at),
    }


def plain_suppressed(changes: Suppressed | None) -> dict[str, Any] | None:
    """Return the suppressed changes of a URL as plain data."""
    return None if changes is None else {**changes._asdict(), "at": iso(changes.at)}


async def _needs(store: Store, counts: Counts, sources: Mapping[str, Any], now: float) -> dict[str, Any]:
    """
    Return the counts, and the age of the oldest change by who must act next.

    A change that a waiting scan must still find waits for us. What waits for a person does not make the refreshes
    late: ``oldest_unsettled_seconds`` is without it.
    """
    rows = [row for source in sources.values() for row in (source, *source["instances"].values())]
    waiting = [since for row in rows if (since := row["figures"].get(WAITING_SINCE))]
    waits = {}
    for who, (count, oldest) in counts.waits_for.items():
        since = [at for at in (oldest, *(waiting if who is WaitsFor.US else ())) if at is not None]
        waits[who.value] = {"needs": count, "oldest_seconds": round(max(0.0, now - min(since, default=now)), 3)}
    needs = counts._asdict()
    del needs["since"]
    needs["dead_letters_dropped"] = sum(one.letters for one in await store.dropped_letters())
    unsettled = max(row["oldest_seconds"] for who, row in waits.items() if who != WaitsFor.PERSON)
    return {**needs, "oldest_unsettled_seconds": unsettled, "waits_for": waits}


async def quota_of(
    store: Store | None, targets: Mapping[str, Target], *, now: float, reserve: float = 0.0
) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return the ledger by target and allowance, of those with a limit; targets of one account show the same.

    ``reserve`` (a part of each limit, as configured) is the part of ``left`` in units that only urgent refreshes may
    have. ``others`` is the part of ``spent`` that others spent, as the live quota showed. ``resets_at`` is null where
    units never come back. ``dollars``, where units cost money: what spent and held ones cost, and what all may.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    accounts = accounts_of(targets)
    for name, target in targets.items():
        found[name] = {}
        own = {one.name for one in target.allowances}
        for one in (one for one in accounts[target.account].allowances if one.name in own):
            if store is None:
                budget = Budget(one.limit, spent=0, held=0, resets_at=one.window.end(now))
            else:
                budget = await store.budget(target.account, one)
            if budget.limit >= UNLIMITED:
                continue
            found[name][one.name] = {
                "limit": budget.limit,
                "spent": budget.spent,
                "others": budget.others,
                "held": budget.held,
                "left": budget.left,
                "reserve": min(budget.left, max(reserved_units(kind, budget.limit, reserve) for kind in one.costs)),
                "resets_at": iso(budget.resets_at) if math.isfinite(budget.resets_at) else None,
                "window": one.window.words,
                **({"dollars": _dollars(one, budget)} if one.is_paid else {}),
            }
    return found


def _dollars(allowance: Allowance, budget: Budget) -> dict[str, float]:
    committed = budget.spent + budget.held
    return {"spent": round(allowance.dollars(committed), 4), "limit": round(allowance.dollars(budget.limit), 4)}


def unlimited_of(targets: Mapping[str, Target]) -> dict[str, list[str]]:
    """Return the kinds of request, by target, that spend no allowance."""
    return {
        name: [kind.value for kind in target.limits if not costs_of(target.allowances, kind)]
        for name, target in targets.items()
    }


def _plain_source(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's row as plain data, with its ``instances``."""
    times = {name: iso(row[name]) for name in ("last_event_at", "told_at", "trouble_since")}
    nested = {name: _plain_source(one) for name, one in row.get("instances", {}).items()}
    return {**row, **times, **({"instances": nested} if "instances" in row else {})}


APPROVAL_REMEDY = "see the plan with cdn-listener plan, then run cdn-listener approve"
SPENDER_REMEDY = (
    "if this is not intended, run cdn-listener pause; give each of the [[sites]] a share or a guaranteed part"
)


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
    fleet: Iterable[tuple[str, float | None, str]] = (),
    left_over: Iterable[LeftOver] = (),
) -> Iterator[Problem]:
    """
    Yield every problem, the most fundamental first.

    Args:
        owner: what is known of the daemon.
        unsettled: how many needs wait to be sent.
        sources: the last health of each configured source; ``trouble_since`` is since when its detail is not empty.
        accounts: the last report of each account.
        store_trouble: the store's error, where it is known in this process.
        fleet: what is wrong with the instances that share the store, since when, and what to do.
        left_over: what the store keeps and the configuration does not name.
    """
    if store_trouble is not None:
        yield Problem(f"store: {store_trouble}", None, store_trouble.hint or CHECK)
    if owner.is_running is False and unsettled:
        last = max((source["told_at"] or 0.0 for source in sources.values()), default=0.0)
        what = "no daemon is running: changes are not detected and nothing is sent"
        yield Problem(what, last or None, "start cdn-listener run")
    yield from (Problem(*one) for one in fleet)
    for account in accounts:
        if account.problem:
            yield Problem(f"account {account.name}: {account.problem}", account.since, account.remedy or CHECK)
        if reason := next(filter(awaits_approval, account.deferred.values()), ""):
            words = reason.partition(";")[0]
            yield Problem(f"account {account.name}: {words}", None, APPROVAL_REMEDY)
        for one in account.spenders if owner.is_running is not False else ():
            yield Problem(
                f"account {account.name}: {one.name} spent {one.units} of the {one.left} units of {one.kind} that were"
                " left an hour ago",
                None,
                SPENDER_REMEDY,
            )
    yield from (Problem(*one) for one in troubles_of(sources, is_running=owner.is_running))
    yield from (Problem(one.what, None, one.remedy) for one in left_over)
