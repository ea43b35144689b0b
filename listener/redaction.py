"""
Masks secrets in all output: logs, ``config show``, error messages.

Two rules: a value whose name suggests a secret is masked completely, and in any text the user-info of URLs, the value
of ``password=`` and similar, and the value of an ``Authorization`` header are masked. Text comes from visitors and
senders, so each step takes linear time: no pattern begins with a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MASK", "is_secret_name", "mask_text", "mask_url", "masked"]

MASK: Final = "***"
SECRET_WORDS: Final = frozenset({"authorization", "passphrase", "passwd", "password", "secret", "token"})
"""Words in a name; without ``signature`` and ``credentials``, since settings with these names state a kind."""
PLAIN_ENDINGS: Final = ("_file", "_path", "_seconds", "_url")
"""Names that contain the place of a secret, not the secret."""

_AUTHORITY_END: Final = r"\s/?#\"'<>"
_USER_INFO = re.compile(rf"://[^{_AUTHORITY_END}]*@")
_REST_OF_USER_INFO = re.compile(rf"://{re.escape(MASK)}@(?:[^\s@]*+@)++")
"""A password with a raw ``@`` and a raw slash goes on behind what looks like the authority."""
_NO_PORT = re.compile(rf"://(?:\[[0-9A-Fa-f:.]*+\])?+[^{_AUTHORITY_END}:@]*+:(?![0-9]*+(?:[{_AUTHORITY_END}]|\Z))")
"""An authority whose port is no number: the beginning of a password with a raw slash, if an ``@`` follows."""
_BLANK = re.compile(r"\s")
_PARAMETERS: Final = {
    quote: re.compile(
        "=(?<=[dent]=)"
        "(?:(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=secret=)|(?<=token=)|(?<=signature=))"
        rf"{quote}[^&\s\"']++",
        re.IGNORECASE,
    )
    for quote in ("", '"', "'")
}
"""By the quote before the value: a replacement without references is four times as fast."""
_SECRET_HEADERS: Final = ("authorization", "security-token")
_HEADER = re.compile(
    r":(?<=[n\"']:)(?:(?<=authorization:)|(?<=authorization[\"']:)|(?<=security-token:)|(?<=security-token[\"']:))"
    r"(?P<quote>\s?(?:b(?=[\"']))?[\"']?)(?:[a-z0-9-]{1,32} )?[^\s\"']+",
    re.IGNORECASE,
)
_WORD_BREAK = re.compile(r"[^a-z]+")


def is_secret_name(name: str) -> bool:
    """Return whether a value of this name must not be shown: ``secret``, ``api_token``, ``db-password``."""
    lowered = name.lower()
    return not lowered.endswith(PLAIN_ENDINGS) and not SECRET_WORDS.isdisjoint(_WORD_BREAK.split(lowered))


def mask_text(text: str) -> str:
    """Return the text without the user-info of URLs, ``name=value`` secrets and the values of secret headers."""
    if "@" in text and "://" in text:
        text = _USER_INFO.sub(f"://{MASK}@", text)
        text = _REST_OF_USER_INFO.sub(f"://{MASK}@", text)
        text = _mask_slashed_passwords(text)
    for quote, pattern in _PARAMETERS.items():
        if f"={quote}" in text:
            text = pattern.sub(f"={quote}{MASK}", text)
    lowered = text.lower()
    if any(name in lowered for name in _SECRET_HEADERS):
        text = _HEADER.sub(rf":\g<quote>{MASK}", text)
    return text


def mask_url(url: str) -> str:
    """Return a setting that should be one URL, however malformed, without its user-info and secret parameters."""
    if url.startswith("sqlite:///"):
        return mask_text(url)  # a path, which may hold an @
    before, at, after = url.rpartition("@")
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/+", url)
    head = scheme[0] if scheme else ""
    if at:
        return mask_text(f"{head}{MASK}@{after}") if before else url
    return f"{head}{MASK}" if _NO_PORT.search(url) else mask_text(url)


def _mask_slashed_passwords(text: str) -> str:
    """
    Mask up to the last ``@`` where an authority has a port that is no number.

    A plain URL keeps the ``@`` of its path, as in ``https://www.example.com:8443/logo@2x.png``.
    """
    shown: list[str] = []
    done = 0
    while found := _NO_PORT.search(text, done):
        blank = _BLANK.search(text, found.end())
        end = blank.start() if blank else len(text)
        last_at = text.rfind("@", found.end(), end)
        if last_at >= 0:
            shown += (text[done : found.start()], "://", MASK)
            done = last_at
        shown.append(text[done:end])
        done = end
    return "".join(shown) + text[done:]


def masked(value: Any, *, name: str = "") -> Any:
    """Return plain data (mappings, lists, texts, numbers) with every secret in it masked; empty ones stay empty."""
    if isinstance(value, Mapping):
        return {key: masked(item, name=str(key)) for key, item in value.items()}
    if name and value not in (None, "") and is_secret_name(name):
        return MASK
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value
