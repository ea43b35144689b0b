"""What people request: of which targets, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from listener.errors import ConfigurationError
from listener.plugins import sites_of
from listener.refresh import Attempt, AttemptState, Scope, directory_of
from listener.router.routing import Sites, normal_or_refused, served_by
from listener.settings import Settings, nearest
from listener.store import Store
from listener.store.staleness import scope_word

if TYPE_CHECKING:
    from listener.pipeline.pipeline import Pipeline

__all__ = ["RequestOutcome", "RequestedUrl", "outcomes", "requested_urls"]

_ACTIVE = (
    AttemptState.HELD,
    AttemptState.SENDING,
    AttemptState.UNKNOWN,
    AttemptState.ACCEPTED,
    AttemptState.FAILED,
    AttemptState.UNCONFIRMED,
    AttemptState.COMPLETE,
)


class RequestedUrl(NamedTuple):
    """What a person requested: one URL of one target."""

    target: str
    url: str
    scope: Scope


class RequestOutcome(NamedTuple):
    """What became of it."""

    wanted: RequestedUrl
    state: str
    """``complete``, ``accepted``, ``sending``, ``deferred``, ``failed``, ``parked`` or ``unconfirmed``; ``pending``
    while a daemon may send it any moment."""
    reason: str = ""
    task_id: str = ""


def requested_urls(settings: Settings, urls: Iterable[str], scope: Scope, *, target: str | None) -> list[RequestedUrl]:
    """
    Return what to request of which target: of every layer of a URL's site, or of one target.

    Raises :class:`~listener.errors.ConfigurationError` for a URL that no site serves, for a directory above a site's
    blast radius, and for an unknown target.
    """
    if target is not None and target not in settings.targets:
        raise ConfigurationError(f"there is no target {target!r}", hint=nearest(target, settings.targets))
    sites = sites_of(settings)
    found = [one for url in urls for one in _by_target(settings, sites, normal_or_refused(url), scope, target)]
    return list(dict.fromkeys(found))


def _by_target(settings: Settings, sites: Sites, url: str, scope: Scope, target: str | None) -> list[RequestedUrl]:
    """Return what to request of which target: every layer of the site with the longest matching base URL."""
    if scope is Scope.SUBTREE and ("?" in url or not url.endswith("/")):
        raise ConfigurationError(
            f"{url}: a directory's URL ends with / and has no query", hint=f"write {url.partition('?')[0]}/"
        )
    site = served_by(settings.sites, url, target=target).site
    names = [target] if target is not None else list(site.targets)
    if scope is Scope.SUBTREE and not all(sites.router.depth_floor(name, sites.address(name, url)) for name in names):
        raise ConfigurationError(
            f"{url}: is above the blast radius of its site (min_directory_depth = {site.min_directory_depth})",
            hint="refresh the directories below it, or lower that setting",
        )
    return [RequestedUrl(name, *sites.asked(name, url, scope)) for name in names]


async def outcomes(
    store: Store, wanted: Sequence[RequestedUrl], pipeline: Pipeline | None = None
) -> list[RequestOutcome]:
    """Return what became of each; ``pipeline``, where one ran here, knows why something was deferred."""
    active = {attempt.id: attempt for attempt in await store.attempts_in(*_ACTIVE, limit=100_000)}
    return [await _outcome(store, one, active, pipeline) for one in wanted]


async def _outcome(
    store: Store, one: RequestedUrl, active: Mapping[int, Attempt], pipeline: Pipeline | None
) -> RequestOutcome:
    rows = await store.explain(one.url)
    wanted = one.target, one.url, scope_word(one.scope)
    row = next((row for row in rows if (row["target"], row["url"], row["scope"]) == wanted), None)
    if row is None:
        return RequestOutcome(one, "complete", task_id=await _last(store, one, "task_id"))
    if row["state"] in ("parked", "unconfirmed"):
        return RequestOutcome(one, row["state"], row["reason"] or await _last(store, one, "error"))
    mine = active.get(row["attempt"])
    if mine is not None:
        return await _in_flight(store, one, mine)
    if pipeline is None:
        return RequestOutcome(one, "pending")
    return RequestOutcome(one, "deferred", _why(one, pipeline))


async def _in_flight(store: Store, one: RequestedUrl, attempt: Attempt) -> RequestOutcome:
    match attempt.state:
        case AttemptState.ACCEPTED | AttemptState.COMPLETE:
            return RequestOutcome(one, attempt.state.value, task_id=attempt.task_id or "")
        case AttemptState.FAILED | AttemptState.UNCONFIRMED:
            return RequestOutcome(one, attempt.state.value, await _last(store, one, "error"))
        case _:
            return RequestOutcome(one, "sending")


async def _last(store: Store, one: RequestedUrl, column: str) -> str:
    history = await store.history(limit=1, url=one.url)
    return str(history[0][column] or "") if history else ""


def _why(one: RequestedUrl, pipeline: Pipeline) -> str:
    place = directory_of(one.url)
    for engine in pipeline.engines:
        if one.target in engine.account.targets:
            if engine.account.closed_reason:
                return engine.account.closed_reason
            found = (left.reason for left in engine.outcome.deferred if left.directory_url == place)
            return next(found, "the quota is used up")
    return "no account can send it"
