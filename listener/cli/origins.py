"""Where each value of a configuration comes from, as comments in its text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from listener.configuration import Configuration

__all__ = ["Origins"]

_HEADER: Final = re.compile(r"(\[\[?)(.+?)\]\]?")
_KEY: Final = re.compile(r'("[^"]*"|[A-Za-z0-9_-]+) = ')
_NAME: Final = re.compile(r'"([^"]*)"|([^.]+)')


class Origins:
    """Knows the file and the variables of a configuration."""

    def __init__(self, read: Configuration) -> None:
        """Keep what was read."""
        self._read = read
        self._file = str(read.path.name) if read.path else ""

    def annotated(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines of the effective settings as TOML, each value with a comment that names its origin."""
        where: tuple[str, ...] = ()
        tables: dict[tuple[str, ...], int] = {}
        for line in lines:
            if header := _HEADER.fullmatch(line):
                where = _parts(header[2])
                if header[1] == "[[":
                    tables[where] = tables.get(where, -1) + 1
                where = _with_numbers(where, tables)
            key = _KEY.match(line)
            yield f"{line}  # {self._origin((*where, key[1].strip(chr(34))))}" if key else line

    def _origin(self, keys: Sequence[str]) -> str:
        dotted = ".".join(keys)
        for variable, name in self._read.variables.items():
            if variable == dotted or variable.startswith(f"{dotted}."):
                return name
        singular = (*keys[:-1], keys[-1].removesuffix("s"))  # a site's `target` is one of `targets`
        written = _is_written(self._read.written, keys) or _is_written(self._read.written, singular)
        return self._file if written else "default"


def _parts(header: str) -> tuple[str, ...]:
    return tuple(quoted or plain for quoted, plain in _NAME.findall(header))


def _with_numbers(where: tuple[str, ...], tables: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """Return the keys with the number of each table of a list behind its name."""
    found: list[str] = []
    for length, name in enumerate(where, start=1):
        found.append(name)
        if where[:length] in tables:
            found.append(str(tables[where[:length]]))
    return tuple(found)


def _is_written(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if isinstance(table, Mapping) and key in table:
            table = table[key]
        elif isinstance(table, list) and key.isdecimal() and int(key) < len(table):
            table = table[int(key)]
        else:
            return False
    return True
