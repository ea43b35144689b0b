"""
Which needs a change makes, which site serves a URL, and what its settings say.

The :class:`Router` takes one change and returns its needs. :class:`Sites` answers by URL: the site and its hours, which
forbid directory refreshes while its origin can bear no wave of fetches (:func:`closed_until`). What no site serves is
refused with the reason (:func:`served_by`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from listener.change import Change, ChangeKind, key_to_text
from listener.errors import ConfigurationError, KeyRejected
from listener.refresh import FolderInputs, NeedInput, Scope
from listener.router.addresses import Address, AddressRules, addresses_of, directories_of, plain_names, spell
from listener.router.forms import Forms, root_of
from listener.router.globs import Filter
from listener.router.hours import closed_until
from listener.settings import Site
from listener.urls import decode_path, normal_url

__all__ = [
    "Closed",
    "RoutedNeed",
    "Router",
    "Served",
    "Sites",
    "keys_at",
    "normal_or_refused",
    "root_of",
    "served_by",
    "share_name",
]

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
    """Matches names that have one address and one spelling."""
    forms: Forms
    changed: re.Pattern[str] | None
    """Found in names whose address at a target is not their URL."""


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

    def __init__(self, sites: Sequence[Site], targets: Mapping[str, object] = MappingProxyType({})) -> None:
        """Prepare these sites; ``targets`` (or their classes) are asked for the addresses of URLs."""
        self._lanes: dict[str, list[_Lane]] = {}
        forms = Forms(sites, targets)
        for number, site in enumerate(sites):
            self._lanes.setdefault(site.source, []).append(_lane(number, site, forms))
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

    def plain(self, root: str, folder: str) -> tuple[re.Pattern[str], int, list[RoutedNeed]] | None:
        """
        Return what becomes of a folder's plain names, None where its sites have to look at each name.

        That is what matches them, how long one may be, and the needs of the empty name: any other follows their URLs.
        """
        routes = self._folders.get((root, folder))
        if routes is None:
            routes = self._learn(root, folder)
        lanes = [route.lane for route in routes]
        if any(lane.plain != lanes[0].plain or not lane.takes_all or len(lane.tails) > 1 for lane in lanes):
            return None
        if not routes or not all(route.heads for route in routes):
            return None
        needs = (need for route in routes for need in _needs(route, ""))
        return lanes[0].plain, min(route.room_bytes for route in routes), _distinct(needs)

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


def _lane(number: int, site: Site, forms: Forms) -> _Lane:
    each = ((name, base, layer) for layer, name in enumerate(site.targets) for base in site.base_urls)
    places = tuple(dict.fromkeys(_Place(name, forms.base(name, base), layer) for name, base, layer in each))
    tails = () if site.all_params else tuple(f"?{query}" for query in site.query_variants if query)
    scope = Scope.ALL_PARAMS if site.all_params else Scope.EXACT
    keep = Filter(site.include, site.exclude)
    rules = AddressRules.of(site, longest_tail=max(map(len, tails), default=0))
    changed = forms.changed(site.targets, tails)
    plain = plain_names(rules, changed)
    return _Lane(number, site, keep, keep.takes_all, places, ("", *tails), scope, rules, plain, forms, changed)


def _folder_route(lane: _Lane, folder: str) -> _Route:
    below = folder[len(lane.site.prefix) :]
    try:
        encoded, *others = spell(below, lane.rules.spellings)
    except KeyRejected:
        return _Route(lane, below, heads=(), room_bytes=0)
    if others or lane.rules.also or (lane.changed and any(_changes(lane, place, encoded) for place in lane.places)):
        return _Route(lane, below, heads=(), room_bytes=0)
    heads = tuple((place.target, place.base + encoded, place.layer) for place in lane.places)
    return _Route(lane, below, heads, lane.rules.room_bytes - len(encoded))


def _changes(lane: _Lane, place: _Place, encoded: str) -> bool:
    """Return whether what lies in a folder has another address at a place than its URL."""
    return lane.forms.nameable(place.target, place.base + encoded) != place.base + encoded


def _needs(route: _Route, name: str) -> list[RoutedNeed]:
    lane, folder, heads, room_bytes = route
    number, _, keep, takes_all, _, tails, scope, rules, *_ = lane
    if not takes_all and not keep.takes(folder + name):
        return []
    encoded = _only_spelling(lane, name) if heads else None
    if encoded is not None and len(encoded) <= room_bytes:
        if len(tails) == 1:
            return [RoutedNeed(target, head + encoded, scope, number, layer) for target, head, layer in heads]
        return [
            RoutedNeed(target, head + encoded + tail, scope, number, layer)
            for target, head, layer in heads
            for tail in tails
        ]
    return _distinct(need for need, _ in _placed(lane, addresses_of(rules, folder + name)))


def _only_spelling(lane: _Lane, name: str) -> str | None:
    """Return the encoded name where a lane serves it under that alone, else None."""
    if lane.changed is not None and lane.changed.search(name):
        return None
    if lane.plain.fullmatch(name):
        return name
    if name in lane.rules.index_documents or name.endswith(lane.rules.strip_suffixes):
        return None
    encoded, *others = spell(name, lane.rules.spellings)
    return None if others else encoded


def _placed(lane: _Lane, addresses: Sequence[Address]) -> Iterator[tuple[RoutedNeed, str]]:
    """Yield the need of each address at each place, with the rule that made it."""
    for target, base, layer in lane.places:
        for path, rule, directory in addresses:
            scope = Scope.SUBTREE if directory else lane.scope
            for tail in [""] if directory else lane.tails:
                why = f"{rule}; query_variants: {tail[1:]}" if tail else rule
                url = base + path + tail
                named = lane.forms.of(target, base, url, min_depth=lane.rules.min_depth)
                if named != url:
                    scope, why = Scope.EXACT, f"{why}; what begins so, since {target} cannot be asked for {url}"
                yield RoutedNeed(target, named, scope, lane.number, layer), why


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


def share_name(site: Site) -> str:
    """Return the name under which a site's share of the quota is kept."""
    return site.name or f"{site.source}:{site.prefix} {site.base_urls[0]}"


