"""
What commands read and change, as plain data: the same functions in the daemon and in the process of a command.

A command sends its request to the daemon that runs with its configuration (:mod:`listener.daemon.command_socket`), and
calls the function itself where none does. Results, and the arguments but for the context, are what JSON can express.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from listener.contracts import Check, Target
from listener.daemon.checks import run_checks
from listener.daemon.one_url import attempts_at, url_status
from listener.daemon.selection import places, prefixes, require_overlap
from listener.daemon.source_health import held_deletions, is_blind
from listener.daemon.status import Known, Listed, iso, plain_order, quota_of, status_of, unlimited_of
from listener.daemon.verdict import verdict_of
from listener.errors import ConfigurationError, ListenerError, TargetError
from listener.pipeline import Pipeline
from listener.pipeline.requests import RequestedUrl, outcomes, requested_urls
from listener.plugins import load_sources, load_targets, sites_of
from listener.refresh import Scope
from listener.router.routing import normal_or_refused
from listener.settings import Settings, nearest
from listener.store import NeedInput, Store
from listener.store.access import time_of
from listener.store.controls import Control, ControlKind, Controls, Place, awaits_approval
from listener.store.letters import LetterFilter, LetterKind
from listener.store.owner import Owner, absent
from listener.store.staleness import MOST_LISTED

__all__ = ["HANDLERS", "WRITING", "Context", "cancelled_places", "plain_check", "plain_outcomes", "record"]

CONFIRMATION_SECONDS: Final = 600.0
"""A confirmation that no daemon used within this time is about other deletions than the operator looked at."""
_TIMES = ("created_at", "sent_at", "accepted_at", "finished_at")


@dataclass(frozen=True)
class Context:
    """What a command works with."""

    settings: Settings
    store: Store | None
    """None where there is no state file yet."""
    owner: Owner
    make_targets: Callable[[], Mapping[str, Target]]
    """Called only by commands that need the targets: it raises for a wrong table."""
    known: Known | None = None
    """What the process knows beyond the store; only the daemon does."""

    @property
    def present_store(self) -> Store:
        """The store; raises StoreError where there is none yet."""
        if self.store is None:
            raise absent(self.settings.store.url)
        return self.store

    @cached_property
    def targets(self) -> Mapping[str, Target]:
        """The configured targets."""
        return self.make_targets()

    @property
    def now(self) -> float:
        """Seconds since the epoch, by the store's clock where there is one."""
        return time_of(self.store)


async def status(
    context: Context, *, url: str | None = None, prefix: str | None = None, limit: int | None = None
) -> dict[str, Any]:
    """
    Return the content of ``status --json``.

    ``stale`` has the oldest 50, some of each state; with ``prefix`` or ``limit`` the oldest below the prefix, up to the
    limit.
    """
    store, targets, owner, now = context.store, context.targets, context.owner, context.now
    normal = None if url is None else normal_or_refused(url)
    listed = None
    if prefix is not None or limit is not None:
        places = [Place()] if prefix is None else prefixes(context.settings, prefix, site=None)
        for place in places if prefix is not None else ():
            require_overlap(context.settings, place.prefix)
        listed = Listed(places, MOST_LISTED if limit is None else limit)
    known = context.known
    found = await status_of(store, context.settings, targets, now=now, owner=owner, known=known, listed=listed)
    if known is not None and known.is_ready is not None:
        found["ready"] = known.is_ready
    found["verdict"] = verdict_of(found).words
    if normal is not None:
        found["url"] = await url_status(store, context.settings, targets, normal, now=now, owner=owner)
    return found


async def quota(context: Context) -> dict[str, Any]:
    """Return the quota by target and allowance with what the CDN reports, and the errors by target."""
    reserve = context.settings.planner.reserve
    found = await quota_of(context.store, context.targets, now=context.now, reserve=reserve)
    errors: dict[str, str] = {}
    for name, target in context.targets.items():
        try:
            live = await target.read_quota()
        except TargetError as error:
            live = {}
            errors[name] = f"{error} {error.hint}".strip()
        for allowance, row in found[name].items():
            reported = live.get(allowance)
            row["live"] = None if reported is None else reported._asdict()
            if reported is not None:  # the daemon corrects the ledger by it within minutes
                row["left"] = min(row["left"], max(0, reported.remaining - row["held"]))
                row["reserve"] = min(row["reserve"], row["left"])
    return {"quota": found, "unlimited": unlimited_of(context.targets), "errors": errors}


async def attempts(context: Context, *, limit: int, url: str | None) -> list[dict[str, Any]]:
    """Return the newest requests to the CDN."""
    normal = None if url is None else normal_or_refused(url)
    if context.store is None:
        return []
    if normal is None:
        rows = await context.store.history(limit=limit)
    else:
        rows = await attempts_at(context.store, sites_of(context.settings).addresses(normal), limit=limit)
    return [{**row, **{name: iso(row[name]) for name in _TIMES}, "force": bool(row["force"])} for row in rows]


