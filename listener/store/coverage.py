"""
Which attempt covers which need, for every reader of the store: the SQL of ``listener.refresh.COVERAGE``.

A file attempt marks the one need that it is for; a directory attempt marks nothing, and covers what lies
at or below its URL. So a reader first loads the few active directory attempts (:func:`directory_attempts`),
and then compares the rows of a directory with those at or above it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from listener.refresh import COVERAGE, AttemptState, NeedState, RefreshKind, Scope

__all__ = [
    "DECIDED_BY_NONE",
    "SETTLED",
    "DirectoryAttempt",
    "DirectoryAttempts",
    "Marks",
    "covered",
    "covered_by_marks",
    "decided_by",
    "deciding",
    "directory_attempts",
    "status_word",
]


def covered(kind: RefreshKind, *, watermark: str, force: str) -> str:
    """
    Return an SQL condition on a row of ``need`` whose URL an attempt reaches: whether the attempt covers it.

    Args:
        kind: of the attempt.
        watermark: an SQL expression, the attempt's watermark.
        force: an SQL expression, true when the attempt is forced.
    """
    rule = COVERAGE[kind]
    scopes = ", ".join(f"{scope:d}" for scope in sorted(rule.scopes))
    evicts = "" if rule.always_evicts else f" AND (needs_force = 0 OR {force})"
    return f"(sequence <= {watermark} AND open = 0 AND scope IN ({scopes}){evicts})"


class Marks(NamedTuple):
    """How far the directory attempts at or above one directory cover its needs; 0: none does."""

    any: int = 0
    """The highest watermark: needs up to it are covered, unless they need force."""
    forced: int = 0
    """The highest watermark of a forced attempt: needs that need force are covered up to it."""


def covered_by_marks(any_mark: str, forced_mark: str) -> str:
    """Return the SQL condition for :class:`Marks`, whose two numbers are given as SQL expressions."""
    plain = covered(RefreshKind.DIRECTORY, watermark=any_mark, force="0")
    forced = covered(RefreshKind.DIRECTORY, watermark=forced_mark, force="1")
    return f"({plain} OR {forced})"


class DirectoryAttempt(NamedTuple):
    """A directory attempt that covers something."""

    id: int
    url: str
    watermark: int
    force: bool
    state: AttemptState

    @property
    def precedence(self) -> tuple[bool, int, int]:
        """Which of several attempts that cover a need decides its state: the highest. What is complete settles it."""
        return self.state is AttemptState.COMPLETE, self.watermark, self.id


class DirectoryAttempts:
    """The active directory attempts of every target, by target id and URL."""

    def __init__(self, attempts: Iterable[tuple[int, DirectoryAttempt]]) -> None:
        """Take them, each with its target id."""
        self._by_place: dict[tuple[int, str], list[DirectoryAttempt]] = {}
        for target, attempt in attempts:
            self._by_place.setdefault((target, attempt.url), []).append(attempt)

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._by_place)

    def roots(self) -> list[tuple[int, str]]:
        """Return the target ids and URLs that have one, without those that lie below another."""
        found: list[tuple[int, str]] = []
        for target, url in sorted(self._by_place):
            if not found or found[-1][0] != target or not url.startswith(found[-1][1]):
                found.append((target, url))
        return found

    def above(self, target: int, url: str) -> list[DirectoryAttempt]:
        """Return those at or above a directory URL; the first that covers a need decides its state."""
        found: list[DirectoryAttempt] = []
        end = len(url)
        while self._by_place and (end := url.rfind("/", 0, end)) > 0:
            found += self._by_place.get((target, url[: end + 1]), ())
        return sorted(found, key=lambda one: one.precedence, reverse=True)

    def marks(self, target: int, url: str) -> Marks:
        """Return how far those at or above a directory URL cover its needs."""
        above = self.above(target, url)
        return Marks(
            max((one.watermark for one in above), default=0),
            max((one.watermark for one in above if one.force), default=0),
        )


def directory_attempts(connection: sqlite3.Connection) -> DirectoryAttempts:
    """Return the directory attempts that still cover something."""
    rows = connection.execute(
        "SELECT target, id, url, watermark, force, state FROM attempt"
        f" WHERE active = 1 AND kind = '{RefreshKind.DIRECTORY.value}'"
    )
    return DirectoryAttempts(
        (target, DirectoryAttempt(id_, url, watermark, bool(force), AttemptState(state)))
        for target, id_, url, watermark, force, state in rows
    )


def deciding(
    attempts: Sequence[DirectoryAttempt], *, scope: int, sequence: int, is_open: int, needs_force: int
) -> DirectoryAttempt | None:
    """Return the first of these attempts, those above a need's directory, that covers the need."""
    rule = COVERAGE[RefreshKind.DIRECTORY]
    for one in attempts:
        if rule.covers(
            watermark=one.watermark,
            force=one.force,
            scope=Scope(scope),
            sequence=sequence,
            is_open=bool(is_open),
            needs_force=bool(needs_force),
        ):
            return one
    return None


DECIDED_BY_NONE = -1


def decided_by(attempts: Sequence[DirectoryAttempt]) -> tuple[str, tuple[int, ...]]:
    """
    Return :func:`deciding` as an SQL expression on a row of ``need``, with its values.

    The result is an index into the attempts, or ``DECIDED_BY_NONE``.
    """
    condition = covered(RefreshKind.DIRECTORY, watermark="?", force="?")
    cases = "".join(f" WHEN {condition} THEN {index}" for index in range(len(attempts)))
    values = tuple(value for one in attempts for value in (one.watermark, int(one.force)))
    return f"CASE{cases} ELSE {DECIDED_BY_NONE} END" if cases else f"{DECIDED_BY_NONE}", values


SETTLED = "settled"
_OF_ATTEMPT = {
    AttemptState.HELD: "in_flight",
    AttemptState.SENDING: "in_flight",
    AttemptState.UNKNOWN: "in_flight",
    AttemptState.ACCEPTED: "in_flight",
    AttemptState.FAILED: "failed",
    AttemptState.UNCONFIRMED: "unconfirmed",
    AttemptState.COMPLETE: SETTLED,
}
_OF_NEED = {
    NeedState.WAITING: "waiting",
    NeedState.READY: "deferred",
    NeedState.ATTEMPTED: "in_flight",
    NeedState.PARKED: "parked",
    NeedState.UNCONFIRMED: "unconfirmed",
}


def status_word(state: NeedState, attempt: AttemptState | None, cover: DirectoryAttempt | None) -> str:
    """
    Return the word for a need's state in every view.

    Args:
        state: of the need's own row.
        attempt: the state of the attempt that marks it.
        cover: the directory attempt that decides (:func:`decided_by`).

    Returns:
        ``waiting``, ``deferred``, ``in_flight``, ``failed``, ``unconfirmed``, ``parked``, or ``settled``: a complete
        attempt covers it, and its row is about to be removed.
    """
    if cover is not None and cover.state is AttemptState.COMPLETE:
        return SETTLED
    if state in (NeedState.PARKED, NeedState.UNCONFIRMED):
        return _OF_NEED[state]
    if attempt is not None:
        return _OF_ATTEMPT[attempt]
    return _OF_NEED[state] if cover is None else _OF_ATTEMPT[cover.state]