class Closed(NamedTuple):
    """The base URLs of sites whose hours forbid directory refreshes now."""

    bases: Sequence[str]
    until: float | None
    """When that ends for the first of them, in seconds since the epoch."""

    def holds(self, url: str) -> bool:
        """Return whether a refresh of this directory would refresh anything of such a site."""
        return any(url.startswith(base) or base.startswith(url) for base in self.bases)


class Sites:
    """The configured sites, with the router that serves them."""

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        time_zone: str = "UTC",
        targets: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Prepare these sites; ``time_zone`` is that of their hours, ``targets`` as for the router."""
        self._sites = tuple(sites)
        self._time_zone = time_zone
        self.router = Router(sites, targets)
        self._forms = Forms(sites, targets)
        self._bases = sorted(
            ((target, base, site) for site in sites for target in site.targets for base in site.base_urls),
            key=lambda one: -len(one[1]),
        )
        self._by_host: dict[tuple[str, str], list[tuple[str, Site]]] = {}
        self._with_hours = tuple(site for site in sites if site.directory_blackout)
        self._by_target: dict[str, list[int]] = {}
        for number, site in enumerate(sites):
            for target in site.targets:
                self._by_target.setdefault(target, []).append(number)
        for target, given, site in self._bases:
            base = self._forms.base(target, given)
            self._by_host.setdefault((target, root_of(base)), []).append((base, site))

    def route(self, change: Change) -> list[NeedInput]:
        """Return the needs that the change makes; raise :class:`~listener.errors.KeyRejected` like the router."""
        return [self._input(need) for need in self.router.route(change)]

    def folder(self, root: str, folder: str) -> FolderInputs | None:
        """Return the needs of a folder's plain names; None where each name is to be routed by itself."""
        if (plain := self.router.plain(root, folder)) is None:
            return None
        names, longest, needs = plain
        return FolderInputs(names, longest, tuple(map(self._input, needs)))

    def _input(self, need: RoutedNeed) -> NeedInput:
        site = self._sites[need.site]
        return NeedInput(need.target, need.url, need.scope, site.origin_delay_seconds, site.ignore_rewrites)

    def address(self, target: str, url: str) -> str:
        """Return the URL under which a target keeps this one, which any site serves or none."""
        url = self._forms.base(target, url)
        for base, site in self._by_host.get((target, root_of(url)), ()):
            if url.startswith(base):
                return self._forms.of(target, base, url, min_depth=site.min_directory_depth)
        return url

    def asked(self, target: str, url: str, scope: Scope) -> tuple[str, Scope]:
        """Return the address of a URL, and the scope of a need of it: what begins so is one copy of many."""
        address = self.address(target, url)
        return address, scope if address.endswith(url[len(root_of(url)) :]) else Scope.EXACT

    def addresses(self, url: str) -> list[str]:
        """Return the URL, and others under which a target keeps it."""
        return list(dict.fromkeys([url, *(address for _, address in self.other_addresses(url))]))

    def other_addresses(self, url: str) -> list[tuple[str, str]]:
        """Return the targets that keep a URL under another one, each with that."""
        kept = [(target, self.address(target, url)) for target in self._by_target]
        return [(target, address) for target, address in kept if address != url]

    def bases(self, site: Site) -> tuple[str, ...]:
        """Return a site's base URLs, and others under which its targets keep them."""
        return tuple(dict.fromkeys([*site.base_urls, *(base for _, base in self.other_bases(site))]))

    def other_bases(self, site: Site) -> list[tuple[str, str]]:
        """Return the targets of a site that keep a base URL under another one, each with that."""
        kept = [(target, self._forms.base(target, base)) for target in site.targets for base in site.base_urls]
        return list(dict.fromkeys((target, base) for target, base in kept if base not in site.base_urls))

    def of(self, target: str, url: str) -> Site | None:
        """Return the site with the longest base URL that this address starts with."""
        for base, site in self._by_host.get((target, root_of(url)), ()):
            if url.startswith(base):
                return site
        return None

    def behind(self, targets: Collection[str]) -> list[Site]:
        """Return the sites that any of these targets serves."""
        numbers = {number for target in targets for number in self._by_target.get(target, ())}
        return [self._sites[number] for number in sorted(numbers)]

    def inner_layers(self, target: str, url: str) -> Sequence[str]:
        """Return the targets that lie between this one and the origin of the site that this URL is of."""
        site = self.of(target, url)
        return () if site is None else site.targets[: site.targets.index(target)]

    def inner_targets(self) -> set[str]:
        """Return the targets that another one fetches from."""
        return {target for site in self._sites for target in site.targets[:-1]}

    def with_outer_layers(self, targets: Collection[str]) -> set[str]:
        """Return these targets and those that fetch from one of them."""
        found = set(targets)
        for site in self._sites:
            inner = [place for place, target in enumerate(site.targets) if target in targets]
            found.update(site.targets[min(inner) :] if inner else ())
        return found

    def targets_of(self, url: str) -> Sequence[str]:
        """Return the layers of the site with the longest base URL that this URL starts with; none where none has."""
        return next((site.targets for _, base, site in self._bases if url.startswith(base)), ())

    def targets_serving(self, url: str) -> Sequence[str]:
        """Return the same; raise :class:`~listener.errors.ConfigurationError` where no site serves the URL."""
        return served_by(self._sites, url).site.targets

    def closed(self, now: float) -> Closed:
        """Return where no directory may be refreshed at this hour."""
        found = [
            (base, until)
            for site in self._with_hours
            if (until := closed_until(site.directory_blackout, self._time_zone, now)) is not None
            for base in self.bases(site)
        ]
        return Closed(tuple(base for base, _ in found), min((until for _, until in found), default=None))

    @property
    def expand_limit(self) -> int:
        """Return the largest subtree that any site lets be refreshed object by object."""
        return max((site.expand_limit for site in self._sites), default=0)


