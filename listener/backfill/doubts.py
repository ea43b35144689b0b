"""What a line of a list says that no key says: such a line is refused, so that no refresh is spent on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["Refused", "refuse_doubtful", "refuse_mistaken", "refuse_unlikely"]

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_INVISIBLE: Final = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
"""Not removed by ``str.strip()``, and never meant at an end of a name: byte order marks, joiners."""
_FIELDS: Final = re.compile(rb"[,;\t\"'<>?#]|  +")
"""What stands between the fields of a table, around a quoted name, and behind the path of a URL."""


class Refused(Exception):
    """A line cannot be meant as it stands; the text says why."""


def refuse_doubtful(line: bytes, hosts: Collection[str]) -> None:
    """Refuse a line that may be a name or something else; ``hosts`` are those of the sites, with their ports."""
    if _has_blank_end(line):
        raise Refused("has blanks or invisible characters at its beginning or end")
    if _CONTROL.search(line):
        raise Refused("has a control character; add -0 where NUL separates the entries")
    if line.startswith(b"#"):
        raise Refused("is a comment or a key; write '# ' before a comment, ./ before a key")
    if line[:1] == line[-1:] == b'"' and len(line) > 1:
        raise Refused("is quoted; write the bare name (git: -z, with -0 here)")
    scheme, mark, _ = line.partition(b"://")
    if mark and scheme.isalnum():
        raise Refused("is no URL that a CDN serves")
    host, slash, _ = line.lstrip(b"/").partition(b"/")
    if slash and host.decode(errors="replace").lower() in hosts:
        raise Refused("is a URL without its scheme; write the whole URL")


def refuse_mistaken(key: bytes, *, is_file: Callable[[bytes], bool], is_directory: Callable[[bytes], bool]) -> None:
    """Refuse what is not in a tree as it stands, but is when it is written otherwise; ``key`` is in no tree."""
    if b"%" in key and is_file(unquote_to_bytes(key)):
        raise Refused("is percent-encoded; write the name as it is on disk, or the whole URL")
    if b"\\" in key:
        raise Refused("has backslashes; write / between folders")
    if key.endswith(b":") and is_directory(key[:-1]):
        raise Refused("is a heading of `ls -R`; list the files with `find . -type f`")
    if key.endswith(b"/") and is_file(key.rstrip(b"/")):
        raise Refused("is a file; write it without the slash")


def refuse_unlikely(key: bytes, *, is_file: Callable[[bytes], bool]) -> None:
    """Refuse a line of text that is in no tree, and is in another encoding or has a name among other fields."""
    try:
        key.decode()
    except UnicodeDecodeError:
        raise Refused("is not UTF-8, and no file has that name; save the list as UTF-8") from None
    for part in _FIELDS.split(key):
        name = part.strip(b" /")
        if name and is_file(name):
            raise Refused(f"is no file, but {name.decode()!a} in it is; write one key a line, or add -0")


def _has_blank_end(line: bytes) -> bool:
    text = line.decode(errors="replace")
    return text.strip() != text or text.strip(_INVISIBLE) != text
