"""The URLs of stores on the command line and in the configuration."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from listener.store import open_store
from listener.store.batches import Batch
from tests.cli.fixtures import Command
from tests.postgres.cluster import Cluster
from tests.postgres.pool import Pool
from tests.stand import Stand
from tests.store.databases import prepare_schema
from tests.store.full_store import content_of, fill
from tests.store.steps import content, route

SECRET = "hunter2"


COMMANDS = [["run"], ["status"], ["check"], ["wait"], ["store", "check"]]


@pytest.mark.parametrize("words", COMMANDS[1:])
def test_a_server_that_is_not_reached_is_reported_at_once(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """With its place and what to look at; the password is not shown. A daemon waits for it instead."""
    monkeypatch.setenv("LISTENER_STORE__URL", f"postgresql://u:{SECRET}@127.0.0.1:1/listener")
    status, out, err = command(*words)
    assert status == 1
    assert "PostgreSQL 127.0.0.1:1: " in out + err
    assert SECRET not in out + err


@pytest.mark.parametrize("words", [*COMMANDS, ["pause"], ["backfill", "--dry-run"]])
def test_a_database_that_does_not_exist_is_a_wrong_setting(
    postgres: Cluster, stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """It is named with its server and the setting; nothing is said of a daemon or a state file."""
    stand.configure()
    monkeypatch.setenv("LISTENER_STORE__URL", postgres.url("lisener"))
    status, out, err = command(*words)
    assert status == (1 if words == ["check"] else 2)  # that one reports everything that it tried
    assert f"store.url: database 'lisener' on PostgreSQL 127.0.0.1:{postgres.port}: " in out + err
    assert "state file" not in out + err
    assert "not running" not in out + err


def test_a_database_without_a_store_is_named(in_postgres: str, stand: Stand, command: Command) -> None:
    """It may be another one than the daemon uses: what needs a store names it, status shows it."""
    stand.configure()
    name = in_postgres.rpartition("/")[2]
    status, out, _ = command("status")
    assert (status, "store: there is none yet at postgresql://" in out, f"/{name}\n" in out) == (0, True, True)
    for words in (["wait"], ["pause"], ["store", "check"]):
        status, _, err = command(*words)
        assert (status, f"database {name} on PostgreSQL 127.0.0.1:" in err) == (1, True), words
        assert "correct store.url" in err
        assert "state file" not in err


@pytest.fixture
def role(postgres: Cluster) -> Iterator[str]:
    """A role without any right but to connect; what it owns is dropped with it."""
    name = "reader of tables"
    postgres.value(f'CREATE ROLE "{name}" LOGIN')
    yield name
    postgres.value(f'DROP ROLE "{name}"')


def test_check_names_the_right_that_is_missing(
    role: str, postgres: Cluster, stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make the schema, to make tables in one, to use the tables: each with the statement that gives it."""
    stand.configure()
    with postgres.database() as name:
        monkeypatch.setenv("LISTENER_STORE__URL", postgres.url(name, user=quote(role)))

        def refused() -> str:
            status, out, err = command("check")
            assert status == 1
            return out + err

        def grant(statement: str) -> None:
            postgres.value(statement.format(role=f'"{role}"'), database=name)

        found = refused()
        assert f"role {role} has no right to make schema cdn_listener in database {name}" in found
        assert f'GRANT CREATE ON DATABASE "{name}" TO "{role}"' in found
        grant("CREATE SCHEMA cdn_listener")
        assert "has no right to make tables in schema cdn_listener" in refused()
        grant("ALTER SCHEMA cdn_listener OWNER TO {role}")
        assert "can be made" in command("check")[1]
        grant("DROP SCHEMA cdn_listener")
        prepare_schema(postgres.url(name))
        assert "has no right to use schema cdn_listener" in refused()
        grant("GRANT USAGE ON SCHEMA cdn_listener TO {role}")
        assert "has no right to read and write tables of schema cdn_listener (account, attempt_group, " in refused()
        grant("GRANT ALL ON ALL TABLES IN SCHEMA cdn_listener TO {role}")
        assert "schema cdn_listener" in command("check")[1]
        grant("UPDATE cdn_listener.schema_version SET min_program = 9999")
        assert "needs version 9999 or newer" in refused()


