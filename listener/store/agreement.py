"""Whether rows that say the same agree: aggregates with what they count, references with what is there."""

from __future__ import annotations

from typing import Final

from listener.refresh import NeedState
from listener.store.connection import Connection
from listener.store.ledger import mismatches

__all__ = ["DISAGREEMENTS", "FINDINGS", "disagreements"]

FINDINGS: Final = 20
"""At most so many inconsistent rows are reported of each kind."""

DISAGREEMENTS: Final = {
    "directories whose number of due needs is wrong": f"""
        SELECT url FROM directory d WHERE
          ready <> (SELECT count(*) FROM need WHERE directory = d.id AND state = {NeedState.READY:d})
          OR last_sequence < (SELECT max(sequence) FROM need WHERE directory = d.id AND state = {NeedState.READY:d})""",
    "directories of the index whose number of objects is wrong": """
        SELECT path FROM tree WHERE objects <> (SELECT count(*) FROM object WHERE tree = tree.id)""",
    "needs of a directory that is not there": """
        SELECT name FROM need WHERE NOT EXISTS (SELECT 1 FROM directory WHERE id = need.directory)""",
    "needs of an attempt that is over": """
        SELECT name FROM need WHERE attempt IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.id = need.attempt AND a.active = 1)""",
    "attempts of a group that is not there": """
        SELECT url FROM attempt_item i WHERE NOT EXISTS (SELECT 1 FROM attempt_group g WHERE g.id = i.group_id)""",
}


def disagreements(connection: Connection) -> list[str]:
    """Return which rows disagree, a sentence for each kind with the first of them."""
    found = {what: _names(connection, query) for what, query in DISAGREEMENTS.items()}
    found["ledger entries that hold what no attempt holds"] = mismatches(connection)[:FINDINGS]
    return [f"{what}: {', '.join(names)}" for what, names in found.items() if names]


def _names(connection: Connection, query: str) -> list[str]:
    rows = [row[0] for row in connection.execute(f"{query} LIMIT {FINDINGS}")]
    return [row.decode("utf-8", "backslashreplace") if isinstance(row, bytes) else str(row) for row in rows]
