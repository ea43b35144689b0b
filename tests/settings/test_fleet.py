"""Settings of a fleet: what is valid, what has no effect, and that a database's password is not shown."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from listener.errors import ConfigurationError
from listener.settings import Settings, load_settings, parse_settings

SECRET = "hunter2"
POSTGRES = {"store": {"url": "postgresql://listener@db-a,db-b:6432/listener?sslmode=verify-full"}}


def test_the_password_of_the_url_is_in_no_representation(tmp_path: Path) -> None:
    """Neither that of the settings, nor of the section, however the URL was given."""
    (tmp_path / "listener.toml").write_text("[instance]\nname = 'web-1'\n")
    (tmp_path / "url").write_text(f"postgresql://u:{SECRET}@db/listener\n")
    settings = load_settings(tmp_path / "listener.toml", {"LISTENER_STORE__URL_FILE": str(tmp_path / "url")})
    assert SECRET in settings.store.url
    assert SECRET not in f"{settings!r} {settings} {settings.store!r} {settings.store}"


@pytest.mark.parametrize("url", ["mysql://h/d", f"postgresql:u:{SECRET}@h/d", f"host=db password={SECRET}", "postgres"])
def test_what_is_no_url_of_a_store(url: str) -> None:
    """Both forms are named; the value is not shown."""
    with pytest.raises(ConfigurationError, match=r"store.url: must start with sqlite:/// or postgresql://") as refused:
        parse_settings({"store": {"url": url}}, {})
    assert SECRET not in f"{refused.value} {refused.value.hint}"


def test_the_instance_has_the_host_s_name_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name may come from the environment, as that of a pod does."""
    monkeypatch.setattr(socket, "gethostname", lambda: "web-7.example")
    assert parse_settings({}, {}).instance.effective_name == "web-7.example"
    assert parse_settings({}, {"LISTENER_INSTANCE__NAME": "pod-0"}).instance.effective_name == "pod-0"


@pytest.mark.parametrize("name", ["-a", "a b", "a/b", "a\nb", "ä", "a" * 254, "'"])
def test_a_name_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is refused, also where it is the host's; a state file takes any host name."""
    with pytest.raises(ConfigurationError, match=r"instance.name: .* cannot name an instance"):
        parse_settings({"instance": {"name": name}}, {})
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    with pytest.raises(ConfigurationError, match=r"instance.name: is not set, and the host name"):
        parse_settings(POSTGRES, {})
    assert parse_settings({}, {}).instance.effective_name == name
    assert parse_settings({**POSTGRES, "instance": {"name": "web-1"}}, {}).instance.effective_name == "web-1"


TREE = {
    "sources": {"www": {"type": "filesystem", "path": "/srv/www", "replicas": "each"}},
    "targets": {"cdn": {"type": "alibaba-cdn"}},
    "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
}


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"fleet": {"lease_seconds": 10}}, "fleet"),
        ({"fleet": {"replica_wait_seconds": 5}}, "fleet"),
        ({"store": {"prepared": False}}, "store.prepared"),
        (TREE, "sources.www.replicas"),
    ],
)
def test_settings_of_a_fleet_on_a_state_file(table: Mapping[str, Any], key: str) -> None:
    """They would do nothing there, which is an error and not a silence; on PostgreSQL they are taken."""
    with pytest.raises(ConfigurationError, match=rf"{key}: has no effect on a state file"):
        parse_settings(table, {})
    merged = {**POSTGRES, **table, "store": {**POSTGRES["store"], **table.get("store", {})}}
    assert isinstance(parse_settings(merged, {}), Settings)


@pytest.mark.parametrize("seconds", [2.9, 301, "nan"])
def test_a_lease_has_bounds(seconds: object) -> None:
    """A lease below three seconds would end by a slow renewal, one of minutes would leave accounts without leader."""
    with pytest.raises(ConfigurationError, match=r"fleet.lease_seconds"):
        parse_settings({**POSTGRES, "fleet": {"lease_seconds": seconds}}, {})
