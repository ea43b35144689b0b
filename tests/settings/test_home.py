"""A ``~`` at the beginning of a path is the home directory, wherever a path may stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.alibaba import EnvironmentKeys
from listener.alibaba.signature import Credentials
from listener.backfill import read_entries
from listener.configuration import sqlite_path
from listener.emulator.origin import origin_of
from listener.settings import expanded, load_settings
from listener.sources.filesystem import FilesystemSettings
from listener.sources.listing.settings import parse_place
from listener.sources.webhook.settings import WebhookSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_paths_of_the_configuration(home: Path) -> None:
    """The tree, TLS files, the state file and a listing on disk."""
    assert FilesystemSettings(path="~/www").path == home / "www"  # type: ignore[arg-type]
    assert sqlite_path("sqlite:///~/state.db") == home / "state.db"
    assert sqlite_path("sqlite:///state/~.db") == Path("state/~.db")
    assert parse_place("~/inventory/manifest.json").key == f"{home}/inventory/manifest.json"
    hook = WebhookSettings(listen="127.0.0.1:1", anonymous=True, tls_certificate="~/c.pem", tls_key="~/k.pem")  # type: ignore[arg-type,call-arg]
    assert (hook.tls_certificate, hook.tls_key) == (home / "c.pem", home / "k.pem")


@pytest.mark.looptime(False)
async def test_paths_of_the_environment(home: Path) -> None:
    """The configuration file, and files that hold a key."""
    (home / "listener.toml").write_text("[planner]\nreserve = 0.5\n")
    (home / "id").write_text("an-id\n")
    (home / "secret").write_text("a-secret\n")
    for settings in (
        load_settings(Path("~/listener.toml"), {}),
        load_settings(None, {"LISTENER_CONFIG": "~/listener.toml"}),
    ):
        assert settings.planner.reserve == 0.5
    names = {"ALIBABA_CLOUD_ACCESS_KEY_ID_FILE": "~/id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET_FILE": "~/secret"}
    assert await EnvironmentKeys(names).read() == Credentials("an-id", "a-secret", None)


def test_paths_of_commands(home: Path) -> None:
    """Lists of keys, and the origin of the emulator; an unknown user's home stays as it is written."""
    (home / "keys").write_text("a\n")
    assert list(read_entries(Path("~/keys"))) == [b"a"]
    assert origin_of("~", index_documents=()) is not None
    assert expanded(Path("~nobody-of-this-name/x")) == Path("~nobody-of-this-name/x")
