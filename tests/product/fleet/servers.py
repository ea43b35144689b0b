"""The database of a storm: a server that crashes, the pool in front of it, or the standby that takes its place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.postgres.cluster import Cluster, Standby
from tests.postgres.pool import Pool, pgbouncer
from tests.postgres.wire import Wire

ANSWER_SECONDS = 60.0


class Servers:
    """What the instances reach: ``ports`` of a server, of a pool, or of a server and its standby."""

    def __init__(self, primary: Cluster, *, pool: Pool | None = None, standby: Standby | None = None) -> None:
        """Take what runs."""
        self.primary = primary
        self.standby = standby
        self.place = 0
        """Which of ``ports`` leads to the primary."""
        main = pool.port if pool else primary.port
        self.ports = [main, standby.port] if standby else [main]
        self.promotions = 0
        self.is_synchronous = False
        """Whether each commit waits for the standby."""

    def wait_for_standby(self) -> None:
        """Let each commit wait until the standby has it, so that a promotion loses none; also of one that follows."""
        self.is_synchronous = True
        self.primary.configure(synchronous_standby_names="*")

    def crash(self, down_seconds: float) -> None:
        """Stop the server at once, and start it again after some time."""
        self.primary.stop("immediate")
        time.sleep(down_seconds)
        self.primary.start()

    def promote(self, stalled_seconds: float, wires: list[list[Wire]]) -> None:
        """
        Lose the primary and promote the standby; another standby follows in the place of the lost one.

        Args:
            stalled_seconds: for so long the standby has received nothing when the primary is lost: commits vanish.
                Not with :meth:`wait_for_standby`.
            wires: for each instance its wires, in the order of ``ports``.
        """
        standby, lost = self.standby, self.primary
        assert standby is not None
        if stalled_seconds:
            standby.stall()
            time.sleep(stalled_seconds)
        lost.stop("immediate")
        standby.promote()
        standby.resume()
        self.primary, self.promotions = standby, self.promotions + 1
        lost.remove()
        self.standby = standby.standby()
        if self.is_synchronous:
            self.wait_for_standby()
        for each in wires:
            each[self.place].target_port = self.standby.port
        self.ports[self.place] = self.standby.port
        self.place = 1 - self.place

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, from the primary itself; wait while it is down."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                with self.primary.connect(options="-c search_path=cdn_listener") as connection:
                    return connection.execute(statement).fetchall()
            except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def remove(self) -> None:
        """Stop and remove whatever runs now."""
        with suppress(AssertionError):
            self.primary.remove()
        if self.standby is not None:
            self.standby.remove()


@contextmanager
def servers_of(initial: tuple[Path, Path], *, pool_command: str = "", standby: bool = False) -> Iterator[Servers]:
    """Run a server, with a pool in front of it or a standby behind it."""
    primary = Cluster.copied(*initial)
    found: Servers | None = None
    try:
        primary.start()
        if pool_command:
            with pgbouncer(pool_command, primary) as pool:
                yield Servers(primary, pool=pool)
            return
        found = Servers(primary, standby=primary.standby() if standby else None)
        yield found
    finally:
        (primary if found is None else found).remove()
