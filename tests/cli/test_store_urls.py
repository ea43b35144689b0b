"""The URLs of stores on the command line and in the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.fixtures import Command
from tests.stand import Stand
from tests.store.full_store import content_of, fill

SECRET = "hunter2"


@pytest.mark.parametrize("words", [["run"], ["status"], ["check"], ["wait"], ["store", "check"]])
def test_a_postgres_url_is_refused_at_once(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """The error says what to write instead, and shows no password."""
    monkeypatch.setenv("LISTENER_STORE__URL", f"postgresql://u:{SECRET}@db.invalid/listener")
    status, out, err = command(*words)
    assert status == (1 if words == ["check"] else 2)  # that one reports everything that it tried
    assert "this version cannot use a PostgreSQL store yet" in out + err
    assert "sqlite:////absolute/path.db" in out + err
    assert SECRET not in out + err


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
        assert "the command line is no place for a password" in err
        assert "PGPASSWORD" in err
        assert SECRET not in out + err
