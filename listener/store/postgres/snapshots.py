"""
Who else holds an old snapshot of the database: what was changed since then keeps its old rows, and becomes slow.

A thousand changes of one key leave a thousand rows that no vacuum may remove; each further change passes all of them.
Snapshots are those of transactions, of prepared transactions, and of replicas, by a slot or feedback.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg

from listener.store.fleet import OldSnapshot

__all__ = ["old_snapshots"]

OLD_SECONDS: Final = 60
OLD_TRANSACTIONS: Final = 100_000
"""Of a replica, for which the server keeps no time."""
_HELD: Final = f"""
SELECT 'a transaction of ' || coalesce(nullif(application_name, ''), usename, 'a client'),
  extract(epoch FROM xact_start)::float8, 'SELECT pg_terminate_backend(' || pid || ')'
FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL
  AND backend_type = 'client backend' AND xact_start < clock_timestamp() - interval '{OLD_SECONDS} s'
UNION ALL SELECT 'prepared transaction ' || gid, extract(epoch FROM prepared)::float8,
  'ROLLBACK PREPARED ' || quote_literal(gid)
FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < clock_timestamp() - interval '{OLD_SECONDS} s'
UNION ALL SELECT 'replication slot ' || slot_name, NULL,
  'SELECT pg_drop_replication_slot(' || quote_literal(slot_name) || ')'
FROM pg_replication_slots WHERE age(xmin) > {OLD_TRANSACTIONS}
UNION ALL SELECT 'standby ' || coalesce(nullif(application_name, ''), 'without a name'), NULL,
  'hot_standby_feedback = off on it'
FROM pg_stat_replication WHERE age(backend_xmin) > {OLD_TRANSACTIONS}
ORDER BY 2 NULLS LAST LIMIT 10
"""


def old_snapshots(raw: psycopg.Connection[Any]) -> list[OldSnapshot]:
    """Return those older than a minute, or than 100,000 transactions, that this role may see; the oldest first."""
    return [OldSnapshot(*row) for row in psycopg.Cursor(raw).execute(_HELD.encode(), prepare=False)]
