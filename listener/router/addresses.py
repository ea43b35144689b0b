r"""
Under which paths a site serves a key: its own name, and what the site's rules add.

::

    blog/index.html ─▶ also patterns ─▶ index documents, stripped suffixes ─▶ spellings ─▶ short enough?
                       (one step)       blog/   blog   blog/index             [ or %5B     else its directory

**Refused keys.** A CDN takes many URLs in one text, a line each, and servers on the way may resolve dot segments, turn
``\`` into ``/`` or decode twice. :func:`encode_key`, which every path passes, refuses a key
(:class:`~listener.errors.KeyRejected`) that has

- a control character (a newline would begin someone else's URL), or a backslash,
- a segment ``.`` or ``..``, also written with escapes, at whatever depth (``%2e``, ``%252e``, ``..%2f``),
- text that stands for no bytes, or more of it than any storage allows.

A rule that would turn a key into such a path adds nothing, since nobody can request that. Everything else is
percent-encoded, UTF-8, exactly once; bytes that are no UTF-8 as they are.

**Spellings.** A cache keys by what was requested, and two spellings of one path are two objects. The canonical spelling
follows RFC 3986, section 3.3: sub-delimiters, ``:`` and ``@`` stay as they are, everything else that is not unreserved
is percent-encoded as UTF-8. It is always refreshed. Others send other spellings:

=========  =============================================  ===================================================
spelling   who sends it                                   differs from the canonical one in
=========  =============================================  ===================================================
browser    browsers, for a plain link (WHATWG URL, path   ``[`` ``]`` stay as they are; so does ``|`` in
           percent-encode set)                            Firefox and Safari, while Chromium encodes it
plus       SDKs and consoles of S3, which takes ``+`` in  ``+`` is ``%2B``
           a path for a blank
encoded    ``encodeURIComponent`` per segment             ``$ & + , : ; = @`` are encoded
strict     Python ``quote``, PHP ``rawurlencode``, AWS    ``! $ & ' ( ) * + , : ; = @`` are encoded
           signing
nfc, nfd   links typed elsewhere than the file was named  composed or decomposed characters
=========  =============================================  ===================================================

A key without such characters has one spelling. No spelling decodes anything: a ``%`` in a key is ``%25`` in all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple
from urllib.parse import quote_from_bytes, unquote

from listener.change import key_to_bytes
from listener.errors import KeyRejected
from listener.settings.site import PATH, AlsoPattern, Site, Spelling, also_pattern
from listener.urls import BROWSER_PATH_RAW, PATH_SAFE, encode_path, is_normal_path

__all__ = [
    "MAX_URL_BYTES",
    "Address",
    "AddressRules",
    "addresses_of",
    "directories_of",
    "encode_key",
    "plain_names",
    "spell",
]

MAX_KEY_CHARACTERS: Final = 4096
"""Linux's limit for a path (PATH_MAX); S3 and OSS allow 1,024 bytes."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.~!$&'()*+,;=:@/-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MOST_DECODINGS: Final = 8
"""How often a key is decoded to look for dot segments: servers decode once or twice, and each time costs its length."""
_DOTS: Final = frozenset((".", ".."))


def encode_key(key: str) -> str:
    """Return the key as a URL path; raise :class:`~listener.errors.KeyRejected` with the reason where it cannot be."""
    if len(key) <= MAX_KEY_CHARACTERS and _PLAIN_KEY.fullmatch(key) and "/." not in key and not key.startswith("."):
        return key
    if len(key) > MAX_KEY_CHARACTERS:
        reason = f"the key has {len(key)} characters, more than any storage allows ({MAX_KEY_CHARACTERS})"
        raise KeyRejected(reason, hint="Look at what sends such events.")
    if _CONTROL.search(key):
        raise KeyRejected("the key contains a control character", hint="Rename the object.")
    if "\\" in key:
        raise KeyRejected("the key contains a backslash", hint="Rename the object.")
    if _has_dot_segment(key):
        raise KeyRejected("the key contains a . or .. segment", hint="Rename the object.")
    try:
        encoded = encode_path(key_to_bytes(key))
    except UnicodeEncodeError:
        raise KeyRejected("the key is text that stands for no bytes", hint="Mend what sends the events.") from None
    if not is_normal_path(encoded):
        raise KeyRejected("the key's URL would not be its own normal form", hint="Rename the object and report this.")
    return encoded