async def actions(context: Context, *, limit: int) -> list[dict[str, Any]]:
    """Return the newest actions of people."""
    rows = [] if context.store is None else await Controls(context.store).audit(limit=limit)
    return [{**row, "at": iso(row["at"])} for row in rows]


async def unsettled(
    context: Context, *, site: str | None, prefix: str | None, changed_before: float | None = None
) -> dict[str, Any]:
    """
    Return what of the changes until then is not fresh, which source does not listen, and whether a daemon runs.

    ``held`` has how many deletions each source holds back until a person confirms them. ``changed_before`` is by the
    store's clock, whose time is returned as ``now``; by default now.
    """
    where = prefixes(context.settings, prefix, site=site)
    if prefix is not None:
        for place in where:
            require_overlap(context.settings, place.prefix)
    store, now = context.present_store, context.now
    before = now if changed_before is None else changed_before
    left = [one for place in where for one in await store.unsettled(place, changed_before=before)]
    known, instances = await store.source_reports(), await store.instances()
    silent = [name for name in context.settings.sources if is_blind(known.get(name, {}), instances)]
    serving = {one.source for one in context.settings.sites if any(place.serves(one.base_urls) for place in where)}
    return {
        "left": [one._asdict() for one in left],
        "held": await _held(context, sorted(serving)),
        "blind": f"source {silent[0]} is not listening: see cdn-listener status" if silent else "",
        "running": context.owner.is_running,
        "now": now,
    }


async def _held(context: Context, sources: Sequence[str]) -> dict[str, int]:
    """Return how many deletions each of these sources holds back, of those that hold any."""
    store = context.present_store
    reports, instances = await store.source_reports(), await store.instances()
    live = {} if context.known is None else context.known.live
    found = {name: held_deletions(reports.get(name, {}), instances, live.get(name)) for name in sources}
    return {name: count for name, count in found.items() if count}


async def impose(
    context: Context,
    *,
    kind: str,
    site: str | None = None,
    target: str | None = None,
    seconds: float | None,
    reason: str,
) -> list[dict[str, Any]]:
    """Impose an order on a site, a target or everything; return each with what can no longer be stopped."""
    if kind == ControlKind.APPROVAL:
        await _require_unapproved(context, target)
    return await _put(context, ControlKind(kind), places(context.settings, site=site, target=target), seconds, reason)


async def confirm_deletions(context: Context, *, source: str, reason: str) -> list[dict[str, Any]]:
    """Confirm the deletions that stopped a source."""
    if source not in context.settings.sources:
        raise ConfigurationError(f"there is no source {source!r}", hint=nearest(source, context.settings.sources))
    if not (await _held(context, [source])).get(source):
        what = f"source {source} holds no deletions back: there is nothing to confirm"
        raise ListenerError(what, hint="see cdn-listener status; a later mass deletion is held back as well")
    return await _put(context, ControlKind.CONFIRMATION, [Place(source)], CONFIRMATION_SECONDS, reason)


async def _require_unapproved(context: Context, target: str | None) -> None:
    """Raise ListenerError where no plan, of this target where one is named, waits for approval."""
    places(context.settings, site=None, target=target)  # raises for a target that does not exist
    waiting = {
        name
        for account in await context.present_store.accounts()
        for (name, _), reason in account.deferred.items()
        if awaits_approval(reason)
    }
    if not waiting or target not in (None, *waiting):
        where = f" for target {target}" if target else ""
        what = f"no plan waits for approval{where}: there is nothing to approve"
        raise ListenerError(what, hint="see cdn-listener status; planner.approve_above says which plans need approval")


async def _put(
    context: Context, kind: ControlKind, where: list[Place], seconds: float | None, reason: str
) -> list[dict[str, Any]]:
    controls = Controls(context.present_store)
    given = await controls.put(kind, where, seconds=seconds, reason=reason)
    under_way = await controls.under_way(where) if kind in (ControlKind.HOLD, ControlKind.PAUSE) else 0
    return [{"order": plain_order(one), "words": one.place.words, "under_way": under_way} for one in given]


async def end(context: Context, *, kind: str, site: str | None, target: str | None, reason: str) -> dict[str, Any]:
    """End an order; return how many ended, and the wider ones that are still in effect."""
    where = places(context.settings, site=site, target=target)
    controls = Controls(context.present_store)
    every = [one.place for one in await _active(controls, kind)]
    count = await controls.remove(ControlKind(kind), every if site is None and target is None else where, reason=reason)
    wider = [one for one in await _active(controls, kind) if any(one.place.holds(*place) for place in where)]
    return {"ended": count, "wider": [{"order": plain_order(one), "words": one.place.words} for one in wider]}


async def _active(controls: Controls, kind: str) -> list[Control]:
    return [one for one in await controls.active() if one.kind is ControlKind(kind)]


