"""
What planning reads, at one instant: needs that are due, by directory, what covers them, quota and index.

Which attempt covers which need is decided by ``listener.refresh.COVERAGE``, as SQL here. A file attempt marks the one
need that it is for; a directory attempt marks nothing, and covers what lies at or below its URL. So a reader first
loads the few active directory attempts (:func:`directory_attempts`), and then compares the rows of a directory with
those at or above it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from listener.allowances import Allowance
from listener.change import key_to_bytes
from listener.refresh import COVERAGE, KIND_OF_SCOPE, AttemptState, NeedState, Priority, RefreshKind, Scope
from listener.store import ledger
from listener.store.bulk import Bulk, in_sets_of
from listener.store.connection import Connection
from listener.store.index import is_seeded, prefix_end_bytes

__all__ = [
    "DROPPED",
    "EXACT_ONLY",
    "EXPIRED",
    "IN_INNER",
    "MARKED_BY",
    "UNCOVERED",
    "UNSETTLED",
    "DirectoryAttempt",
    "DirectoryAttempts",
    "DueRow",
    "Inner",
    "Load",
    "Marks",
    "Passed",
    "Sent",
    "Snapshot",
    "count_ready",
    "covered",
    "covered_by_marks",
    "covered_values",
    "deciding",
    "directory_attempts",
]


_READY = f"state = {NeedState.READY:d}"
_OTHER_SCOPE = f"scope > {Scope.EXACT:d}"
OLDEST_READY = f"SELECT stale_since FROM need WHERE directory = d.id AND {_READY} ORDER BY stale_since LIMIT 1"
"""Since when the oldest ready need of a directory ``d`` is stale."""
MARKED_BY = "LEFT JOIN attempt_item i ON i.id = n.attempt LEFT JOIN attempt_group a ON a.id = i.group_id"
"""Joins to a need ``n`` the attempt ``i`` that marks it, if any, and the state ``a`` of that."""


class Marks(NamedTuple):
    """How far the directory attempts at or above one directory cover its needs; 0: none does."""

    any: int = 0
    """The highest watermark: needs up to it are covered, unless they need force."""
    forced: int = 0
    """The highest watermark of a forced attempt: needs that need force are covered up to it."""


class Inner(NamedTuple):
    """The targets that an outer layer fetches from."""

    targets: Sequence[str] = ()
    """Those that refresh directories, too."""
    files_only: Sequence[str] = ()
    by_beginning: frozenset[str] = frozenset()
    """Outer targets at which a URL that ends with ``*`` stands for all that begin so."""


class Passed(NamedTuple):
    """How far the inner layers have dropped a URL that changed again since: so far the outer one may refresh it."""

    watermark: int = 0
    """Of the inner attempts, the lowest."""
    later_since: float | None = None
    """When the first change came that they did not drop, in seconds since the epoch; None: they dropped all."""


class Load(NamedTuple):
    """One directory URL and its ready needs that no attempt covers."""

    directory: int
    target: str
    url: str
    exact: int
    all_params: int
    subtree: int
    prefetch: int
    oldest: float
    """Seconds since the epoch of the oldest change among them."""
    marks: Marks = Marks()
    """How far directory attempts cover its needs."""
    forced: int = 0
    """How many exact needs need force; counted whether covered or not."""
    forced_all_params: int = 0
    """How many all-params needs do."""
    priority: Priority | None = None
    """Only the needs of this priority; None: all of them."""
    inner: str = "[]"
    """Directories of inner layers, as a JSON list of ids: what has an unsettled need of its name there is left out."""
    inner_files: str = "[]"
    """The same of layers that refresh files only: no need of another scope counts there."""
    passed: Mapping[tuple[str, int], Passed] = MappingProxyType({})
    """Of these needs, by name and scope, those that are not left out, since earlier changes of them were dropped."""


class DueRow(NamedTuple):
    """One ready need."""

    target: str
    url: str
    scope: Scope
    sequence: int
    stale_since: float
    reason: str | None = None
    urgent: bool = False
    needs_force: bool = False
    passed: Passed | None = None
    """How far it may be refreshed where inner layers have yet to drop the newest change."""


class Sent(NamedTuple):
    """What was sent or reserved for one URL."""

    target: str
    kind: RefreshKind
    url: str
    priority: Priority
    at: float
    """When it was reserved, in seconds since the epoch; in the windows of that time its units are booked."""


P = ParamSpec("P")
T = TypeVar("T")


class Snapshot:
    """The state file as it was at one instant; made by :meth:`listener.store.Store.read`, in whose query it lives."""

    def __init__(self, connection: Connection, own_roots: Mapping[str, str] | None = None) -> None:
        """Take a connection in a reading transaction, and the names of roots that are this instance's own copies."""
        self._connection = connection
        self._own_roots = own_roots or {}

    def run(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what another query of this package finds at the same instant."""
        return query(self._connection, *args, **kwargs)

    def own_root(self, root: str) -> str:
        """Return the name of this instance's own copy of a root, where each has one."""
        return self._own_roots.get(root, root)

    # -- needs -----------------------------------------------------------------------------------

    def loads(
        self, *, most: int | None = None, apart: bool = False, targets: Collection[str] | None = None
    ) -> list[Load]:
        """
        Return every directory with ready needs that no directory attempt under way covers.

        Args:
            most: only so many, the fullest.
            targets: of these only; of all where it is ``None``.
            apart: what a directory has of each priority is a load of its own.
        """
        attempts = directory_attempts(self._connection)
        found = []
        backfills = _backfills(self._connection) if apart else {}
        others = _other_scopes(self._connection)
        forced_count = _forced(self._connection)
        rows = self._connection.execute(
            "SELECT d.id, d.target, t.name, d.url, d.ready, d.last_sequence,"
            f" ({OLDEST_READY})"
            " FROM directory d JOIN target t ON t.id = d.target WHERE d.ready > 0"
            f"{'' if targets is None else ' AND t.name IN (SELECT value FROM json_each(?))'}"
            f"{'' if most is None else f' ORDER BY d.ready DESC LIMIT {most:d}'}",
            () if targets is None else (json.dumps(list(targets)),),
        )
        for directory, target_id, target, url, ready, last, oldest in rows.fetchall():
            marks = attempts.marks(target_id, url)
            count, lowest, highest = backfills.get(directory, (0, Priority.LIVE, Priority.LIVE))
            if 0 < count < ready or lowest != highest:
                found += _parted(self._connection, directory, target, url, marks)
                continue
            other = others.get(directory, {})
            if marks.any:
                ready, oldest = _uncovered(self._connection, directory, last, marks, other)  # noqa: PLW2901
                other = _other_scopes_uncovered(self._connection, directory, marks) if ready else {}
            if ready:
                found.append(
                    Load(
                        directory,
                        target,
                        url,
                        ready - sum(other.values()),
                        other.get(Scope.ALL_PARAMS, 0),
                        other.get(Scope.SUBTREE, 0),
                        other.get(Scope.PREFETCH, 0),
                        oldest,
                        marks,
                        forced_count.get((directory, Scope.EXACT), 0),
                        forced_count.get((directory, Scope.ALL_PARAMS), 0),
                        Priority(lowest) if apart else None,
                    )
                )
        return found

    def last_sequence(self) -> int:
        """Return the sequence of the last change that was recorded."""
        return int(self._connection.execute("SELECT sequence FROM meta").fetchone()[0])

    def ready_needs(self, targets: Sequence[str]) -> int:
        """Return how many needs of these targets are ready, those that a directory attempt covers included."""
        return int(
            self._connection.execute(
                "SELECT coalesce(sum(ready), 0) FROM directory WHERE ready > 0 AND target IN"
                " (SELECT id FROM target WHERE name IN (SELECT value FROM json_each(?)))",
                (json.dumps(targets),),
            ).fetchone()[0]
        )

    def pending_units(self, targets: Sequence[str]) -> Counter[RefreshKind]:
        """Return how many requests of each kind the needs of these targets take that are in no attempt."""
        found: Counter[RefreshKind] = Counter()
        for load in self.loads():
            if load.target in targets:
                found.update(
                    dict(
                        zip(
                            KIND_OF_SCOPE.values(),
                            (load.exact, load.all_params, load.subtree, load.prefetch),
                            strict=True,
                        )
                    )
                )
        waiting = self._connection.execute(
            "SELECT scope, count(*) FROM need JOIN directory d ON d.id = need.directory"
            " JOIN target t ON t.id = d.target"
            " WHERE due_at IS NOT NULL /*! AND slot IS NOT NULL */"
            " AND t.name IN (SELECT value FROM json_each(?)) GROUP BY scope",
            (json.dumps(list(targets)),),
        )
        for scope, count in waiting:
            found[KIND_OF_SCOPE[Scope(scope)]] += count
        return found

    def due_rows(self, load: Load, scope: Scope, limit: int) -> list[DueRow]:
        """Return up to ``limit`` of a directory's ready needs of one scope that nothing covers, the oldest first."""
        passed = [name for name, of_scope in load.passed if of_scope == scope]
        rows = self._connection.execute(
            f"SELECT name, sequence, stale_since, reason, needs_force FROM need WHERE {UNCOVERED} AND scope = :scope"
            f"{f' AND {_OTHER_SCOPE}' if scope else ''}"
            f"{'' if load.priority is None else ' AND priority = :priority'}"
            f"{'' if load.inner == load.inner_files == '[]' else f' AND (NOT {IN_INNER} OR {_IS_PASSED})'}"
            " ORDER BY stale_since LIMIT :limit",
            covered_values(load.directory, load.marks)
            | {"scope": int(scope), "priority": load.priority, "limit": limit}
            | {"inner": load.inner, "inner_files": load.inner_files, "passed": json.dumps(passed)},
        )
        return [
            DueRow(
                load.target,
                load.url + name,
                scope,
                sequence,
                since,
                why,
                False,
                bool(force),
                load.passed.get((name, scope)),
            )
            for name, sequence, since, why, force in rows
        ]

    def manual_rows(self, limit: int) -> list[DueRow]:
        """Return uncovered ready needs that a person requested: the urgent first, then the oldest."""
        attempts = directory_attempts(self._connection)
        rows = self._connection.execute(
            "SELECT d.target, t.name, d.url, need.name, scope, sequence, open, needs_force, stale_since, reason, urgent"
            " FROM need JOIN directory d ON d.id = need.directory JOIN target t ON t.id = d.target"
            f" WHERE asked > 0 AND state = {NeedState.READY:d} ORDER BY urgent DESC, stale_since"
        )
        uncovered = (
            DueRow(target, place + name, Scope(scope), sequence, since, why, bool(urgent), bool(force))
            for target_id, target, place, name, scope, sequence, is_open, force, since, why, urgent in rows
            if not deciding(
                attempts.above(target_id, place), scope=scope, sequence=sequence, is_open=is_open, needs_force=force
            )
        )
        return list(islice(uncovered, limit))

    def expires(self, load: Load, *, before: float) -> bool:
        """Return whether :func:`listener.store.transitions.expire` would settle anything."""
        query = f"SELECT 1 FROM need WHERE {EXPIRED} LIMIT 1"
        return load.oldest < before and self._connection.execute(query, (load.directory, before)).fetchone() is not None

    # -- quota -----------------------------------------------------------------------------------

    def budget(self, account: str, allowance: Allowance, *, now: float) -> ledger.Budget:
        """See :func:`listener.store.ledger.budget`."""
        return ledger.budget(self._connection, account, allowance, now=now)

    def sent_since(self, account: str, since: float) -> Iterator[Sent]:
        """Yield what an account sent or reserved since then (seconds since the epoch); looks at no other attempts."""
        rows = self._connection.execute(
            "SELECT target.name, kind, url, priority, created_at FROM attempt JOIN target ON target.id = attempt.target"
            " WHERE created_at >= ? AND account = ?",
            (since, account),
        )
        return (
            Sent(target, RefreshKind(kind), url, Priority(priority), at) for target, kind, url, priority, at in rows
        )

    def slots_taken(self) -> Counter[tuple[str, RefreshKind]]:
        """Return how many attempts of each target and kind are made and not known to have ended."""
        rows = self._connection.execute(
            "SELECT target.name, kind, count(*) FROM attempt JOIN target ON target.id = attempt.target"
            " WHERE active = 1 AND state NOT IN ('complete', 'failed') GROUP BY target.name, kind"
        )
        return Counter({(target, RefreshKind(kind)): count for target, kind, count in rows})

    # -- index -----------------------------------------------------------------------------------

    def is_seeded(self, root: str) -> bool:
        """Return whether a first listing of this root was finished."""
        return is_seeded(self._connection, self._own_roots.get(root, root))

    def weight_below(self, root: str, prefix: str) -> int:
        """Return how many objects the index knows below a prefix (``""`` or ending with ``/``)."""
        raw = key_to_bytes(prefix)
        below = f"SELECT coalesce(sum(objects), 0) FROM tree WHERE {_ROOT} AND path >= ? AND path < ?"
        return int(
            self._connection.execute(below, (self._own_roots.get(root, root), raw, prefix_end_bytes(raw))).fetchone()[0]
        )

    def objects_in(self, root: str, folder: str) -> int:
        """Return how many objects the index knows directly in a folder (``""`` or ending with ``/``)."""
        known = f"SELECT coalesce(sum(objects), 0) FROM tree WHERE {_ROOT} AND path = ?"
        return int(
            self._connection.execute(known, (self._own_roots.get(root, root), key_to_bytes(folder))).fetchone()[0]
        )

    def objects_named(self, root: str, folder: str, directory: int) -> int:
        """
        Return how many of a folder's known objects the ready needs of a directory URL are about.

        An object with several URLs counts once, one that was deleted not at all.
        """
        row = self._connection.execute(
            f"SELECT count(*) FROM object WHERE tree = (SELECT id FROM tree WHERE {_ROOT} AND path = ?) AND name IN"
            f" (SELECT {_NAME_OF_OBJECT} FROM need WHERE directory = ? AND {_READY}"
            f" AND scope IN ({Scope.EXACT:d}, {Scope.ALL_PARAMS:d}))",
            (self._own_roots.get(root, root), key_to_bytes(folder), directory),
        ).fetchone()
        return int(row[0])


_ROOT = "root = (SELECT id FROM root WHERE name = ?)"


_NAME_OF_OBJECT = (
    "CASE WHEN instr(name, '%') > 0 OR instr(name, '?') > 0 THEN object_name(name) ELSE CAST(name AS BLOB) END"
)
"""Only names with an escape or a query are decoded, by a function of the driver."""


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
    evicts = f"(needs_force = 0 OR {force} = 1)"
    return f"(sequence <= {watermark} AND open = 0 AND scope IN ({scopes}) AND {evicts})"


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


def directory_attempts(connection: Connection) -> DirectoryAttempts:
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


UNCOVERED = f"directory = :directory AND {_READY} AND NOT {covered_by_marks(':any', ':forced')}"
"""A directory's ready needs that no directory attempt covers; values of :func:`covered_values`."""


UNSETTLED = f"state IN ({NeedState.WAITING:d}, {NeedState.READY:d}, {NeedState.ATTEMPTED:d})"
_NAMED = (
    f"name IN (SELECT name FROM need WHERE {UNSETTLED} AND {{}} AND directory IN (SELECT value FROM json_each({{}})))"
)
DROPPED = f"scope <> {Scope.PREFETCH:d}"
"""What a layer has to drop before an outer one fetches from it."""
EXACT_ONLY = f"scope = {Scope.EXACT:d}"
IN_INNER = f"({_NAMED.format(DROPPED, ':inner')} OR {_NAMED.format(EXACT_ONLY, ':inner_files')})"


_IS_PASSED = "name IN (SELECT value FROM json_each(:passed))"


def covered_values(directory: int, marks: Marks) -> dict[str, int]:
    """Return the values of :data:`UNCOVERED`."""
    return {"directory": directory, **marks._asdict()}


def _parted(connection: Connection, directory: int, target: str, url: str, marks: Marks) -> list[Load]:
    """Return what a directory has of each priority, apart."""
    rows = connection.execute(
        f"SELECT priority, scope, count(*), sum(needs_force), min(stale_since) FROM need WHERE {UNCOVERED}"
        " GROUP BY priority, scope",
        covered_values(directory, marks),
    )
    parts: dict[int, dict[int, tuple[int, int, float]]] = {}
    for priority, scope, count, forced_count, oldest in rows:
        parts.setdefault(priority, {})[scope] = (count, forced_count, oldest)
    nothing = (0, 0, 0.0)
    return [
        Load(
            directory,
            target,
            url,
            part.get(Scope.EXACT, nothing)[0],
            part.get(Scope.ALL_PARAMS, nothing)[0],
            part.get(Scope.SUBTREE, nothing)[0],
            part.get(Scope.PREFETCH, nothing)[0],
            min(oldest for _, _, oldest in part.values()),
            marks,
            part.get(Scope.EXACT, nothing)[1],
            part.get(Scope.ALL_PARAMS, nothing)[1],
            Priority(priority),
        )
        for priority, part in parts.items()
    ]


def _backfills(connection: Connection) -> dict[int, tuple[int, int, int]]:
    """Return, by directory, how many ready needs only a backfill requests, and their lowest and highest priority."""
    rows = connection.execute(
        f"SELECT directory, count(*), min(priority), max(priority) FROM need WHERE {_READY}"
        f" AND priority > {Priority.LIVE:d}"
        " GROUP BY directory"
    )
    return {directory: (count, lowest, highest) for directory, count, lowest, highest in rows}


def _uncovered(
    connection: Connection, directory: int, last: int, marks: Marks, other: Mapping[int, int]
) -> tuple[int, float]:
    """Count the ready needs that no directory attempt covers; reads their rows only where there may be one."""
    forced = connection.execute(
        f"SELECT 1 FROM need WHERE directory = ? AND {_READY} AND needs_force = 1 LIMIT 1",
        (directory,),
    )
    reached = marks.forced if last > marks.forced and forced.fetchone() else marks.any
    if last <= reached and not other.get(Scope.PREFETCH, 0):
        return 0, 0.0
    count, oldest = connection.execute(
        f"SELECT count(*), min(stale_since) FROM need WHERE {UNCOVERED}", covered_values(directory, marks)
    ).fetchone()
    return count, oldest or 0.0


def _other_scopes(connection: Connection) -> dict[int, dict[int, int]]:
    """Return, by directory, how many ready needs have each scope other than EXACT."""
    counts: dict[int, dict[int, int]] = {}
    rows = connection.execute(
        f"SELECT directory, scope, count(*) FROM need WHERE {_READY} AND {_OTHER_SCOPE} GROUP BY directory, scope"
    )
    for directory, scope, count in rows:
        counts.setdefault(directory, {})[scope] = count
    return counts


def _forced(connection: Connection) -> dict[tuple[int, int], int]:
    """Return, by directory and scope, how many ready needs need force."""
    rows = connection.execute(
        f"SELECT directory, scope, count(*) FROM need WHERE {_READY} AND needs_force = 1 GROUP BY directory, scope"
    )
    return {(directory, scope): count for directory, scope, count in rows}


def _other_scopes_uncovered(connection: Connection, directory: int, marks: Marks) -> dict[int, int]:
    query = f"SELECT scope, count(*) FROM need WHERE {UNCOVERED} AND {_OTHER_SCOPE} GROUP BY scope"
    return dict(connection.execute(query, covered_values(directory, marks)).fetchall())


_COUNT_READY = Bulk(
    "UPDATE directory SET ready = ready + of.column2, last_sequence = max(last_sequence, of.column3)"
    " FROM ({}) AS of WHERE id = of.column1",
    "({0}, {1}, {2})",
    columns=3,
)


def count_ready(connection: Connection, changes: Mapping[int, tuple[int, int]]) -> None:
    """
    Count needs that turn from WAITING to READY, or from READY to ATTEMPTED: the triggers do so for all others.

    Where triggers run once for a statement, they count these, too.

    Args:
        connection: the writing connection, inside a transaction.
        changes: by directory how many more are READY, and the highest sequence of these.
    """
    if in_sets_of(connection) is None:
        _COUNT_READY.write(connection, [(directory, *change) for directory, change in changes.items()])


EXPIRED = f"directory = ? AND {_READY} AND scope <> {Scope.PREFETCH:d} AND window_first < ?"
