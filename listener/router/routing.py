"""The router: one change in, the needs that it makes out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from listener.change import Change, ChangeKind, key_to_text
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.router.addresses import Address, AddressRules, addresses_of, directories_of, plain_names, spell
from listener.router.globs import Filter
from listener.settings import Site
from listener.urls import decode_path

__all__ = ["RoutedNeed", "Router"]

MAX_FOLDERS: Final = 50_000
"""Folders whose routes are remembered, at about 600 bytes each; then all are forgotten and learnt again."""

_SUBTREE, _SUBTREE_DELETED = ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED


class RoutedNeed(NamedTuple):
    """A URL of a target that a change made stale."""

    target: str
    url: str
    scope: Scope
    site: int
    """Position of the site in the configuration."""
    layer: int
    """Position of the target in the site's layer order; the cache next to the origin is 0."""


class _Place(NamedTuple):
    """Where a site's keys are served: one base URL of one target."""

    target: str
    base: str
    layer: int


class _Lane(NamedTuple):
    """A site, prepared."""

    number: int
    site: Site
    filter: Filter
    takes_all: bool
    places: tuple[_Place, ...]
    tails: tuple[str, ...]
    """What follows a path: nothing, and each query variant."""
    scope: Scope
    rules: AddressRules
    plain: re.Pattern[str]
    """Matches names that have one spelling."""


class _Route(NamedTuple):
    """What a lane does with the names of one folder."""

    lane: _Lane
    folder: str
    """The folder as the site sees it, prefix cut off."""
    heads: tuple[tuple[str, str, int], ...]
    """Target, folder URL, layer; empty where names need all the rules."""
    room_bytes: int
    """How long an encoded name may be."""


