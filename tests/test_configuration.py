"""What the configuration says before it is checked: where a relative state file is, and what identifies it."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.configuration import (
    SECTIONS,
    command_socket_path,
    merged,
    read_configuration,
    sqlite_path,
    state_directory,
)
from listener.settings import Settings

TABLE = {"store": {"url": "sqlite:///state.db"}, "sources": {"hook": {"type": "webhook"}}}


def test_the_tables_that_a_variable_may_name_are_those_of_the_settings() -> None:
    """The names are written twice, since the settings take long to import."""
    assert list(SECTIONS) == list(Settings.model_fields)


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_a_relative_state_file_begins_where_the_configuration_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Whichever directory a command is started in, it finds the same state."""
    site = tmp_path / "a site"
    site.mkdir()
    (site / "listener.toml").write_text('store.url = "sqlite:///var/state.db"\n')
    for here in (site, tmp_path, Path("/")):
        monkeypatch.chdir(here)
        file = site / "listener.toml"
        read = (
            read_configuration(file, {})
            if way == "argument"
            else read_configuration(None, {"LISTENER_CONFIG": f"{file}"})
        )
        assert (here / sqlite_path(read.table["store"]["url"])) == site / "var/state.db"


def test_in_its_own_directory_a_relative_state_file_stays_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts everything in one directory sees the URL that is in the file."""
    monkeypatch.chdir(tmp_path)
    assert merged(TABLE, {}, path=Path("listener.toml")).table["store"]["url"] == "sqlite:///state.db"


@pytest.mark.parametrize(
    "url", ["sqlite:////var/state.db", "sqlite:///~/state.db", "postgresql://db/listener", "wrong"]
)
def test_only_a_relative_state_file_is_completed(tmp_path: Path, url: str) -> None:
    """What is no relative path stays as it is, also where it is wrong."""
    assert merged({"store": {"url": url}}, {}, path=tmp_path / "x.toml").table["store"]["url"] == url


def test_a_relative_state_file_from_the_environment_begins_in_the_current_directory(tmp_path: Path) -> None:
    """A variable belongs to the process, not to the file."""
    read = merged(TABLE, {"LISTENER_STORE__URL": "sqlite:///own.db"}, path=tmp_path / "listener.toml")
    assert read.table["store"]["url"] == "sqlite:///own.db"


def test_whatever_decides_the_settings_changes_the_fingerprint(tmp_path: Path) -> None:
    """A daemon answers only a command that would read the same settings."""
    path = tmp_path / "listener.toml"
    same = merged(TABLE, {}, path=path)
    assert merged(TABLE, {"HOME": "/x", "LISTENER_LOG_LEVEL": "debug"}, path=path).fingerprints == same.fingerprints
    others = [
        merged({**TABLE, "admin": {"token": "x"}}, {}, path=path),
        merged(TABLE, {}, path=tmp_path / "other.toml"),
        merged(TABLE, {"LISTENER_PLANNER__RESERVE": "0.2"}, path=path),
        merged(TABLE, {"LISTENER_STORE_URL": "x"}, path=path),
    ]
    found = [one.fingerprints for one in (same, *others)]
    assert len(set(found)) == len(found)


def test_a_secret_of_the_daemon_and_its_runtime_directory_do_not_make_another_configuration(tmp_path: Path) -> None:
    """A user has neither, and the daemon accepts the request; a secret that differs is another configuration."""
    path, token = tmp_path / "listener.toml", {"LISTENER_ADMIN__TOKEN": "t" * 16}
    user = merged(TABLE, {}, path=path).fingerprints[0]
    daemon = merged(TABLE, {**token, "RUNTIME_DIRECTORY": "/run/x"}, path=path)
    assert daemon.table["admin"] == {"token": "t" * 16, "socket": "/run/x/admin.sock"}
    assert user in daemon.fingerprints
    assert merged(TABLE, {"LISTENER_ADMIN__TOKEN": "u" * 16}, path=path).fingerprints[0] not in daemon.fingerprints
    assert merged(TABLE, token, path=path).fingerprints[0] in daemon.fingerprints


def test_each_state_file_has_a_socket_of_its_own() -> None:
    """Also where names differ in their ending only, or are none; it is never the state file itself."""
    states = [Path("/s/a.db"), Path("/s/a.sqlite"), Path("/s/a.sock"), Path("/")]
    assert len({command_socket_path(state) for state in states} | set(states)) == 2 * len(states)


def test_what_is_not_in_the_store_is_in_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of the unit, whose instances have each their own; or where the default state file would be."""
    monkeypatch.setattr("listener.configuration.STATE_PARENT", tmp_path)
    (tmp_path / "cdn-listener-shop").mkdir()
    of_instance = Path("/etc/cdn-listener/shop.toml")
    assert state_directory({"STATE_DIRECTORY": "/var/lib/x:/var/lib/y"}, of_instance) == Path("/var/lib/x")
    assert state_directory({}, of_instance) == tmp_path / "cdn-listener-shop"
    assert state_directory({}, None) == Path("/var/lib/cdn-listener")
