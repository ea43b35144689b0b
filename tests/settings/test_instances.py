"""Which instance a configuration belongs to, and what is the default for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener import configuration
from listener.configuration import config_of, instance_of, unit_of
from listener.errors import ConfigurationError
from listener.settings import parse_settings


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose systemd knows the template."""
    for name in ("etc", "var", "units"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(configuration, "CONFIG_DIRECTORY", tmp_path / "etc")
    monkeypatch.setattr(configuration, "STATE_PARENT", tmp_path / "var")
    monkeypatch.setattr(configuration, "UNIT_DIRECTORIES", (tmp_path / "units",))
    (tmp_path / "units/cdn-listener@.service").touch()
    return tmp_path / "etc"


def test_a_file_next_to_the_plain_one_is_an_instance(etc: Path) -> None:
    """By its name, in that directory only; the plain one and other files are none."""
    assert (instance_of(etc / "shop.toml"), unit_of(etc / "shop.toml")) == ("shop", "cdn-listener@shop.service")
    assert (instance_of(etc / "listener.toml"), unit_of(etc / "listener.toml")) == ("", "cdn-listener.service")
    for other in (None, etc / "shop.conf", etc / "below/shop.toml", etc.parent / "shop.toml", etc / "a b.toml"):
        assert (instance_of(other), unit_of(other)) == ("", "")
    assert config_of("shop") == etc / "shop.toml"
    assert [config_of(wrong) for wrong in ("../x", "", "listener", "a/b", "a b")] == [None] * 5


def test_without_the_template_it_is_an_ordinary_file(etc: Path) -> None:
    """As in a container; the state directory alone, which may be closed to us, reports of an instance, too."""
    (etc.parent / "units/cdn-listener@.service").unlink()
    assert instance_of(etc / "shop.toml") == ""
    (etc.parent / "var/cdn-listener-shop").symlink_to("private/that-nobody-may-see")
    assert instance_of(etc / "shop.toml") == "shop"


def test_what_the_configuration_sets_counts(etc: Path) -> None:
    """State and admin port of an instance are defaults: file and environment win."""
    path = etc / "shop.toml"
    plain = parse_settings({}, {"RUNTIME_DIRECTORY": "/run/x"}, path=path)
    assert plain.store.url == f"sqlite:///{etc.parent}/var/cdn-listener-shop/state.db"
    assert (plain.admin.listen, plain.admin.socket) == ("", "/run/x/admin.sock")
    table = {"store": {"url": "sqlite:////a.db"}, "admin": {"listen": "127.0.0.1:1"}}
    given = parse_settings(table, {"LISTENER_ADMIN__SOCKET": "/b"}, path=path)
    assert (given.store.url, given.admin.listen, given.admin.socket) == ("sqlite:////a.db", "127.0.0.1:1", "/b")
    for wrong in ("relative", "/" + 107 * "x"):
        with pytest.raises(ConfigurationError, match=r"admin\.socket"):
            parse_settings({"admin": {"socket": wrong}}, {})
