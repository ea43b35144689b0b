"""Commands on a PostgreSQL store: they send where no instance runs, leave it to those that do, and name them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from listener.backfill import oneshot
from listener.cli import daemon_client
from listener.configuration import read_configuration
from listener.store.owner import Owner
from tests.cli.fixtures import Command
from tests.postgres.cluster import Cluster
from tests.stand import Stand
from tests.store.databases import prepare_schema

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def store(postgres_database: str, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the configuration name a PostgreSQL store without a schema; return the name of its database."""
    monkeypatch.setenv("LISTENER_STORE__URL", postgres_database)
    monkeypatch.setenv("LISTENER_FLEET__LEASE_SECONDS", "3")
    stand.configure()
    for key in ("a.html", "b/c.html"):
        stand.write(key)
    return postgres_database.rpartition("/")[2]


def let_run(postgres: Cluster, database: str, *names: str, seconds: int = 3600) -> None:
    """Let these instances have a heartbeat."""
    prepare_schema(postgres.url(database))
    for name in names:
        postgres.value(
            "INSERT INTO cdn_listener.instance (name, incarnation, until, version, leases, started_at)"
            " VALUES (%s, 1, clock_timestamp() + make_interval(secs => %s), '1', '{}', clock_timestamp())",
            name, seconds, database=database,
        )  # fmt: skip


def test_without_an_instance_a_command_sends(store: str, stand: Stand, command: Command) -> None:
    """As with a state file: a backfill of everything, and a refresh that waits; it leaves in order."""
    status, out, err = command("backfill", "--yes", "--wait")
    assert (status, err) == (0, "")
    assert sorted(stand.paths()) == [stand.url("a.html"), stand.url("b/c.html")]
    assert "sends them" not in out
    status, out, _ = command("refresh", stand.url("a.html"), "--wait", "--json")
    assert status == 0
    assert json.loads(out)["sent_by"] == "this process"
    assert json.loads(out)["urls"][0]["state"] == "complete"
    found = json.loads(command("status", "--json")[1])
    assert (found["running"], found["instances"], found["pending"], found["in_flight"]) == (False, [], 0, 0)
    assert found["quota"]["cdn"]["file"]["spent"] == 3
    assert found["problems"] == []


@pytest.mark.parametrize(
    ("names", "words"),
    [(["web-1"], "instance web-1 sends them"), (["web-1", "web-2"], "instances web-1 and web-2 run and send them")],
)
def test_with_instances_a_command_leaves_it_to_them(
    store: str, stand: Stand, command: Command, postgres: Cluster, names: list[str], words: str
) -> None:
    """It records, names who sends, and sends nothing itself."""
    let_run(postgres, store, *names)
    assert words in command("backfill", "--yes")[1]
    for verb in ("refresh", "prefetch"):
        status, out, _ = command(verb, stand.url("a.html"))
        assert (status, words in out) == (0, True)
    assert stand.paths() == []
    assert json.loads(command("status", "--json")[1])["pending"] == 3


def test_an_instance_that_starts_meanwhile_sends_the_rest(
    store: str, stand: Stand, command: Command, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lease of the account: the command records, and does not wait for a lease that it will not get."""
    let_run(postgres, store, "web-1")
    lease = "INSERT INTO cdn_listener.lease (name, instance, incarnation, term) VALUES ('main', 'web-1', 1, 1)"
    postgres.value(lease, database=store)
    monkeypatch.setattr(oneshot, "owner_of", lambda _: Owner(False))  # as it was when the command began
    assert command("backfill", "--yes")[0] == 0
    assert stand.paths() == []
    assert json.loads(command("status", "--json")[1])["pending"] == 2


def test_an_instance_that_died_is_no_sender(store: str, stand: Stand, command: Command, postgres: Cluster) -> None:
    """Its heartbeat is over: the command sends, and status says what to do about the instance."""
    let_run(postgres, store, "web-1", seconds=-5)
    assert command("refresh", stand.url("a.html"), "--wait")[0] == 0
    assert stand.paths() == [stand.url("a.html")]
    out = command("status")[1]
    assert "problem: instance web-1: no heartbeat" in out
    assert "cdn-listener fleet forget web-1" in out
    status, out, _ = command("fleet", "forget", "web-1")
    assert (status, out) == (
        0,
        "web-1 is forgotten: released 0 leases; removed 0 source reports and 0 index rows of its copies\n",
    )
    assert "web-1" not in command("status")[1]
    status, _, err = command("fleet", "forget", "web-9")
    assert (status, "there is no instance 'web-9'" in err) == (2, True)


def test_an_instance_that_runs_is_not_forgotten(store: str, command: Command, postgres: Cluster) -> None:
    """With the time that its heartbeat lasts."""
    let_run(postgres, store, "web-1")
    status, _, err = command("fleet", "forget", "web-1")
    assert (status, "instance web-1 runs" in err, "stop it first" in err) == (1, True, True)


def test_what_was_sent_for_an_account_without_an_instance_is_released(
    store: str, stand: Stand, command: Command, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status names it with the command, which settles it; a misspelt account is an error of usage."""
    monkeypatch.setenv("LISTENER_VERIFIER__FIRST_SECONDS", "60")
    assert command("refresh", stand.url("a.html"))[0] == 0  # accepted, and not followed
    let_run(postgres, store, "web-1")
    postgres.value("UPDATE cdn_listener.lease SET name = 'old' WHERE name = 'main'", database=store)
    postgres.value("UPDATE cdn_listener.attempt_group SET account = 'old'", database=store)
    out = command("status")[1]
    assert "problem: account old: requests are in flight, and no running instance is configured for it" in out
    assert "cdn-listener fleet release old" in out
    assert "old: 0 refunded, 1 counted as spent, 0 ended before" in command("fleet", "release", "old")[1]
    assert "account old" not in command("status")[1]
    status, _, err = command("fleet", "release", "olt")
    assert (status, "account olt: nothing is in flight for it" in err) == (2, True)


def test_a_state_file_has_no_fleet(stand: Stand, command: Command) -> None:
    """The setting is named."""
    stand.configure()
    for words in (["fleet", "forget", "web-1"], ["fleet", "release", "main"]):
        status, _, err = command(*words)
        assert (status, "store.url: a state file has one daemon" in err) == (2, True)


def test_the_group_of_an_instance_needs_no_password(store: str, stand: Stand) -> None:
    """Through the socket next to the admin socket: the instance does what it is sent, with its own connection."""
    admin = stand.root / "admin.sock"
    stand.put(stand.config.read_text().replace("[admin]", f'[admin]\nsocket = "{admin}"'))
    with stand.daemon():
        read = read_configuration(stand.config, os.environ)
        assert [path.name for path, _ in daemon_client._sockets(read)] == ["admin.sock.commands"]

        def sent(name: str, **arguments: Any) -> Any:
            request = {"command": name, "arguments": arguments}
            return daemon_client._response(Path(f"{admin}.commands"), stand.root, read, request)["result"]

        assert sent("status")["running"] is True
        assert [one["order"]["kind"] for one in sent("impose", kind="hold", seconds=60, reason="deploy")] == ["hold"]
        assert sent("end", kind="hold", site=None, target=None, reason="")["ended"] == 1
        assert {one["state"] for one in sent("check")} <= {"ok", "warning"}
