"""Plugins are found by name, and what is missing is named with the line that installs it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from listener import plugins
from listener.errors import ConfigurationError
from listener.settings import Settings, as_toml, parse_settings

ENTRY_POINTS = """
[listener.sources]
third-source = third_party:ThirdSource
gone-source = third_party:Gone
[listener.targets]
third-target = third_party:ThirdTarget
secret-target = third_party:SecretTarget
needy-target = third_party_needy:Needy [special]
"""

MODULE = """
from pydantic import BaseModel, ConfigDict, SecretStr


class Base(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Quota(Base):
    file: int = 10


class ThirdSource:
    class Settings(Base):
        path: str
        depth: int = 3

    def __init__(self, name, settings):
        self.name, self.settings = name, settings


class ThirdTarget:
    class Settings(Base):
        endpoint: str = "https://third.example"
        password: SecretStr = SecretStr("")
        quota: Quota = Quota()

    def __init__(self, name, settings):
        self.name, self.settings = name, settings


class SecretTarget(ThirdTarget):
    class Settings(Base):
        api_token: SecretStr
        '''The token.'''
"""


@pytest.fixture(autouse=True)
def _third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a third party's distribution with four plugins, two of them broken, for one test."""
    info = tmp_path / "third_party-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "third_party.py").write_text(MODULE)
    (tmp_path / "third_party_needy.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._entries.cache_clear()
    yield
    plugins._entries.cache_clear()
    sys.modules.pop("third_party", None)


def configured(source: dict[str, Any] | None = None, target: dict[str, Any] | None = None) -> Settings:
    """Return settings with one source and one target of the third party."""
    table = {
        "sources": {"s": {"type": "third-source", "path": "/p", **(source or {})}},
        "targets": {"t": {"type": "third-target", **(target or {})}},
        "sites": [{"source": "s", "target": "t", "base_urls": ["https://h/"]}],
    }
    return parse_settings(table, {}, path=Path("x.toml"))


def test_a_third_partys_plugin_is_listed_with_its_package() -> None:
    """Every entry point is listed without being imported: group, name, class, package, version."""
    found = {plugin.name: plugin for plugin in plugins.installed()}
    assert found["third-source"] == ("sources", "third-source", "third_party:ThirdSource", "third-party", "1.2")
    assert found["filesystem"].package == "cdn-listener"
    assert found["alibaba-cdn"].group == "targets"
    assert "third_party" not in sys.modules


def test_configured_plugins_are_made_with_checked_settings() -> None:
    """Each gets its name and its own Settings, numbers and defaults in place."""
    settings = configured({"depth": "5"}, {"quota": {"file": 7}})
    source: Any = plugins.load_sources(settings)["s"]
    target: Any = plugins.load_targets(settings)["t"]
    assert (source.name, source.settings.path, source.settings.depth) == ("s", "/p", 5)
    assert (target.name, target.settings.quota.file) == ("t", 7)


@pytest.mark.parametrize(
    ("source", "target", "message", "hint"),
    [
        ({"type": "thrd-source"}, {}, "sources.s.type: there is no source of type 'thrd-source'", "mean third-source?"),
        ({}, {"type": "zzz"}, "targets.t.type: there is no target of type 'zzz'", "alibaba-cdn, "),
        ({}, {"type": "needy-target"}, "'a_library_that_nobody_has'", "pip install 'third-party[special]'"),
        ({"type": "gone-source"}, {}, "third_party:Gone does not exist", "Reinstall third-party."),
        ({"pth": "x"}, {}, "x.toml: sources.s.pth: unknown key", "sources.s.path?"),
        ({}, {"quota": {"flie": 1}}, "targets.t.quota.flie", "targets.t.quota.file?"),
        ({"depth": "deep"}, {}, "sources.s.depth: ", ""),
        ({}, {"type": "secret-target"}, "targets.t.api_token: is missing", "Set LISTENER_TARGETS__T__API_TOKEN or"),
    ],
)
def test_a_wrong_plugin_table_is_named_with_a_remedy(
    source: dict[str, Any], target: dict[str, Any], message: str, hint: str
) -> None:
    """Unknown types, missing extras and unknown keys: the key and what to do."""
    settings = configured(source, target)
    with pytest.raises(ConfigurationError) as caught:
        plugins.load_sources(settings), plugins.load_targets(settings)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_the_variable_that_is_named_for_a_missing_secret_sets_it() -> None:
    """Also of a target whose name has a hyphen."""
    table = {"type": "secret-target"}
    site = {"source": "s", "target": "my-cdn", "base_urls": ["https://h/"]}
    whole = {"sources": {"s": {"type": "third-source", "path": "/p"}}, "targets": {"my-cdn": table}, "sites": [site]}
    with pytest.raises(ConfigurationError) as caught:
        plugins.load_targets(parse_settings(whole, {}))
    (variable,) = re.findall(r"Set (LISTENER_\w+) or", caught.value.hint)
    target: Any = plugins.load_targets(parse_settings(whole, {variable: "s3cret"}))["my-cdn"]
    assert target.settings.api_token.get_secret_value() == "s3cret"


def test_one_broken_plugin_disturbs_nobody_else() -> None:
    """A plugin whose library is missing is only a problem where it is configured."""
    settings = configured()
    assert plugins.load_sources(settings)
    assert plugins.load_targets(settings)


def test_effective_settings_hold_the_defaults_of_plugins_and_no_secret() -> None:
    """What is shown is what the plugins will see, with secrets masked whatever type they have."""
    shown = plugins.effective_settings(configured({}, {"password": "hunter2"}))
    assert shown["sources"]["s"] == {"type": "third-source", "path": "/p", "depth": 3}
    assert shown["targets"]["t"]["endpoint"] == "https://third.example"
    assert "hunter2" not in as_toml(shown) + json.dumps(shown)


def test_the_schema_names_every_plugins_keys() -> None:
    """The JSON Schema holds each importable plugin's table under its type, with references that lead somewhere."""
    schema = plugins.settings_schema()
    choices = {choice["title"]: choice for choice in schema["properties"]["targets"]["additionalProperties"]["oneOf"]}
    assert choices["third-target"]["properties"]["type"] == {"const": "third-target"}
    assert "needy-target" not in choices
    text = json.dumps(schema)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}:
        assert reference in schema["$defs"]


def test_a_plugin_that_stands_in_no_distribution_has_no_version() -> None:
    """An entry point without metadata is listed all the same."""
    entry = plugins.EntryPoint("x", "m:C", "listener.sources")
    assert plugins._distribution(entry) == ("unknown", "")