def test_a_schema_that_was_made_for_the_role_is_filled(role: str, postgres: Cluster) -> None:
    """Without the right to make schemas."""
    with postgres.database() as name:
        postgres.value(f'CREATE SCHEMA cdn_listener AUTHORIZATION "{role}"', database=name)
        prepare_schema(postgres.url(name, user=quote(role)))
        assert postgres.value("SELECT version FROM cdn_listener.schema_version", database=name)


@pytest.mark.parametrize("words", COMMANDS)
def test_without_the_extra_the_package_is_named(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Whatever needs the store says what to install."""
    monkeypatch.setenv("LISTENER_STORE__URL", "postgresql://u@127.0.0.1:1/listener")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    status, out, err = command(*words)
    assert status == (1 if words == ["check"] else 2)  # that one reports everything that it tried
    assert "pip install 'cdn-listener[fleet]'" in out + err


async def record(url: str, keys: int) -> None:
    """Make a store with as many needs."""
    async with open_store(url) as store:
        await store.record([Batch([content(f"{number}.html") for number in range(keys)], None, False)], route)


@pytest.fixture
def in_postgres(postgres_database: str, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the configuration name a PostgreSQL store."""
    monkeypatch.setenv("LISTENER_STORE__URL", postgres_database)
    return postgres_database


def test_commands_read_a_store_in_postgres(in_postgres: str, command: Command, tmp_path: Path) -> None:
    """There is none at first, which nothing changes; a moved one is shown and checked."""
    assert command("status", "--json")[0] == 0
    assert "does not exist yet and can be made" in command("check")[1]
    assert "there is no store yet" in command("store", "check")[2]
    origin = f"sqlite:///{tmp_path}/a.db"
    asyncio.run(record(origin, 7))
    assert command("store", "move", origin, in_postgres)[0] == 0
    assert json.loads(command("status", "--json")[1])["pending"] == 7
    assert "schema cdn_listener" in command("check")[1]
    status, out, _ = command("store", "check")
    assert status == 1
    assert "the server runs with fsync = off" in out
    status, _, err = command("store", "move", in_postgres, f"sqlite:///{tmp_path}/b.db")
    assert (status, err) == (0, "")


def test_a_pool_that_mixes_prepared_statements_up_is_found(
    postgres: Cluster, postgres_pool: Pool, stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finding names the setting; with it the same pool is sound."""
    with postgres.database() as name:
        prepare_schema(postgres.url(name))
        monkeypatch.setenv("LISTENER_STORE__URL", postgres_pool.url(name))
        assert "set store.prepared = false" in command("store", "check")[1]
        monkeypatch.setenv("LISTENER_STORE__PREPARED", "false")
        assert "prepared" not in command("store", "check")[1]


@pytest.mark.parametrize(("words", "tool"), [(["backup", "x"], "pg_dump"), (["compact"], "VACUUM (FULL)")])
def test_what_postgres_does_better_is_named(in_postgres: str, command: Command, words: list[str], tool: str) -> None:
    """Nothing is done, and the exit status says so."""
    status, _, err = command("store", *words)
    assert (status, tool in err) == (2, True)


def test_store_move_copies_a_store(command: Command, tmp_path: Path) -> None:
    """Both URLs are named on the command line; the rows are counted; the origin stays."""
    fill(tmp_path / "a.db", rows=10)
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("a", "b")]
    status, out, _ = command("store", "move", *urls, "--json")
    assert (status, json.loads(out)["rows"]["need"]) == (0, 10)
    assert content_of(tmp_path / "b.db") == content_of(tmp_path / "a.db")
    status, _, err = command("store", "move", *urls)
    assert (status, "already exists" in err) == (1, True)
    urls[1] = f"sqlite:///{tmp_path}/c.db"
    assert "set store.url to the new one" in command("store", "move", *urls)[1]


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{SECRET}@db/listener", f"postgresql://u@db/listener?password={SECRET}"]
)
def test_store_move_takes_no_password_on_the_command_line(command: Command, tmp_path: Path, url: str) -> None:
    """Other users can read it there: refused before anything is opened, and not shown once more."""
    fill(tmp_path / "a.db", rows=1)
    for urls in ([f"sqlite:///{tmp_path}/a.db", url], [url, f"sqlite:///{tmp_path}/b.db"]):
        status, out, err = command("store", "move", *urls)
        assert status == 2
        assert "a password is not accepted on the command line" in err
        assert "PGPASSWORD" in err
        assert SECRET not in out + err
