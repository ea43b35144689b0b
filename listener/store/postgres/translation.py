"""
The SQL of the operations, as PostgreSQL understands it.

Operations are written once, in a part of SQL that SQLite runs as it is. Each text is translated once. Most of it means
the same in both. This is what differs:

=========================================== =============================================================
in an operation                             here
=========================================== =============================================================
``?``, ``?3``, ``:name``                    ``$1`` and so on, each value once; what is not used is not bound
``x IN (SELECT value FROM json_each(?))``   ``x = ANY($1)``, the value an array; ``NOT IN``: ``<> ALL``
``max(a, b)``, ``min(a, b)``                ``greatest``, ``least``: of values that are never NULL
``a CROSS JOIN b ON …``                     ``a JOIN b ON …``: the order of joins is PostgreSQL's own
``INDEXED BY name``                         left out
``CAST(x AS INTEGER)``, ``CAST(x AS BLOB)`` towards zero, as ``bigint``; the bytes of a text
``instr(a, b)``                             ``strpos(a, b)``
``x'00ff'``                                 bytes
``FROM table``, ``JOIN``, ``INTO`` …        the table with its schema: nothing depends on the session
``/*! FOR UPDATE */``                       what is between the marks; SQLite, with one writer, needs no row locks
=========================================== =============================================================

So operations write ``x <> 0`` for a number that is true or false, name the columns of ``ON CONFLICT (…) DO UPDATE`` and
the table of an old value in it, give each subquery in ``FROM`` a name, and say ``NULLS FIRST`` where it matters. A word
or a function that is not known here is refused: nothing is passed on in the hope that it means the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

from listener.store.groups import NEXT_ATTEMPT, NEXT_GROUP
from listener.store.index import NEXT_SEQUENCE, NOTE_REVISION, REVISION
from listener.store.sqlite.migrations import schema, tables

__all__ = ["TABLES", "Statement", "translate"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TABLES: Final = frozenset(tables())
_VIEWS: Final = frozenset(re.findall(r"^CREATE VIEW (\w+)", schema(), re.MULTILINE))
_KEYWORDS: Final = _words(
    """
    ALL ALTER AND ANY AS ASC BETWEEN BLOB BY CASE CAST CONFLICT CROSS DELETE DESC DISTINCT DO ELSE END EXISTS FIRST FROM
    GROUP HAVING IN INDEXED INSERT INTEGER INTO IS JOIN LEFT LIMIT MATERIALIZED NOT NOTHING NULL NULLS OFFSET ON OR
    ORDER RETURNING SELECT SET THEN TRUE UNION UPDATE USING VALUES WHEN WHERE WITH
    """
)
_FUNCTIONS: Final = _words("abs coalesce count current_database length max min pg_database_size substr sum")
_OTHERWISE: Final[Mapping[str, str]] = {
    NEXT_SEQUENCE: "SELECT nextval('{schema}.change_number')",
    REVISION: "SELECT revision FROM {schema}.installation",
    NOTE_REVISION: "UPDATE {schema}.installation SET revision = revision + 1",
    NEXT_ATTEMPT: "SELECT nextval('{schema}.attempt_number')",
    NEXT_GROUP: "SELECT nextval('{schema}.group_number')",
}
"""Statements that do the same in another way, with nothing to bind."""
_OWN_FUNCTIONS: Final = frozenset({"object_name"})
_RENAMED: Final = {"instr": "strpos"}
_OF_SEVERAL: Final = {"max": "greatest", "min": "least"}
_TOKEN: Final = re.compile(
    r"(?P<space>\s+|--[^\n]*)|/\*!(?P<only>.*?)\*/|[xX]'(?P<blob>[0-9a-fA-F]*)'|(?P<text>'(?:[^']|'')*')"
    r"|(?P<mark>\?\d*|:[a-z_]+)|(?P<word>[A-Za-z_]\w*)|(?P<number>\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
    r"|(?P<sign><>|<=|>=|\|\||=(?!=)|[-+*/%(),.<>])",
    re.DOTALL,
)
_MARK: Final = re.compile(r"\?\d+|:[a-z_]+")
_WANTED: Final = "{wanted}"
"""Where the rows go, once it is known how many other values there are."""
_LISTED: Final = ["(", "SELECT", "value", "FROM", "json_each", "("]


class Statement(NamedTuple):
    """A translated statement, and which of the values it takes, in their order."""

    text: str
    values: tuple[int | str, ...]
    """Positions of a sequence, or names of a mapping."""
    lists: frozenset[int]
    """Which of these are lists, given as JSON."""

    def bind(self, values: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of the translation."""
        bound = [values[each] for each in self.values]  # type: ignore[index]
        for each in self.lists:
            bound[each] = json.loads(bound[each])
        return bound


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(statement: str) -> Iterator[_Token]:
    at = 0
    while at < len(statement):
        found = _TOKEN.match(statement, at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"not translated: {statement[at : at + 20]!r} in {statement!r}")
        at = found.end()
        if found.lastgroup != "space":
            yield _Token(found.lastgroup, found[found.lastgroup])


