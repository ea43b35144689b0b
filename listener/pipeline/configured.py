"""
The configuration compared with the store: what was renamed, moved or removed (promise 11).

Needs of URLs that no site serves any more, as after a changed base URL, get the URLs that the same objects have now
(:func:`reroute`). What is left, and the index and needs of names that are not configured, is reported with the command
that repairs it (:func:`left_over`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote

import structlog

from listener.change import Change, ChangeKind
from listener.configuration import is_postgres
from listener.contracts import Target
from listener.errors import KeyRejected, StoreError
from listener.plugins import sites_of
from listener.refresh import Scope
from listener.router.forms import root_of
from listener.router.routing import Sites
from listener.settings import Settings, Site
from listener.store import Store
from listener.store.orphans import NamedRows, Orphans, UnservedNeed
from listener.text import counted

__all__ = ["ComparedConfiguration", "LeftOver", "left_over", "reroute"]

log = structlog.get_logger()

LOOK_SECONDS = 60.0
"""How often to see whether what was reported is repaired."""
LOOKED_AT = 1_000
"""Needs of one target that one look reads."""


class LeftOver(NamedTuple):
    """Something that the store keeps and the configuration does not name."""

    what: str
    remedy: str
    """The commands that repair it."""


class ComparedConfiguration:
    """The configuration of a pipeline, compared with its store at the start, and again while something is left over."""

    def __init__(self, store: Store, settings: Settings, targets: Mapping[str, Target]) -> None:
        """Compare nothing yet."""
        self._parts = store, settings, targets
        self.found: Sequence[LeftOver] = ()
        """What the store keeps and the configuration does not name."""

    async def start(self) -> None:
        """Reroute needs, and log what is left over; a store that fails is reported elsewhere."""
        try:
            await reroute(*self._parts)
            self.found = await left_over(*self._parts)
        except StoreError as error:
            log.warning("configuration.not_compared", error=str(error), hint=error.hint)
        for one in self.found:
            log.warning("configuration.left_over", what=one.what, remedy=one.remedy)

    async def follow(self) -> None:
        """See, for ever, whether what was left over is repaired."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.found:
                with suppress(StoreError):
                    self.found = await left_over(*self._parts)


async def left_over(store: Store, settings: Settings, targets: Mapping[str, Target]) -> list[LeftOver]:
    """
    Return what the store keeps of sources, targets and URLs that are not configured, each with its remedy.

    Nothing of a store that instances share: the configuration of another one may name it.
    """
    if _may_be_shared(settings):
        return []
    orphans = Orphans(store)
    sources, unknown = await orphans.sources(settings.sources), await orphans.targets(settings.targets)
    found = [await _source(store, settings, one, is_only=len(sources) == 1) for one in sources]
    found += [_target(settings, one, is_only=len(unknown) == 1) for one in unknown]
    sites = sites_of(settings, targets)
    for target in settings.targets:
        needs = await _unserved(orphans, sites, target)
        if needs:
            prefix = root_of(needs[0].url)
            count = f"{len(needs)} or more URLs" if len(needs) >= LOOKED_AT else counted(len(needs), "stale URL")
            what = f"target {target}: {count} below {prefix}, which no site serves: they are still refreshed"
            remedy = f"add the base URL again, or: cdn-listener cancel --prefix {prefix} --reason 'not served any more'"
            found.append(LeftOver(what, remedy))
    return found


def _may_be_shared(settings: Settings) -> bool:
    """Return whether other instances, also such as are stopped, may use the store with another configuration."""
    return is_postgres(settings.store.url)


async def _source(store: Store, settings: Settings, one: NamedRows, *, is_only: bool) -> LeftOver:
    unseeded = [name for name in settings.sources if not await store.seeded(name)]
    new = unseeded or list(settings.sources)
    what = f"source {one.name} is not configured: the store keeps its index of {counted(one.rows, 'object')}"
    return LeftOver(what, _remedy("source", one.name, new if is_only or unseeded else []))


def _target(settings: Settings, one: NamedRows, *, is_only: bool) -> LeftOver:
    what = f"target {one.name} is not configured: its {counted(one.rows, 'stale URL')} cannot be sent"
    return LeftOver(what, _remedy("target", one.name, list(settings.targets) if is_only else []))


def _remedy(kind: str, old: str, names: Sequence[str]) -> str:
    new = names[0] if len(names) == 1 else "NEW"
    return (
        f"if it was renamed: stop the daemon, cdn-listener store rename {kind} {old} {new}; if it was removed:"
        f" cdn-listener store forget {kind} {old}"
    )


async def _unserved(orphans: Orphans, sites: Sites, target: str) -> list[UnservedNeed]:
    bases = [base for site in sites.behind([target]) for base in sites.bases(site)]
    found = await orphans.unserved(target, bases, limit=LOOKED_AT)
    return [need for need in found if sites.of(target, need.url) is None]


async def reroute(store: Store, settings: Settings, targets: Mapping[str, Target], *, is_trial: bool = False) -> int:
    """
    Give needs that no site serves any more the URLs that the same objects have now; return how many got some.

    Which object a need was for is found by the longest end of its path that the index knows below a site of the same
    target. One that the index does not know (it was deleted) keeps its path, where that target has one base URL.
    A trial changes nothing, and counts up to :data:`LOOKED_AT` of each target. Nothing is rerouted in a store that
    instances share: a site of another one may serve these URLs.
    """
    if _may_be_shared(settings):
        return 0
    orphans, sites, moved = Orphans(store), sites_of(settings, targets), 0
    for target in settings.targets:
        while needs := await _unserved(orphans, sites, target):
            moves = [(need, found) for need in needs if (found := await _addresses(store, sites, target, need))]
            moved += len(moves)
            if not is_trial:
                await orphans.move(moves)
            if is_trial or len(needs) < LOOKED_AT or not moves:
                break
    if moved and not is_trial:
        log.warning("configuration.rerouted", needs=moved)
    return moved


async def _addresses(store: Store, sites: Sites, target: str, need: UnservedNeed) -> list[tuple[str, str]]:
    """Return the target and URL of each address that the object of a need has now."""
    path = need.url[len(root_of(need.url)) :].partition("?")[0]
    served = sites.behind([target])
    ends = [path, *(path[at + 1 :] for at, char in enumerate(path[:-1]) if char == "/")]
    for end in ends if path else ():
        for site in served:
            key = site.prefix + unquote(end, errors="surrogateescape")
            is_known = await _is_known(store, site, key)
            if is_known and (found := _routed(sites, site, target, key, need.scope)):
                return found
    bases = [base for site in served for base in site.base_urls]
    if len(bases) != 1:
        return []
    url = root_of(bases[0]) + path
    return [(target, url if url.startswith(bases[0]) else bases[0] + path)]


async def _is_known(store: Store, site: Site, key: str) -> bool:
    if key.endswith("/") or not key:
        return bool(await store.directories(site.source, key))
    return key in await store.objects(site.source, [key])


def _routed(sites: Sites, site: Site, target: str, key: str, scope: int) -> list[tuple[str, str]]:
    is_subtree = scope == Scope.SUBTREE
    try:
        needs = sites.route(Change(site.source, key, ChangeKind.SUBTREE if is_subtree else ChangeKind.CONTENT))
    except KeyRejected:
        return []
    return [(target, one.url) for one in needs if one.target == target and (one.scope is Scope.SUBTREE) == is_subtree]
