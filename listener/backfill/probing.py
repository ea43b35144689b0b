"""One URL or key as it is in each place: the storage, the index, the origin, and each edge with its verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from listener.backfill.choosing import Choice, choose_listing
from listener.change import ChangeKind, Fingerprint, key_to_bytes
from listener.clock import Clock
from listener.contracts import IndexView
from listener.edge.answers import Answer
from listener.edge.prober import NoAnswer, Probe, Prober, origin_place
from listener.edge.verdict import FRESH, STALE, UNKNOWN, Expected, Verdict, judge, worst
from listener.errors import ConfigurationError, KeyRejected, ListenerError
from listener.refresh import Scope
from listener.router import Router
from listener.router.routing import normal_or_refused, served_by
from listener.settings import Settings, Site
from listener.settings.edge import BY_NAME, Edge

__all__ = ["Asked", "Comparison", "Place", "asked_of_key", "asked_of_url", "compare", "prober_for"]

MOST_URLS: Final = 20
"""Of one key; each is requested at each edge."""


class Asked(NamedTuple):
    """One URL to compare."""

    url: str
    base: str
    """The base URL that it is below."""
    site: Site
    keys: Sequence[str]
    """The keys that it may stand for, the likeliest first; none where it has a query that the site does not name."""


@dataclass(slots=True)
class Place:
    """What one place holds or serves."""

    name: str
    state: str = ""
    """``fresh``, ``stale`` or ``unknown`` of an origin or edge; else empty."""
    reason: str = ""
    status: int | None = None
    size_bytes: int | None = None
    modified_at: float | None = None
    tag: str | None = None
    age_seconds: int | None = None
    evidence: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Comparison:
    """One URL in all places."""

    url: str
    source: str
    key: str
    places: list[Place] = field(default_factory=list)
    state: str = UNKNOWN
    """The worst of the edges."""
    remedy: str = ""
    answered: bool = False
    """Whether any edge answered."""


def asked_of_url(settings: Settings, text: str) -> list[Asked]:
    """Return the URL with its site. Raise :class:`~listener.errors.ConfigurationError` where no site serves it."""
    served = served_by(settings.sites, normal_or_refused(text))
    return [Asked(served.url, served.base, served.site, served.keys)]


def asked_of_key(sites: Sequence[Site], keys: Mapping[str, str]) -> list[Asked]:
    """
    Return the URLs of a key (by source), at most :data:`MOST_URLS`.

    Raises :class:`~listener.errors.ConfigurationError` where there are none.
    """
    router, found = Router(sites), dict[str, Asked]()
    try:
        for source, key in keys.items():
            for need, _ in router.explain(source, key):
                if need.scope in (Scope.EXACT, Scope.ALL_PARAMS):
                    site = sites[need.site]
                    base = next(one for one in site.base_urls if need.url.startswith(one))
                    found.setdefault(need.url, Asked(need.url, base, site, [key]))
    except KeyRejected as error:
        raise ConfigurationError(f"{next(iter(keys.values()))}: rejected: {error}", hint=error.hint) from error
    if not found:
        raise ConfigurationError(
            f"{next(iter(keys.values()), '')}: no site serves it", hint="for the rules: cdn-listener plan --explain KEY"
        )
    return list(found.values())[:MOST_URLS]


def prober_for(settings: Settings, *, edges: Sequence[Edge] = (), clock: Clock) -> Prober:
    """Return a prober that reaches the sites of the settings, their origins, and these addresses besides theirs."""
    return Prober(
        sites=[base for site in settings.sites for base in site.base_urls],
        origins=[site.origin_url for site in settings.sites if site.origin_url],
        stated=[*settings.verifier.edge.addresses, *edges],
        per_minute=settings.verifier.edge.per_minute,
        clock=clock,
    )


async def compare(
    settings: Settings, index: IndexView | None, prober: Prober, asked: Asked, *, edges: Sequence[Edge], clock: Clock
) -> Comparison:
    """
    Compare a URL in the storage, the index, the origin and at each edge; nothing is changed.

    Args:
        settings: name the sources.
        index: what is known; None where there is no state file.
        prober: has been entered.
        asked: the URL.
        edges: where to request it, besides where its name leads.
        clock: the time of day.
    """
    source = asked.site.source
    held, problem = await _held(settings, asked)
    known = dict(await index.objects(source, asked.keys)) if index is not None and asked.keys else {}
    key = next((one for one in asked.keys if one in held or one in known), next(iter(asked.keys), ""))
    found = Comparison(asked.url, source, key)
    found.places += [_stored("storage", held.get(key), problem or "it is not there")]
    found.places += [_stored("index", known.get(key), "no state file" if index is None else "it is not known")]
    expected = _expected(held.get(key), known.get(key), is_known=not problem)
    origin = await _origin(prober, asked, expected, found, clock)
    probes = [await prober.probe(asked.url, expected, edge=edge, origin=origin) for edge in (BY_NAME, *edges)]
    found.places += map(_probed, probes)
    found.answered = any(one.answer is not None for one in probes)
    found.state = worst([one.verdict for one in probes]).state
    found.remedy = _remedy(found, same=held.get(key) == known.get(key) or bool(problem) or index is None)
    return found


async def _held(settings: Settings, asked: Asked) -> tuple[dict[str, Fingerprint], str]:
    """Return which of the keys the storage holds, and why that could not be read."""
    if not asked.keys:
        return {}, "the site names no query like this one"

    def read() -> dict[str, Fingerprint]:
        found: dict[str, Fingerprint] = {}
        for key in asked.keys:
            with closing(choose_listing(settings, asked.site.source, Choice(prefix=key))) as listing:
                for change in listing.changes():
                    if change.key == key and change.kind is ChangeKind.CONTENT:
                        found[key] = change.fingerprint or Fingerprint()
                    if key_to_bytes(change.key) >= key_to_bytes(key):
                        break
        return found

    try:
        return await asyncio.to_thread(read), ""
    except ListenerError as error:
        return {}, f"cannot be read: {error}"


def _expected(held: Fingerprint | None, known: Fingerprint | None, *, is_known: bool) -> Expected:
    """Return what visitors should get: what the storage holds, or where it cannot be read, the index."""
    now = held if is_known else known
    if now is not None:
        return Expected(now, changed_at=None if now.mtime_ns is None else now.mtime_ns / 1e9)
    return Expected(known, is_deleted=True) if is_known else Expected()


async def _origin(prober: Prober, asked: Asked, expected: Expected, found: Comparison, clock: Clock) -> Answer | None:
    if not asked.site.origin_url:
        return None
    url, host = origin_place(asked.site.origin_url, asked.url, asked.base)
    try:
        answer = await prober.ask(url, host=host)
    except NoAnswer as error:
        found.places.append(Place("origin", UNKNOWN, f"no answer: {error}"))
        return None
    found.places.append(_served("origin", answer, judge(expected, answer, now=clock.now())))
    return answer


def _stored(name: str, held: Fingerprint | None, absent: str) -> Place:
    if held is None:
        return Place(name, reason=absent)
    modified_at = None if held.mtime_ns is None else held.mtime_ns / 1e9
    return Place(name, size_bytes=held.size_bytes, modified_at=modified_at, tag=held.etag)


def _probed(probe: Probe) -> Place:
    name = "edge" if probe.edge == BY_NAME else f"edge {probe.edge}"
    if probe.answer is None:
        return Place(name, probe.verdict.state, probe.verdict.reason)
    return _served(name, probe.answer, probe.verdict)


def _served(name: str, answer: Answer, verdict: Verdict) -> Place:
    return Place(
        name,
        verdict.state,
        verdict.reason,
        answer.status,
        answer.length,
        answer.modified_at,
        answer.tag,
        answer.age_seconds,
        answer.evidence,
    )


def _remedy(found: Comparison, *, same: bool) -> str:
    """Return what to do, empty where nothing is wrong."""
    origin = next((one for one in found.places if one.name == "origin"), None)
    if found.state == FRESH:
        return ""
    if origin is not None and origin.state == STALE:
        return "the origin serves the old copy: bring it up to date first; a refresh before that fetches the old copy"
    if found.state == STALE:
        if not same:
            return "the index differs from the storage: cdn-listener backfill --mode repair refreshes what was missed"
        return f"refresh it: cdn-listener refresh {found.url}"
    return ""


def as_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data."""
    places = [
        {
            "place": one.name,
            "state": one.state or None,
            "reason": one.reason,
            "status": one.status,
            "size_bytes": one.size_bytes,
            "modified_at": one.modified_at,
            "etag": one.tag,
            "age_seconds": one.age_seconds,
            "evidence": [{"name": name, "value": value} for name, value in one.evidence],
        }
        for one in found.places
    ]
    return {
        "url": found.url,
        "source": found.source,
        "key": found.key,
        "state": found.state,
        "remedy": found.remedy,
        "places": places,
    }