_OTHER_SCHEME = {"http": "https", "https": "http"}


class Served(NamedTuple):
    """A URL below a site's base URL."""

    url: str
    base: str
    site: Site

    @property
    def keys(self) -> list[str]:
        """
        The keys that the URL may stand for, the likeliest first; none where it has a query that the site does not name.

        A folder's URL stands for its index documents; ``/about`` also for ``about.html`` where the site strips that.
        """
        path, mark, query = self.url[len(self.base) :].partition("?")
        if mark and not self.site.all_params and query not in self.site.query_variants:
            return []
        return keys_at(self.site, key_to_text(decode_path(path)))


def keys_at(site: Site, path: str) -> list[str]:
    """Return the keys that a site may serve at a decoded path below its base URL, the likeliest first."""
    key = site.prefix + path
    if not path or path.endswith("/"):
        return [key + name for name in site.index_documents]
    folders = [f"{key}/{name}" for name in site.index_documents] if site.strip_suffixes else []
    return [key, *(key + suffix for suffix in site.strip_suffixes), *folders]


def normal_or_refused(text: str) -> str:
    """Return a URL in normal form; raise :class:`~listener.errors.ConfigurationError` saying what is wrong with it."""
    try:
        return normal_url(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text}: is not a URL that can be refreshed: {error}", hint="write it as a browser requests it"
        ) from None


def served_by(sites: Sequence[Site], url: str, *, target: str | None = None) -> Served:
    """
    Return the longest base URL that this URL (in normal form) starts with, of any site or of one with this target.

    Raises :class:`~listener.errors.ConfigurationError` where there is none; the hint names the base URL that would
    match with the other scheme, or all of them.
    """
    bases = [
        Served(url, base, site) for site in sites for base in site.base_urls if target is None or target in site.targets
    ]
    found = [one for one in bases if url.startswith(one.base)]
    if found:
        return max(found, key=lambda one: len(one.base))
    whose = "any site's base URL" if target is None else f"any base URL of target {target}"
    raise ConfigurationError(f"{url}: is not below {whose}", hint=_nearest_base(url, bases))


def _nearest_base(url: str, bases: Sequence[Served]) -> str:
    scheme, _, rest = url.partition("://")
    other = f"{_OTHER_SCHEME.get(scheme, scheme)}://{rest}"
    for one in bases:
        if other.startswith(one.base):
            return f"The base URL is {one.base}: write {other}, or add the {scheme} one to base_urls."
    names = ", ".join(dict.fromkeys(one.base for one in bases))
    return f"Base URLs are: {names or 'none'}."
