"""
Keeping secrets out of whatever people or machines read: logs, ``config show``, error texts.

Two nets: a value under a name that speaks of a secret is masked whole, and any text loses what stands
between a user name and a host in a URL, and what follows ``password=`` and the like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MASK", "is_secret_name", "mask_text", "masked"]

MASK: Final = "***"
SECRET_WORDS: Final = frozenset({"authorization", "passphrase", "passwd", "password", "secret", "token"})
"""Words of a name; ``signature`` and ``credentials`` are none, since settings of these names say which kind."""
PLAIN_ENDINGS: Final = ("_file", "_path", "_seconds", "_url")
"""Names that speak of a secret and hold where it is, not what it is."""

_USER_INFO = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@?#]*):[^\s]*@", re.IGNORECASE)
_PARAMETER = re.compile(r"(?P<head>\b[\w.-]*(?:password|passwd|secret|token|signature)=)[^&\s\"']+", re.IGNORECASE)
_WORD_BREAK = re.compile(r"[^a-z]+")


def is_secret_name(name: str) -> bool:
    """Tell whether a value of this name must not be shown: ``secret``, ``api_token``, ``db-password``."""
    lowered = name.lower()
    return not lowered.endswith(PLAIN_ENDINGS) and not SECRET_WORDS.isdisjoint(_WORD_BREAK.split(lowered))


def mask_text(text: str) -> str:
    """Return the text without passwords in URLs and in ``name=value`` pairs."""
    if "://" in text and "@" in text:
        text = _USER_INFO.sub(rf"\g<head>:{MASK}@", text)
    return _PARAMETER.sub(rf"\g<head>{MASK}", text) if "=" in text else text


def masked(value: Any, *, name: str = "") -> Any:
    """Return plain data (mappings, lists, texts, numbers) with every secret in it masked; empty ones stay empty."""
    if isinstance(value, Mapping):
        return {key: masked(item, name=str(key)) for key, item in value.items()}
    if name and value not in (None, "") and is_secret_name(name):
        return MASK
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value
