"""
Under which paths a site serves a key: its own name, and what the site's rules add.

::

    blog/index.html ─▶ also patterns ─▶ index documents, stripped suffixes ─▶ spellings ─▶ short enough?
                       (one step)       blog/   blog   blog/index             [ or %5B     else its directory

Every path passes :func:`~listener.router.keys.encode_key`, also those that a rule makes: a rule that would turn a key
into ``..`` or an empty name adds nothing, since nobody can request that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from listener.errors import KeyRejected
from listener.router.spelling import spell
from listener.settings.addresses import PATH, AlsoPattern, Spelling, also_pattern
from listener.settings.site import Site

__all__ = ["MAX_URL_BYTES", "Address", "AddressRules", "addresses_of", "directories_of"]

MAX_URL_BYTES: Final = 1024
"""Bytes of a whole URL: Alibaba Cloud's limit for a prefetch; it states none for a refresh."""
OWN: Final = "the key itself"


class Address(NamedTuple):
    """One path under which a key is served."""

    path: str
    """Percent-encoded, below the base URL."""
    rule: str
    """Which rule made it, for people."""
    directory: bool = False
    """Whether everything below it is meant: the path ends with ``/`` or is empty, which is the base itself."""


class AddressRules(NamedTuple):
    """What a site says about the addresses of its keys."""

    index_documents: frozenset[str]
    strip_suffixes: tuple[str, ...]
    also: tuple[AlsoPattern, ...]
    spellings: tuple[Spelling, ...]
    room_bytes: int
    """How long a path may be below the longest base URL, with the longest query."""
    min_depth: int
    """How many folders a directory refresh names at least."""

    @classmethod
    def of(cls, site: Site, *, longest_tail: int = 0) -> AddressRules:
        """Take them from a site; ``longest_tail`` is the length of the longest query that is added to a URL."""
        return cls(
            frozenset(site.index_documents),
            site.strip_suffixes,
            tuple(map(also_pattern, site.also)),
            site.spellings,
            MAX_URL_BYTES - longest_tail - max(map(len, site.base_urls)),
            site.min_directory_depth,
        )


def addresses_of(rules: AddressRules, key: str) -> list[Address]:
    """
    Return every address of a key (without the site's prefix), its own first, each once.

    Raises :class:`~listener.errors.KeyRejected` where the key can be no URL, or only one that is too long and no
    directory above it may be refreshed.
    """
    found: dict[tuple[str, bool], Address] = {}
    for path, rule in _served_as(rules, key):
        for address in _spelled(rules, path, rule):
            found.setdefault((address.path, address.directory), address)
    return _uncovered(found.values())


def directories_of(rules: AddressRules, folder: str) -> list[Address]:
    """
    Return what a change of everything below a folder (``""`` or ending with ``/``) makes stale.

    Raises as :func:`addresses_of` does.
    """
    found: dict[tuple[str, bool], Address] = {}
    for path, rule, directory in _subtrees(rules, folder):
        for address in _spelled(rules, path, rule, directory=directory):
            found.setdefault((address.path, address.directory), address)
    return list(found.values())


def _uncovered(addresses: Collection[Address]) -> list[Address]:
    """Return the addresses without those that lie below a directory among them, each of which may be refreshed."""
    directories = [one.path for one in addresses if one.directory]
    return [
        one
        for one in addresses
        if not any(one.path.startswith(path) and not (one.directory and one.path == path) for path in directories)
    ]


def _served_as(rules: AddressRules, key: str) -> Iterator[tuple[str, str]]:
    yield key, OWN
    yield from _further_names(rules, key, "")
    for pattern in rules.also:
        text = pattern.matched(key)
        if text is not None:
            path, rule = pattern.path(text), f"also: {pattern.text}"
            yield path, rule
            yield from _further_names(rules, path, f"{rule}; ")


def _further_names(rules: AddressRules, path: str, before: str) -> Iterator[tuple[str, str]]:
    """Yield what an index document and a stripped suffix add to a path."""
    cut = path.rfind("/") + 1
    folder, name = path[:cut], path[cut:]
    if name in rules.index_documents:
        yield folder, f"{before}index_documents: {name}"
        if rules.strip_suffixes:
            yield from _without_slash(folder, before)
    for suffix in rules.strip_suffixes:
        if name.endswith(suffix) and name != suffix:
            yield path.removesuffix(suffix), f"{before}strip_suffixes: {suffix}"


def _without_slash(folder: str, before: str) -> Iterator[tuple[str, str]]:
    if folder[:-1].strip("/"):
        yield folder[:-1], f"{before}strip_suffixes: the folder without its slash"


def _subtrees(rules: AddressRules, folder: str) -> Iterator[tuple[str, str, bool]]:
    """Yield path, rule and whether it is a directory; what lies below the folder itself is covered by it."""
    yield folder, OWN, True
    if rules.strip_suffixes:
        yield from ((path, rule, False) for path, rule in _without_slash(folder, ""))
    for pattern in rules.also:
        rule = f"also: {pattern.text}"
        for reached, directory in _reached(pattern, folder):
            if reached.startswith(folder):
                continue
            yield reached, rule, directory
            if not directory:
                further = _further_names(rules, reached, f"{rule}; ")
            else:
                further = _without_slash(reached, f"{rule}; ") if rules.strip_suffixes else iter(())
            yield from ((path, why, False) for path, why in further)


def _reached(pattern: AlsoPattern, folder: str) -> Iterator[tuple[str, bool]]:
    """Yield what a rule makes of the keys below a folder: paths, and the directory (True) that holds all others."""
    if pattern.before.startswith(folder):
        text = ""
    elif folder.startswith(pattern.before) and not pattern.exact:
        text = folder[len(pattern.before) :]
        # The end of the folder may belong to what follows {path}: a/ of a/index.md, with "{path}/index.md -> {path}".
        for end in range(max(1, len(text) - len(pattern.after)), len(text)):
            if pattern.after.startswith(text[end:]):
                yield pattern.path(text[:end]), False
    else:
        return
    if PATH not in pattern.result:
        yield pattern.result, False
        return
    start = pattern.result.partition(PATH)[0] + text
    yield start[: start.rfind("/") + 1], True


def _spelled(rules: AddressRules, path: str, rule: str, *, directory: bool = False) -> Iterator[Address]:
    try:
        spelled = spell(path, rules.spellings)
    except KeyRejected:
        if rule == OWN:
            raise
        return  # nobody can request what the rule makes of this key
    for text, spelling in spelled.items():
        why = f"{rule}; spellings: {spelling}" if spelling else rule
        if len(text) <= rules.room_bytes:
            yield Address(text, why, directory)
        else:
            yield _directory_above(rules, text, why)


def _directory_above(rules: AddressRules, path: str, rule: str) -> Address:
    """Return the nearest directory whose URL is short enough; a refresh of it refreshes what cannot be named."""
    above = path[: path.rfind("/", 0, max(0, rules.room_bytes)) + 1]
    if above.count("/") < rules.min_depth:
        reason = (
            f"the key takes {len(path)} bytes in a URL, where {rules.room_bytes} are left of {MAX_URL_BYTES}, and no"
            f" directory above it may be refreshed (min_directory_depth = {rules.min_depth})"
        )
        raise KeyRejected(reason, hint="Give the object a shorter name, or put it into a folder.")
    return Address(above, f"{rule}; {len(path)} bytes are too long for a URL: its directory", directory=True)