@lru_cache(maxsize=4_096)
def translate(statement: str, schema: str, wanted: tuple[str, ...] = ()) -> Statement:
    """
    Return a statement of an operation as PostgreSQL understands it.

    Args:
        statement: the SQL of the operation.
        schema: in which its tables are, as an identifier.
        wanted: the types of the arrays that are the columns of the table ``wanted``, empty for a column of NULL; they
            are bound after all other values.

    Raises:
        ValueError: it has a part that is not known here.
    """
    if statement in _OTHERWISE:
        return Statement(_OTHERWISE[statement].format(schema=schema), (), frozenset())
    return _Translation(list(_tokens(statement)), schema, wanted).run()


class _Translation:
    """Goes through the tokens of one statement."""

    def __init__(self, tokens: list[_Token], schema: str, wanted: tuple[str, ...]) -> None:
        self._tokens = tokens
        self._schema = schema
        self._wanted = wanted
        self._at = 0
        self._written: list[str] = []
        self._values: list[int | str] = []
        self._lists: set[int] = set()
        self._marks = 0
        texts = [each.text for each in tokens]
        self._nulls = {f"column{number}" for number, kind in enumerate(wanted, 1) if not kind}
        self._given = {name for name, word in pairwise(texts) if word == "AS"}
        """Names that the statement itself gives to queries in a WITH."""

    def run(self) -> Statement:
        while self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            self._at += 1
            getattr(self, f"_{kind}")(text)
        return Statement(self._text_with_rows(), tuple(self._values), frozenset(self._lists))

    def _text_with_rows(self) -> str:
        """Return what was written, with the rows that are wanted as arrays after all other values."""
        names = [f"column{number}" for number, kind in enumerate(self._wanted, 1) if kind]
        kinds = enumerate(filter(None, self._wanted), len(self._values) + 1)
        # Each array in a query of its own: the planner, which then expects ten rows of them, always looks the rows of
        # the table up by its key, also where it takes a table for empty that was filled a second ago.
        arrays = ", ".join(f"(SELECT ${number}::{kind})" for number, kind in kinds)
        return " ".join(self._written).replace(_WANTED, f"unnest({arrays}) AS wanted ({', '.join(names)})", 1)

    def _follows(self, words: Sequence[str], ahead: int = 0) -> bool:
        start = self._at + ahead
        return [each.text for each in self._tokens[start : start + len(words)]] == list(words)

    def _only(self, text: str) -> None:
        self._written.append(_MARK.sub(lambda mark: f"${self._position(mark[0]) + 1}", text).strip())

    def _blob(self, text: str) -> None:
        self._written.append(f"'\\x{text}'::bytea")

    def _text(self, text: str) -> None:
        self._written.append(text)

    _number = _sign = _text

    def _mark(self, text: str) -> None:
        self._written.append(f"${self._position(text) + 1}")

    def _position(self, mark: str) -> int:
        """Return which value of the translation a mark stands for."""
        value: int | str = mark[1:]
        if mark[0] == "?":
            number = int(mark[1:] or self._marks + 1)  # SQLite numbers a plain mark after the highest before it
            self._marks = max(self._marks, number)
            value = number - 1
        if value not in self._values:
            self._values.append(value)
        return self._values.index(value)

    def _word(self, text: str) -> None:
        if text in ("IN", "NOT") and self._list(text):
            return
        if text == "CROSS" and self._follows(["JOIN"]):
            return
        if text == "INDEXED" and self._follows(["BY"]):
            self._at += 2
        elif text == "CAST" and self._follows(["("]):
            self._cast()
        elif self._follows(["("]) and text not in _KEYWORDS and not self._is_table():
            self._written.append(self._function(text))
        elif self._is_table():
            self._written.append(self._table(text))
        elif text in self._nulls:
            self._written.append("NULL")
        else:
            if text.isupper() and text not in _KEYWORDS:
                raise ValueError(f"not translated: {text}")
            self._written.append(text)

    def _list(self, word: str) -> bool:
        """Write ``IN`` or ``NOT IN`` a list in JSON; return whether it was one."""
        skipped = 0 if word == "IN" else 1
        if not self._follows(["IN", *_LISTED][1 - skipped :]):
            return False
        self._at += skipped + len(_LISTED)
        position = self._position(self._tokens[self._at].text)
        self._lists.add(position)
        self._written.append(f"{'= ANY' if word == 'IN' else '<> ALL'} (${position + 1})")
        if not self._follows([")", ")"], ahead=1):
            raise ValueError("not translated: json_each of more than one value")
        self._at += 3
        return True

    def _arguments_end(self) -> tuple[int, int]:
        """Return where the parenthesis that begins here ends, and how many commas are directly in it."""
        depth = commas = 0
        for at in range(self._at, len(self._tokens)):
            text = self._tokens[at].text if self._tokens[at].kind == "sign" else ""
            depth += (text == "(") - (text == ")")
            commas += text == "," and depth == 1
            if not depth:
                return at, commas
        raise ValueError("not translated: a parenthesis without end")

    def _cast(self) -> None:
        end, _ = self._arguments_end()
        inner = _Translation(self._tokens[self._at + 1 : end - 2], self._schema, self._wanted)
        inner._values, inner._lists, inner._marks = self._values, self._lists, self._marks
        text = inner.run().text
        self._marks = inner._marks
        kind = self._tokens[end - 1].text
        if kind not in ("INTEGER", "BLOB"):
            raise ValueError(f"not translated: CAST … AS {kind}")
        self._written.append(f"trunc({text})::bigint" if kind == "INTEGER" else f"convert_to({text}, 'UTF8')")
        self._at = end + 1

    def _function(self, name: str) -> str:
        if name in _OWN_FUNCTIONS:
            return f"{self._schema}.{name}"
        if name in _RENAMED:
            return _RENAMED[name]
        if name not in _FUNCTIONS:
            if name in self._given or self._tokens[self._at - 2].text in ("INTO", "AS", "CONFLICT"):
                return name
            raise ValueError(f"not translated: the function {name}")
        return _OF_SEVERAL[name] if name in _OF_SEVERAL and self._arguments_end()[1] else name

    def _is_table(self) -> bool:
        """Return whether the word that was just read stands where a table is named."""
        if self._at < 2:
            return False
        before, word = self._tokens[self._at - 2], self._tokens[self._at - 1]
        return before.text in ("FROM", "JOIN", "INTO", "UPDATE", "USING") and word.text not in _KEYWORDS

    def _table(self, name: str) -> str:
        if name == "wanted" and self._wanted:
            return _WANTED
        if name in TABLES or name in _VIEWS:
            return f"{self._schema}.{name}"
        if name not in self._given:
            raise ValueError(f"not translated: the table {name}")
        return name