async def request(
    context: Context, *, urls: list[str], scope: str, target: str | None, urgent: bool, reason: str | None
) -> list[dict[str, Any]]:
    """Request URLs, which the daemon sends; return what is known of each."""
    wanted = requested_urls(context.settings, urls, Scope[scope], target=target)
    store = context.present_store
    await record(store, wanted, urgent=urgent, reason=reason)
    return await plain_outcomes(store, wanted)


async def check(context: Context) -> list[dict[str, str]]:
    """Try everything in the configuration as this process, with sources and targets of its own."""
    settings = context.settings
    return [plain_check(one) for one in await run_checks(settings, load_sources(settings), load_targets(settings))]


def plain_check(one: Check) -> dict[str, str]:
    """Return a check as plain data."""
    return {"subject": one.subject, "state": one.state.value, "message": one.message, "hint": one.hint}


async def dead_letters(
    context: Context, *, kind: str, source: str | None, prefix: str, after: str, limit: int
) -> dict[str, Any]:
    """Return a page of what needs a decision, whether there are more, and what was dropped."""
    if kind and kind not in set(LetterKind):
        raise ConfigurationError(f"--kind: unknown kind {kind!r}", hint=f"one of {', '.join(LetterKind)}")
    if context.store is None:
        return {"letters": [], "more": False, "dropped": []}
    wanted = LetterFilter(LetterKind(kind) if kind else None, source, prefix, after)
    try:
        found = await context.store.dead_letters(wanted, limit=limit + 1)
    except ValueError as error:
        raise ConfigurationError(f"--after: {error}") from None
    dropped = await context.store.dropped_letters()
    return {
        "letters": [{**one._asdict(), "at": iso(one.at)} for one in found[:limit]],
        "more": len(found) > limit,
        "dropped": [{**one._asdict(), "last_at": iso(one.last_at)} for one in dropped],
    }


async def dead_letter(context: Context, *, letter: str) -> dict[str, Any]:
    """Return one dead letter, with the body that was received: as text where it is UTF-8, else in hexadecimal."""
    store = context.present_store
    found = await store.dead_letter(letter)
    if found is None:
        raise ConfigurationError(f"there is no dead letter {letter[:80]!r}", hint="see `cdn-listener dead-letters`")
    body = await store.dead_letter_body(letter)
    shown: dict[str, Any] = {**found._asdict(), "at": iso(found.at), "body": None, "body_hex": None}
    if body is not None:
        try:
            shown["body"] = body.decode()
        except UnicodeDecodeError:
            shown["body_hex"] = body.hex()
    return shown


async def decide(context: Context, *, subject: str | None, retrying: bool) -> int:
    """Retry or discard one dead letter, or all; return how many."""
    store = context.present_store
    return await (store.retry(subject) if retrying else store.discard(subject))


async def cancel(
    context: Context, *, site: str | None, target: str | None, prefix: str | None, reason: str
) -> dict[str, int]:
    """Drop what is stale without a refresh; return how many URLs, and how many requests can no longer be stopped."""
    where = cancelled_places(context.settings, site=site, target=target, prefix=prefix)
    controls = Controls(context.present_store)
    count = sum([await controls.cancel(place, reason=reason) for place in where])
    return {"cancelled": count, "requests_under_way": await controls.under_way(where)}


def cancelled_places(settings: Settings, *, site: str | None, target: str | None, prefix: str | None) -> list[Place]:
    """Return what `cancel` is about."""
    where = places(settings, site=site, target=target)
    return where if prefix is None else prefixes(settings, prefix, site=site, target=target)


async def requested(context: Context, *, wanted: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return what became of requests; each has ``target``, ``url`` and ``scope``."""
    urls = [RequestedUrl(one["target"], one["url"], Scope[one["scope"]]) for one in wanted]
    return await plain_outcomes(context.present_store, urls)


async def record(store: Store, wanted: Sequence[RequestedUrl], *, urgent: bool, reason: str | None) -> None:
    """Record requests of people."""
    inputs = [NeedInput(one.target, one.url, one.scope) for one in wanted]
    await store.request(inputs, urgent=urgent, reason=reason)


async def plain_outcomes(
    store: Store, wanted: Sequence[RequestedUrl], pipeline: Pipeline | None = None
) -> list[dict[str, Any]]:
    """Return what became of each as plain data."""
    return [
        {
            "url": one.wanted.url,
            "target": one.wanted.target,
            "scope": one.wanted.scope.name,
            "state": one.state,
            "reason": one.reason,
            "task_id": one.task_id,
        }
        for one in await outcomes(store, wanted, pipeline)
    ]


_READING: Final = (status, quota, attempts, actions, unsettled, requested, check, dead_letters, dead_letter)
_WRITING: Final = (impose, confirm_deletions, end, request, decide, cancel)
HANDLERS: Final = {handler.__name__: handler for handler in (*_READING, *_WRITING)}
"""By the name in a command's request."""
WRITING: Final = frozenset(handler.__name__ for handler in _WRITING)
"""Those that change the state, so that a request without a response must not be repeated."""