def _has_dot_segment(key: str) -> bool:
    if "." not in key and "%" not in key:
        return False
    for _ in range(MOST_DECODINGS):
        if not _DOTS.isdisjoint(key.replace("\\", "/").split("/")):
            return True
        decoded = unquote(key) if "%" in key else key
        if decoded == key:
            return False
        key = decoded
    raise KeyRejected(f"the key is percent-encoded more than {MOST_DECODINGS} times over", hint="Rename the object.")


Encoder = Callable[[str], str]
_COMPONENT_SAFE: Final = "/!'()*~"
"""What ``encodeURIComponent`` leaves, and the slashes between segments."""


def _escaped(safe: str) -> Encoder:
    return lambda key: quote_from_bytes(key_to_bytes(key), safe)


def _plus(key: str) -> str:
    return encode_key(key).replace("+", "%2B")


def _normalized(form: Literal["NFC", "NFD"]) -> Encoder:
    return lambda key: encode_key(unicodedata.normalize(form, key))


_ENCODERS: Final[Mapping[Spelling, tuple[Encoder, ...]]] = {
    "browser": (_escaped(PATH_SAFE + "[]"), _escaped(PATH_SAFE + BROWSER_PATH_RAW)),
    "plus": (_plus,),
    "encoded": (_escaped(_COMPONENT_SAFE),),
    "strict": (_escaped("/~"),),
    "nfc": (_normalized("NFC"),),
    "nfd": (_normalized("NFD"),),
}
_CHANGED: Final[Mapping[Spelling, str]] = {"plus": "+", "encoded": "$&+,:;=@", "strict": "!$&'()*+,;:=@"}
"""Characters that the canonical spelling keeps and this one does not."""
_DIFFERS: Final[Mapping[Spelling, re.Pattern[str]]] = {
    "browser": re.compile(r"[\[\]|]"),
    **{name: re.compile(f"[{re.escape(characters)}]") for name, characters in _CHANGED.items()},
    "nfc": re.compile(r"[^\x00-\x7f]"),
    "nfd": re.compile(r"[^\x00-\x7f]"),
}
"""Found in a key whose spelling may differ from the canonical one."""


def spell(key: str, spellings: Sequence[Spelling]) -> dict[str, str]:
    """
    Return each distinct path of a key with the name of its spelling, the canonical one, named ``""``, first.

    Raises :class:`~listener.errors.KeyRejected` where the key can be no URL at all.
    """
    found = {encode_key(key): ""}
    for name in spellings:
        if not _DIFFERS[name].search(key):
            continue
        for encode in _ENCODERS[name]:
            try:
                found.setdefault(encode(key), name)
            except KeyRejected:  # another Unicode form of the key would not be itself; nobody can request it
                continue
    return found


def plain_names(rules: AddressRules, but: re.Pattern[str] | None = None) -> re.Pattern[str]:
    """
    Return what matches names that have one address, their own in its one spelling: nearly all.

    None in which ``but`` is found. Such a name is no dot segment, no index document, and ends with no suffix that is
    stripped.
    """
    changed = {character for name in rules.spellings for character in _CHANGED.get(name, "")}
    kept = "".join(character for character in "_.~!$&'()*+,;=:@" if character not in changed)
    if but is not None:
        kept = but.sub("", kept) if but.pattern else ""
    others = "|".join([r"\.{1,2}", *map(re.escape, sorted(rules.index_documents))])
    suffixes = "".join(rf"(?<!{re.escape(suffix)})" for suffix in rules.strip_suffixes)
    return re.compile(rf"(?!(?:{others})\Z)[A-Za-z0-9{re.escape(kept)}-]*{suffixes}")


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
