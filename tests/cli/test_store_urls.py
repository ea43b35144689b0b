"""What commands do with the URL of a store that they cannot use."""

from __future__ import annotations

import pytest

from tests.cli.fixtures import Command
from tests.stand import Stand

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
