"""One consistent read of the store: what planning, the outlook and a backfill's cost estimate look up."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

from listener.refresh import RefreshKind, Scope
from listener.store import index, ledger, needs, spending
from listener.store.index import is_seeded

__all__ = ["Snapshot"]


class Snapshot:
    """The state file as it was at one instant; made by :meth:`listener.store.Store.read`, in whose query it lives."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection in a reading transaction."""
        self._connection = connection

    # -- needs -----------------------------------------------------------------------------------

    def loads(self, *, most: int | None = None, apart: bool = False) -> list[needs.Load]:
        """See :func:`listener.store.needs.loads`."""
        return needs.loads(self._connection, most=most, apart=apart)

    def ready_needs(self, targets: Sequence[str]) -> int:
        """See :func:`listener.store.needs.ready_needs`."""
        return needs.ready_needs(self._connection, targets)

    def pending_units(self, targets: Sequence[str]) -> Counter[RefreshKind]:
        """See :func:`listener.store.needs.pending_units`."""
        return needs.pending_units(self._connection, targets)

    def due_rows(self, load: needs.Load, scope: Scope, limit: int) -> list[needs.DueRow]:
        """See :func:`listener.store.needs.due_rows`."""
        return needs.due_rows(self._connection, load, scope, limit)

    def expires(self, load: needs.Load, *, before: float) -> bool:
        """See :func:`listener.store.needs.expires`."""
        return needs.expires(self._connection, load, before=before)

    # -- quota -----------------------------------------------------------------------------------

    def budget(self, account: str, kind: RefreshKind, *, now: float, default: int) -> ledger.Budget:
        """See :func:`listener.store.ledger.budget`."""
        return ledger.budget(self._connection, account, kind, now=now, default=default)

    def units_today(self, account: str, *, now: float, since: float = 0.0) -> Iterator[spending.Unit]:
        """See :func:`listener.store.spending.units_today`."""
        return spending.units_today(self._connection, account, now=now, since=since)

    def moments(self, account: str, *, since: float, span_seconds: float) -> list[spending.Moment]:
        """See :func:`listener.store.spending.moments`."""
        return spending.moments(self._connection, account, since=since, span_seconds=span_seconds)

    def slots_taken(self) -> Counter[tuple[str, RefreshKind]]:
        """See :func:`listener.store.spending.slots_taken`."""
        return spending.slots_taken(self._connection)

    # -- index -----------------------------------------------------------------------------------

    def is_seeded(self, root: str) -> bool:
        """See :func:`listener.store.index.is_seeded`."""
        return is_seeded(self._connection, root)

    def weight_below(self, root: str, prefix: str) -> int:
        """See :func:`listener.store.index.weight_below`."""
        return index.weight_below(self._connection, root, prefix)

    def objects_in(self, root: str, folder: str) -> int:
        """See :func:`listener.store.index.objects_in`."""
        return index.objects_in(self._connection, root, folder)

    def objects_named(self, root: str, folder: str, directory: int) -> int:
        """See :func:`listener.store.index.objects_due`."""
        return index.objects_due(self._connection, root, folder, directory)
