"""What every reader of the store must answer, decided row by row with the pure rule."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from listener.refresh import Attempt, AttemptState, Need, NeedState, RefreshKind, Scope, covers
from listener.store.connection import Connection
from listener.store.controls import Place
from listener.store.needs import Snapshot
from listener.store.report import counts
from listener.store.staleness import scope_word, unsettled, why

EVERY = slice(None)


class Expected(NamedTuple):
    """A need with the word for its state, and whether a person requested it."""

    need: Need
    word: str
    manual: bool

    @property
    def stale(self) -> bool:
        """Whether a visitor may get an old copy because of it."""
        return self.need.scope is not Scope.PREFETCH and self.word != "settled"


def expected(file: Connection) -> list[Expected]:
    """Return every row of ``need`` with its word."""
    states: dict[int, str] = {}
    directories: list[Attempt] = []
    for id_, target, kind, url, force, mark, state, active in file.execute(
        "SELECT a.id, t.name, kind, url, force, watermark, state, active"
        " FROM attempt a JOIN target t ON t.id = a.target"
    ):
        states[id_] = state
        if active and kind == "directory":
            directory = RefreshKind.DIRECTORY
            made = Attempt(id=id_, target=target, kind=directory, url=url, force=bool(force), watermark=mark)
            directories.append(made)
    return [
        Expected(need, _word(need, NeedState(state), marked, directories, states), bool(manual))
        for state, marked, manual, need in _needs(file)
    ]


def _needs(file: Connection) -> list[tuple[int, int | None, int, Need]]:
    rows = file.execute(
        "SELECT n.state, attempt, asked, t.name, d.url || n.name, scope, sequence, stale_since, open, needs_force"
        " FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target"
    )
    return [
        (state, marked, manual, Need(target, url, Scope(scope), sequence, since, bool(open_), bool(force)))
        for state, marked, manual, target, url, scope, sequence, since, open_, force in rows
    ]


def _word(need: Need, state: NeedState, marked: int | None, directories: list[Attempt], states: dict[int, str]) -> str:
    over = [one for one in directories if covers(one, need)]
    if any(states[one.id] == AttemptState.COMPLETE for one in over):
        return "settled"
    if state in (NeedState.PARKED, NeedState.UNCONFIRMED):
        return state.name.lower()
    newest = max(over, key=lambda one: (one.watermark, one.id), default=None)
    decides = marked if marked is not None else newest and newest.id
    if decides is not None:
        return states[decides] if states[decides] in ("failed", "unconfirmed") else "in_flight"
    return "deferred" if state is NeedState.READY else "waiting"


def assert_readers_agree(file: Connection, *, now: float, urls: slice = EVERY) -> None:
    """
    Status, the page, ``status --url``, the planner's input and ``wait`` answer as the pure rule does.

    ``status --url`` is asked of these rows: it runs four statements for each URL, the others a few for all.
    """
    rows, snapshot = expected(file), Snapshot(file)
    _assert_totals(file, rows, now)
    for need, word, _ in rows[urls]:
        place = (need.target, need.url, scope_word(need.scope))
        shown = [one["state"] for one in why(file, need.url) if (one["target"], one["url"], one["scope"]) == place]
        assert shown == ([] if word == "settled" else [word]), need
    due = {(one.need.url, one.need.scope) for one in rows if one.word == "deferred"}
    loads = snapshot.loads()
    assert sum(one.exact + one.all_params + one.subtree + one.prefetch for one in loads) == len(due)
    planned = [row for load in loads for scope in Scope for row in snapshot.due_rows(load, scope, 1000)]
    assert (len(planned), {(row.url, row.scope) for row in planned}) == (len(due), due)
    manual = {(row.url, row.scope) for row in snapshot.manual_rows(1000)}
    assert manual == {(one.need.url, one.need.scope) for one in rows if one.manual and one.word == "deferred"}


def _assert_totals(file: Connection, rows: list[Expected], now: float) -> None:
    words = Counter(one.word for one in rows)
    found = counts(file)
    assert (found.pending, found.deferred) == (words["deferred"] + words["waiting"], words["deferred"])
    for word in ("in_flight", "failed", "parked", "unconfirmed"):
        assert getattr(found, word) == words[word], word
    since: dict[str, float] = {}
    for need, word, _ in (one for one in rows if one.stale):
        shown = {"waiting": ["pending"], "deferred": ["pending", "deferred"]}.get(word, [word])
        since |= {one: min(since.get(one, need.stale_since), need.stale_since) for one in shown}
    assert found.since == since
    assert found.oldest_stale_since == min(since.values(), default=None)
    left = {one.state: one.needs for one in unsettled(file, Place(), now)}
    assert left == Counter(one.word for one in rows if one.stale)