class Router:
    """
    Finds the needs of a change; pure, and quick for folders that it has seen.

    A change belongs to the sites whose ``source`` is its root. Keys are parked, by
    :class:`~listener.errors.KeyRejected`, only where a site would take them.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        """Prepare these sites."""
        self._lanes: dict[str, list[_Lane]] = {}
        for number, site in enumerate(sites):
            self._lanes.setdefault(site.source, []).append(_lane(number, site))
        self._folders: dict[tuple[str, str], tuple[_Route, ...]] = {}

    def route(self, change: Change) -> list[RoutedNeed]:
        """
        Return the needs that the change makes, inner layers first; none where no site takes the key.

        Raises :class:`~listener.errors.KeyRejected` where the key can never be a URL of its own.
        """
        root, key, kind = change[:3]
        if kind is _SUBTREE or kind is _SUBTREE_DELETED:
            return self._route_subtree(root, key)
        cut = key.rfind("/") + 1
        routes = self._folders.get((root, key[:cut]))
        if routes is None:
            routes = self._learn(root, key[:cut])
        name = key[cut:]
        if len(routes) == 1:
            return _needs(routes[0], name)
        return _distinct(need for route in routes for need in _needs(route, name))

    def explain(self, root: str, key: str) -> list[tuple[RoutedNeed, str]]:
        """
        Return every address of a key, or of a folder that ends with ``/``, each with the rule that made it.

        Where an object may have the very name of the folder, both. Raises as :meth:`route` does.
        """
        found: dict[tuple[str, str, Scope], tuple[RoutedNeed, str]] = {}
        for lane in self._lanes.get(root, ()):
            addresses = _subtree_addresses(lane, key) if key.endswith("/") else []
            below = key[len(lane.site.prefix) :]
            if key.startswith(lane.site.prefix) and lane.filter.takes(below):
                addresses = [*addresses_of(lane.rules, below), *addresses]
            for need, rule in _placed(lane, addresses):
                found.setdefault((need.target, need.url, need.scope), (need, rule))
        return list(found.values())

    def key_prefixes(self, target: str | Collection[str], directory_url: str) -> list[tuple[str, str]]:
        """
        Return the storage subtrees whose objects lie under this directory URL: (root, key prefix) each.

        Given several targets (all of one account), what any of them serves there.
        """
        found: dict[tuple[str, str], None] = {}
        for lane, place in self._places(target):
            if directory_url.startswith(place.base):
                below = key_to_text(decode_path(directory_url[len(place.base) :]))
                found[lane.site.source, lane.site.prefix + below] = None
            elif place.base.startswith(directory_url):
                found[lane.site.source, lane.site.prefix] = None
        return list(found)

    def depth_floor(self, target: str | Collection[str], url: str) -> bool:
        """
        Return whether this directory URL may be refreshed: below every site that it touches, deep enough for each.

        False for a URL above any site's base and for one that touches no site of the target. Given several
        targets, the sites of all count: on one account a refresh evicts what any of them serves there.
        """
        depths = [
            url.count("/", len(place.base)) - lane.site.min_directory_depth if url.startswith(place.base) else -1
            for lane, place in self._places(target)
            if url.startswith(place.base) or place.base.startswith(url)
        ]
        return bool(depths) and min(depths) >= 0

    def _places(self, target: str | Collection[str]) -> list[tuple[_Lane, _Place]]:
        targets = (target,) if isinstance(target, str) else target
        lanes = (lane for lanes in self._lanes.values() for lane in lanes)
        return [(lane, place) for lane in lanes for place in lane.places if place.target in targets]

    def _learn(self, root: str, folder: str) -> tuple[_Route, ...]:
        if len(self._folders) >= MAX_FOLDERS:
            self._folders.clear()
        lanes = self._lanes.get(root, ())
        routes = tuple(_folder_route(lane, folder) for lane in lanes if folder.startswith(lane.site.prefix))
        self._folders[root, folder] = routes
        return routes

    def _route_subtree(self, root: str, key: str) -> list[RoutedNeed]:
        key = key if not key or key.endswith("/") else key + "/"
        lanes = self._lanes.get(root, ())
        return _distinct(need for lane in lanes for need, _ in _placed(lane, _subtree_addresses(lane, key)))


def _lane(number: int, site: Site) -> _Lane:
    places = tuple(_Place(name, base, layer) for layer, name in enumerate(site.targets) for base in site.base_urls)
    tails = () if site.all_params else tuple(f"?{query}" for query in site.query_variants if query)
    scope = Scope.ALL_PARAMS if site.all_params else Scope.EXACT
    keep = Filter(site.include, site.exclude)
    rules = AddressRules.of(site, longest_tail=max(map(len, tails), default=0))
    plain = plain_names(site.spellings)
    return _Lane(number, site, keep, keep.takes_all, places, ("", *tails), scope, rules, plain)


def _folder_route(lane: _Lane, folder: str) -> _Route:
    below = folder[len(lane.site.prefix) :]
    try:
        encoded, *others = spell(below, lane.rules.spellings)
    except KeyRejected:
        return _Route(lane, below, heads=(), room_bytes=0)
    if others or lane.rules.also:
        return _Route(lane, below, heads=(), room_bytes=0)
    heads = tuple((place.target, place.base + encoded, place.layer) for place in lane.places)
    return _Route(lane, below, heads, lane.rules.room_bytes - len(encoded))


def _needs(route: _Route, name: str) -> list[RoutedNeed]:
    lane, folder, heads, room_bytes = route
    number, _, keep, takes_all, _, tails, scope, rules, plain = lane
    if not takes_all and not keep.takes(folder + name):
        return []
    if heads and name not in rules.index_documents and not name.endswith(rules.strip_suffixes):
        encoded, *others = (name,) if plain.fullmatch(name) else spell(name, rules.spellings)
        if not others and len(encoded) <= room_bytes:
            if len(tails) == 1:
                return [RoutedNeed(target, head + encoded, scope, number, layer) for target, head, layer in heads]
            return [
                RoutedNeed(target, head + encoded + tail, scope, number, layer)
                for target, head, layer in heads
                for tail in tails
            ]
    return [need for need, _ in _placed(lane, addresses_of(rules, folder + name))]


def _placed(lane: _Lane, addresses: Sequence[Address]) -> Iterator[tuple[RoutedNeed, str]]:
    """Yield the need of each address at each place, with the rule that made it."""
    for target, base, layer in lane.places:
        for path, rule, directory in addresses:
            if directory:
                yield RoutedNeed(target, base + path, Scope.SUBTREE, lane.number, layer), rule
                continue
            for tail in lane.tails:
                why = f"{rule}; query_variants: {tail[1:]}" if tail else rule
                yield RoutedNeed(target, base + path + tail, lane.scope, lane.number, layer), why


def _subtree_addresses(lane: _Lane, key: str) -> list[Address]:
    prefix = lane.site.prefix
    if key.startswith(prefix):
        below = key[len(prefix) :]
        return directories_of(lane.rules, below) if lane.filter.takes_below(below) else []
    return directories_of(lane.rules, "") if prefix.startswith(key) else []


def _distinct(needs: Iterable[RoutedNeed]) -> list[RoutedNeed]:
    """Return the needs, each URL and scope of a target once: of several sites, the first one's."""
    found: dict[tuple[str, str, Scope], RoutedNeed] = {}
    for need in needs:
        found.setdefault((need.target, need.url, need.scope), need)
    return list(found.values())
