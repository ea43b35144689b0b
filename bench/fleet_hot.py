"""A million changes of the same keys: how fast and how large the store stays, with and without a snapshot held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.store import _sites, change
from listener.store import open_store
from listener.store.batches import Batch
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster

__all__ = ["hot_keys"]

BATCH = 500
KEYS = 5_000
PARTS = 10
SIZES = """
SELECT relname, pg_table_size(relid) / 1e6, pg_indexes_size(relid) / 1e6,
  100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1), autovacuum_count
FROM pg_stat_user_tables WHERE relname IN ('need', 'object', 'directory', 'tree', 'instance_count', 'installation')
"""


@contextmanager
def _snapshot(url: str, *, is_held: bool) -> Iterator[None]:
    with psycopg.connect(url) as connection:
        if is_held:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cdn_listener.need")
        yield


async def _change(url: str, changes: int) -> list[float]:
    """Record so many changes of the keys in turn; return the changes per second of each part."""
    found, done = [], 0
    async with open_store(url, owner=True, options=StoreOptions(instance="bench")) as store:
        for _ in range(PARTS):
            began = time.monotonic()
            for _ in range(changes // PARTS // BATCH):
                version, at = divmod(done, KEYS)
                batch = Batch([change(at + n, version) for n in range(BATCH)])
                await store.record([batch], _sites.route, _sites.folder)
                done += BATCH
            found.append(changes / PARTS / (time.monotonic() - began))
    return found


def _sizes(url: str) -> list[tuple[Any, ...]]:
    time.sleep(1.0)  # statistics follow
    with psycopg.connect(url) as connection:
        return connection.execute(SIZES.encode()).fetchall()


def hot_keys(cluster: Cluster, changes: int) -> dict[str, float]:
    """Return changes per second at the beginning and the end, megabytes, and the share of HOT updates in percent."""
    found: dict[str, float] = {}
    for name, is_held in (("free", False), ("held", True)):
        with cluster.database() as database:
            url = cluster.url(database)
            asyncio.run(_change(url, KEYS * PARTS))  # each key is there
            with _snapshot(url, is_held=is_held):
                rates = asyncio.run(_change(url, changes))
                found |= {f"{name}.first_per_second": rates[0], f"{name}.last_per_second": rates[-1]}
                for table, heap, indexes, hot, vacuums in _sizes(url):
                    place = f"{name}.{table}"
                    found |= {f"{place}.heap_mb": heap, f"{place}.index_mb": indexes, f"{place}.hot_percent": hot}
                    found[f"{place}.autovacuums"] = vacuums
    return found
