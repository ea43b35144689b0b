"""Listing dead letters: rejected URLs first, by kind, source and prefix, page by page in bounded queries."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from listener.change import key_to_text
from listener.refresh import NeedState
from listener.store.letters import DeadLetter, Dropped, LetterFilter, LetterKind
from listener.store.names import above

__all__ = ["dropped", "letter", "letters"]

_URLS: Final = (
    "SELECT d.id, n.name, n.scope, t.name, d.url || n.name, coalesce(n.reason, ''), n.stale_since"
    " FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target"
    f" WHERE n.state >= 3 AND n.state = {NeedState.PARKED:d}"
)


def letters(connection: sqlite3.Connection, wanted: LetterFilter, *, limit: int) -> list[DeadLetter]:
    """
    Return up to ``limit`` dead letters: rejected URLs, then messages, then keys, the newest of each first.

    Raises:
        ValueError: ``after`` is no id of a dead letter.
    """
    kinds = list(LetterKind) if wanted.kind is None else [wanted.kind]
    after = _position(connection, wanted.after) if wanted.after else None
    if after is not None:
        kinds = [kind for kind in kinds if list(LetterKind).index(kind) >= list(LetterKind).index(after[0])]
    found: list[DeadLetter] = []
    for kind in kinds:
        if len(found) < limit:
            read = _urls if kind is LetterKind.URL else _kept
            place = after[1] if after is not None and after[0] is kind else None
            found += read(connection, kind, wanted, place, limit - len(found))
    return found


_Place = tuple[Any, ...]


def _position(connection: sqlite3.Connection, id_: str) -> tuple[LetterKind, _Place] | None:
    """Return after what the listing goes on; None where that is gone: it begins at the top then."""
    if (url := _url_id(id_)) is not None:
        row = connection.execute(
            "SELECT stale_since FROM need WHERE directory = ? AND scope = ? AND name = ?", url
        ).fetchone()
        directory, scope, name = url
        return None if row is None else (LetterKind.URL, (row[0], directory, name, scope))
    number = _letter_id(id_)
    row = connection.execute("SELECT kind FROM dead_letter WHERE id = ?", (number,)).fetchone()
    return None if row is None else (LetterKind(row[0]), (number,))


def _letter_id(id_: str) -> int:
    word, _, number = id_.partition("-")
    if word != "letter" or not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise ValueError(f"{id_[:80]!r} is no id of a dead letter")
    return int(number)


def _url_id(id_: str) -> tuple[int, int, str] | None:
    word, directory, scope, name = [*id_.split("-", 3), "", "", ""][:4]
    if word != "url" or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in (directory, scope)):
        return None
    return int(directory), int(scope), name


def _urls(
    connection: sqlite3.Connection, _: LetterKind, wanted: LetterFilter, after: _Place | None, limit: int
) -> list[DeadLetter]:
    where, values = "", []
    if wanted.source is not None:
        where, values = " AND t.name = ?", [wanted.source]
    if wanted.prefix:
        where += " AND d.url || n.name >= ? AND d.url || n.name < ?"
        values += [wanted.prefix, above(wanted.prefix)]
    if after is not None:
        where += " AND (n.stale_since, n.directory, n.name, n.scope) < (?, ?, ?, ?)"
        values += list(after)
    rows = connection.execute(
        f"{_URLS}{where} ORDER BY n.stale_since DESC, n.directory DESC, n.name DESC, n.scope DESC LIMIT ?",
        (*values, limit),
    )
    return [
        DeadLetter(f"url-{directory}-{scope}-{name}", since, target, LetterKind.URL.value, url, reason)
        for directory, name, scope, target, url, reason, since in rows
    ]


def _kept(
    connection: sqlite3.Connection, kind: LetterKind, wanted: LetterFilter, after: _Place | None, limit: int
) -> list[DeadLetter]:
    where = ""
    values: list[object] = []
    if wanted.source is not None:
        where, values = " AND source = ?", [wanted.source]
    if wanted.prefix:
        raw = wanted.prefix.encode("utf-8", "surrogateescape")
        where += " AND substr(subject, 1, ?) = ?"
        values += [len(raw), raw]
    if after is not None:
        where += " AND id < ?"
        values += list(after)
    rows = connection.execute(
        f"SELECT id, at, source, subject, reason FROM dead_letter WHERE kind = ?{where} ORDER BY id DESC LIMIT ?",
        (kind.value, *values, limit),
    )
    return [
        DeadLetter(f"letter-{id_}", at, source, kind.value, key_to_text(bytes(subject)), reason)
        for id_, at, source, subject, reason in rows
    ]


def letter(connection: sqlite3.Connection, id_: str) -> DeadLetter | None:
    """Return the dead letter of this id, None where there is none (any more)."""
    try:
        at = _position(connection, id_)
    except ValueError:
        return None
    if at is None:
        return None
    kind, place = at
    if kind is LetterKind.URL:
        row = connection.execute(f"{_URLS} AND n.directory = ? AND n.name = ? AND n.scope = ?", place[1:]).fetchone()
        if row is None:
            return None
        _, _, _, target, url, reason, since = row
        return DeadLetter(id_, since, target, kind.value, url, reason)
    when, source, subject, reason = connection.execute(
        "SELECT at, source, subject, reason FROM dead_letter WHERE id = ?", place
    ).fetchone()
    return DeadLetter(id_, when, source, kind.value, key_to_text(bytes(subject)), reason)


def dropped(connection: sqlite3.Connection) -> list[Dropped]:
    """Return what was dropped for lack of room, by source and kind."""
    return [Dropped(*row) for row in connection.execute("SELECT source, kind, letters, bodies, last_at FROM dropped")]
