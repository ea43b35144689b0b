"""A state file with rows of every kind in every table, and what is in one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from listener.store.moving import TABLES
from listener.store.sqlite.database import prepare

ROWS = 120
LARGEST = 2**63 - 1
TEXTS = ("", "plain", "ünïcödé/\U0001f600", "quote ' \" \\ \\N \t\n", "%25?q=1&r=[]")
BYTES = (b"", b"plain/", b"\x00\xff\xfe not UTF-8", "ü/".encode(), b"\\x00 \\ \n")


def fill(path: Path, rows: int = ROWS) -> None:
    """Make the file; each table has as many rows, whose values reach what their columns may hold."""
    with closing(prepare(path)) as connection:
        connection.execute("BEGIN")
        for table in TABLES:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            marks = ", ".join("?" * len(columns))
            values = ([_value(table, column, number) for column in columns] for number in range(1, rows + 1))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
        connection.execute("UPDATE meta SET sequence = 123456789, created_at = 1.25")
        connection.execute("DELETE FROM dead_letter WHERE id > ?", (rows - 5,))  # ids that may not come again
        connection.execute("UPDATE directory SET last_sequence = last_sequence + 7")  # of needs that are settled
        connection.execute("COMMIT")


def _value(table: str, column: tuple[Any, ...], number: int) -> object:
    _, name, kind, required, _, key = column
    if not (required or key) and number % 4 == 0:
        return None
    of_kind = {
        "TEXT": f"{TEXTS[number % len(TEXTS)]}{number}",
        "BLOB": BYTES[number % len(BYTES)] + b"%d" % number,
        "REAL": number + 0.1,
        "INTEGER": LARGEST - number if name in ("inode", "mtime_ns") else number * 1_000_003,
    }
    if kind == "INTEGER" and name in ("id", "number", "directory", "target", "root", "tree", "attempt", "group_id"):
        return number
    return number % 3 if (table, name) in (("need", "scope"), ("need", "state"), ("need", "open")) else of_kind[kind]


def content_of(path: Path) -> dict[str, list[Any]]:
    """Return all rows of all tables, with the counters."""
    with closing(sqlite3.connect(path)) as connection:
        found = {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in (*TABLES, "sqlite_sequence")
        }
        found["meta"] = connection.execute("SELECT sequence, created_at FROM meta").fetchall()
        found["schema"] = sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall(), key=repr)
        return found
