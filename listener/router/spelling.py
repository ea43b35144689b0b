"""
How a key is written as a URL path. A cache keys by what was requested, and two spellings of one path are two objects.

The canonical spelling follows RFC 3986, section 3.3: sub-delimiters, ``:`` and ``@`` stay as they are, everything
else that is not unreserved is percent-encoded as UTF-8. It is always refreshed. Others send other spellings:

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
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal
from urllib.parse import quote_from_bytes

from listener.change import key_to_bytes
from listener.errors import KeyRejected
from listener.router.keys import encode_key
from listener.settings.addresses import Spelling
from listener.urls import BROWSER_PATH_RAW, PATH_SAFE

__all__ = ["plain_names", "spell"]

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


def plain_names(spellings: Sequence[Spelling]) -> re.Pattern[str]:
    """Return what matches names that are one and the same in every spelling, and no dot segment: nearly all."""
    changed = {character for name in spellings for character in _CHANGED.get(name, "")}
    kept = "".join(character for character in "_.~!$&'()*+,;=:@" if character not in changed)
    return re.compile(rf"(?!\.{{1,2}}\Z)[A-Za-z0-9{re.escape(kept)}-]*")
