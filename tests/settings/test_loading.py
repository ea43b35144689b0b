"""One file and the environment become settings, or the very key that is wrong is named with a remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from listener.errors import ConfigurationError
from listener.settings import Settings, SiteShare, find_file, load_settings, parse_settings
from listener.settings.meanings import described

SMALLEST = """
[sources.www]
type = "filesystem"
path = "/srv/www"

[targets.cdn]
type = "alibaba-cdn"

[[sites]]
source = "www"
target = "cdn"
base_urls = ["https://www.example.com"]
"""


def table(**sections: Any) -> dict[str, Any]:
    """Return a small valid configuration with these sections on top."""
    site = {"source": "www", "target": "cdn", "base_urls": ["https://h/"]}
    return {
        "sources": {"www": {"type": "filesystem", "path": "/srv"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [site],
        **sections,
    }


def site(**keys: Any) -> dict[str, Any]:
    """Return a configuration whose only site has these keys on top."""
    return table(sites=[{"source": "www", "target": "cdn", "base_urls": ["https://h/"], **keys}])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the smallest useful configuration."""
    path = tmp_path / "listener.toml"
    path.write_text(SMALLEST)
    return path


def test_the_smallest_file_has_every_default(file: Path) -> None:
    """Three tables are enough; everything else has its documented default."""
    settings = load_settings(file, {})
    assert settings.coalescer.quiet_seconds == 1.0
    assert settings.sources["www"] == {"type": "filesystem", "path": "/srv/www"}
    (only,) = settings.sites
    assert only.targets == ("cdn",)
    assert only.base_urls == ("https://www.example.com/",)
    assert (only.min_directory_depth, only.min_interval_seconds, only.share) == (
        1,
        30.0,
        SiteShare(file=1, directory=1),
    )
    assert settings.origin.path == file


def test_the_environment_wins_over_the_file_everywhere(file: Path) -> None:
    """Sections, plugin tables, sites and lists: each value can be set by a variable, numbers stay texts for plugins."""
    settings = load_settings(
        file,
        {
            "LISTENER_COALESCER__QUIET_SECONDS": "2",
            "LISTENER_SOURCES__WWW__PATH": "/data",
            "LISTENER_SOURCES__WWW__TOKEN": "00123",
            "LISTENER_SITES__0__PREFIX": "public",
            "LISTENER_SITES__0__INCLUDE": '["*.html", "*.css"]',
            "LISTENER_SITES__0__SHARE__FILE": "0.5",
            "LISTENER_TARGETS__CDN": '{"type": "alibaba-cdn", "endpoint": "http://127.0.0.1:8700"}',
            "LISTENER_ADMIN__LISTEN": "[::1]:9180",
            "LISTENER_PORT": "tcp://10.0.0.1:80",
            "LISTENER_STORE_SERVICE_HOST": "10.0.0.1",
            "LISTENER_CONFIG": "elsewhere.toml",
        },
    )
    assert settings.coalescer.quiet_seconds == 2.0
    assert settings.sources["www"] == {"type": "filesystem", "path": "/data", "token": "00123"}
    assert settings.sites[0].prefix == "public/"
    assert settings.sites[0].include == ("*.html", "*.css")
    assert settings.sites[0].share.file == 0.5
    assert settings.targets["cdn"]["endpoint"] == "http://127.0.0.1:8700"
    assert settings.admin.listen == "[::1]:9180"


def test_a_variable_finds_names_with_dashes_and_capitals() -> None:
    """Variables know neither case nor dashes; the name in the file stands."""
    sections = table()
    sections["targets"]["My-CDN"] = {"type": "alibaba-cdn"}
    settings = parse_settings(sections, {"LISTENER_TARGETS__MY_CDN__ENDPOINT": "https://e"})
    assert settings.targets["My-CDN"]["endpoint"] == "https://e"


def test_the_environment_alone_can_configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container needs no file: sources, targets and sites may all come from variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("listener.configuration.DEFAULT_PATHS", (Path("listener.toml"),))
    environ = {
        "LISTENER_SOURCES__WWW__TYPE": "filesystem",
        "LISTENER_TARGETS__CDN__TYPE": "alibaba-cdn",
        "LISTENER_SITES__0__SOURCE": "www",
        "LISTENER_SITES__0__TARGET": "cdn",
        "LISTENER_SITES__0__BASE_URLS": "https://h/",
    }
    assert load_settings(None, environ).sites[0].base_urls == ("https://h/",)


def test_the_file_is_searched_where_it_is_documented(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``$LISTENER_CONFIG`` first, then ``listener.toml`` here; where there is none, the message lists the places."""
    monkeypatch.chdir(tmp_path)
    assert find_file({}) == Path("listener.toml")
    assert find_file({"LISTENER_CONFIG": "/x.toml"}) == Path("/x.toml")
    file.unlink()
    monkeypatch.setattr("listener.configuration.DEFAULT_PATHS", (Path("listener.toml"), Path("etc.toml")))
    with pytest.raises(ConfigurationError, match=r"no configuration file.*listener\.toml, etc\.toml") as caught:
        load_settings(None, {"LISTENER_STORE__URL": "sqlite:///s.db"})
    assert "--config" in caught.value.hint


@pytest.mark.parametrize(
    ("environ", "secret"),
    [
        ({"LISTENER_SOURCES__HOOK__SECRET_FILE": "sources.hook.secret"}, "s3cret"),
        ({"CREDENTIALS_DIRECTORY": "."}, "s3cret"),
        ({"CREDENTIALS_DIRECTORY": ".", "LISTENER_SOURCES__HOOK__SECRET": "nearer"}, "nearer"),
        ({"CREDENTIALS_DIRECTORY": "missing"}, None),
    ],
)
def test_a_secret_may_stand_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], secret: str | None
) -> None:
    """A ``…_FILE`` variable and a systemd credential both give a secret, without its final newline."""
    monkeypatch.chdir(tmp_path)
    Path("sources.hook.secret").write_text("s3cret\n")
    Path("store.keep_days").write_text("3")
    Path("unrelated").write_text("x")
    sections = table()
    sections["sources"]["hook"] = {"type": "webhook"}
    settings = parse_settings(sections, environ)
    assert settings.sources["hook"].get("secret") == secret
    assert settings.store.keep_days == 30.0


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_secret_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing or binary secret file names the variable and the path."""
    path = tmp_path / "url"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"LISTENER_STORE__URL_FILE: {path} cannot be read"):
        parse_settings(table(), {"LISTENER_STORE__URL_FILE": str(path)})


WRONG = [
    pytest.param(table(coalescer={"quiet_second": 1}), "coalescer.quiet_second: unknown key",
                 "Did you mean coalescer.quiet_seconds?", id="unknown key"),
    pytest.param(table(coalescr={}), "coalescr: unknown key", "Did you mean coalescer?", id="unknown section"),
    pytest.param(table(store={"zzz": 1}), "store.zzz", "Known are: keep_days, prepared, url.", id="nothing near"),
    pytest.param(site(exlude=[]), "sites.0.exlude: unknown key", "sites.0.exclude", id="unknown site key"),
    pytest.param(site(share={"files": 1}), "sites.0.share.files", "sites.0.share.file?", id="unknown nested key"),
    pytest.param(site(base_urls=["https://h/?q"]), "sites.0.base_urls.0: it must not contain a query", "", id="query"),
    pytest.param(site(base_urls=["https://*.h/"]), "sites.0.base_urls.0: a wildcard domain", "", id="wildcard"),
    pytest.param(site(base_urls=["https://u:p@h/"]), "sites.0.base_urls.0: it must not contain a user", "", id="user"),
    pytest.param(site(base_urls=["h/"]), "must start with http", "", id="no scheme"),
    pytest.param(site(base_urls=["https://h", "https://H/"]), "'https://h/' is listed twice", "", id="same base"),
    pytest.param(site(base_urls=[]), "sites.0.base_urls: must not be empty", "", id="no base"),
    pytest.param(site(source="wwww"), "there is no source named 'wwww'", "Did you mean www?", id="unknown source"),
    pytest.param(site(target="x"), "there is no target named 'x'", "Known are: cdn.", id="unknown target"),
    pytest.param(site(targets=["cdn"]), "sites.0: name either target", "", id="target twice"),
    pytest.param(site(target=None), "sites.0: name either target", "", id="no target"),
    pytest.param(site(target=None, targets=["cdn", "cdn"]), "sites.0.targets: 'cdn' is listed twice", "", id="layer"),
    pytest.param(site(index_documents=["a/b"]), "sites.0.index_documents.0: must be a plain", "", id="index document"),
    pytest.param(site(include=[""]), "sites.0.include.0: a pattern must not be empty", "", id="empty pattern"),
    pytest.param(site(min_directory_depth=-1), "sites.0.min_directory_depth", "blast radius", id="negative depth"),
    pytest.param(site(max_ttl_seconds=float("nan")), "sites.0.max_ttl_seconds: ", "", id="not a number"),
    pytest.param(site(origin_delay_seconds=float("inf")), "sites.0.origin_delay_seconds: ", "", id="for ever"),
    pytest.param(table(sites=[]), "sites: there is none", "[[sites]]", id="no sites"),
    pytest.param(table(sites=["x"]), "sites.0: must be a table", "", id="site is a text"),
    pytest.param(table(sites=site()["sites"][0]), "must be a list of tables: write [[sites]]", "", id="one bracket"),
    pytest.param(site(exclude=5), "sites.0.exclude: must be a list", "", id="number for a list"),
    pytest.param(site(share=0.5), "sites.0.share: must be a table", "", id="number for a table"),
    pytest.param(table(sites=site()["sites"] * 2), "sites.1: is the same as sites.0", "Remove", id="same site"),
    pytest.param(table(targets={}), "there is no target named 'cdn'", "None is configured", id="no targets"),
    pytest.param(table(targets={"cdn": {}}), "targets.cdn.type: is missing", "type = ", id="no type"),
    pytest.param(table(targets={"a.b": {"type": "x"}}), "targets.a.b: is not a valid name", "letters", id="bad name"),
    pytest.param(table(store={"url": "mysql://h/db"}), "store.url: must start with sqlite", "sqlite:///", id="mysql"),
    pytest.param(table(store={"url": "sqlite:x.db"}), "store.url: must start with sqlite", "", id="no slashes"),
    pytest.param(table(admin={"listen": "9180"}), "admin.listen: must be host:port", "", id="only a port"),
    pytest.param(table(admin={"listen": "h:99999"}), "admin.listen: must be host:port", "", id="port too high"),
    pytest.param(table(coalescer={"cap_seconds": 0.5}), "coalescer: cap_seconds", "", id="cap below quiet"),
    pytest.param(table(coalescer={"unfinished_cap_seconds": 2}), "unfinished_cap_seconds", "", id="unfinished cap"),
    pytest.param(table(planner={"reserve": 1.5}), "planner.reserve", "Part of each allowance", id="more than all"),
    pytest.param(table(verifier={"give_up_seconds": 0}), "verifier.give_up_seconds", "unconfirmed", id="never look"),
    pytest.param({"sites": [{}]}, "sites.0: name either target", "", id="empty site"),
    pytest.param({"sites": [{"target": "x"}]}, "sites.0.source: is missing", "Name of the source", id="missing keys"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "message", "hint"), WRONG)
def test_a_wrong_value_is_named_by_its_full_key_with_a_remedy(
    sections: dict[str, Any], message: str, hint: str
) -> None:
    """Each mistake: the file, the dotted key, what is wrong, and what to do."""
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(sections, {}, path=Path("x.toml"))
    assert str(caught.value).startswith("x.toml: ")
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_all_mistakes_are_named_at_once() -> None:
    """An operator mends the file once, not once per mistake."""
    with pytest.raises(ConfigurationError, match=r"store\.urll.*planner\.reserve"):
        parse_settings(table(store={"urll": ""}, planner={"reserve": "x"}), {})


@pytest.mark.parametrize(
    ("environ", "message", "hint"),
    [
        ({"LISTENER_COALESCER__QUIET_SECOND": "1"}, "set by LISTENER_COALESCER__QUIET_SECOND", "quiet_seconds?"),
        ({"LISTENER_STORE_KEEP_DAYS": "1"}, "LISTENER_STORE_KEEP_DAYS: sets nothing", "LISTENER_STORE__KEEP_DAYS,"),
        ({"LISTENER_COALESCR__X": "1"}, "LISTENER_COALESCR__X: there is no section", "coalescer"),
        ({"LISTENER_SITES__0__BASE_URLS": '["ftp://h"]'}, "set by LISTENER_SITES__0__BASE_URLS", ""),
        ({"LISTENER_SITES__7__PREFIX": "x"}, "must be a number from 0 to 1", ""),
        ({"LISTENER_SITES__X__PREFIX": "x"}, "must be a number from 0 to 1", ""),
        ({"LISTENER_SITES__X": "x"}, "must be a number from 0 to 1", ""),
        ({"LISTENER_SITES__0": "x"}, "sites.0 (set by LISTENER_SITES__0)", ""),
        ({"LISTENER_SOURCES__WWW__TYPE__X": "x"}, "sources.www.type: is not a table", ""),
        ({"LISTENER_STORE__KEEP_DAYS": "[x"}, "store.keep_days (set by", ""),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str, hint: str) -> None:
    """What a variable set wrongly is blamed on the variable, not on the file."""
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(table(), environ, path=Path("x.toml"))
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[store\n", "is not valid TOML: .*line 1"),
        (b"a = 1\nb = \n", "is not valid TOML: .*line 2"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_toml_names_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    """Broken syntax: the file and the line."""
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{path}: {message}"):
        load_settings(path, {})


def test_a_source_that_only_a_variable_names_is_blamed_on_it(file: Path) -> None:
    """A token that belongs to another configuration: the message names the variable, not the file alone."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, {"LISTENER_SOURCES__HOOK__TOKEN": "secret-value"})
    message = "sources.hook.type: is missing: there is no [sources.hook], but LISTENER_SOURCES__HOOK__TOKEN is set"
    assert message in str(caught.value)
    assert "Unset LISTENER_SOURCES__HOOK__TOKEN" in caught.value.hint
    assert "secret-value" not in str(caught.value) + caught.value.hint


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """What an editor on Windows puts in front does no harm."""
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.encode())
    assert load_settings(path, {}).sites


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    """A path that cannot be read says so, with the system's reason."""
    with pytest.raises(ConfigurationError, match="No such file"):
        load_settings(tmp_path / "no.toml", {})
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load_settings(tmp_path, {})
    assert ConfigurationError.exit_status == 2


def test_reading_settings_does_not_look_at_the_process_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is an argument: what the process has besides is ignored."""
    monkeypatch.setitem(os.environ, "LISTENER_COALESCER__QUIET_SECONDS", "9")
    assert load_settings(file, {}).coalescer.quiet_seconds == 1.0


def test_settings_do_not_change_once_read() -> None:
    """A stage cannot change what another stage sees."""
    settings = parse_settings(table(), {})
    with pytest.raises(ValueError, match="frozen"):
        settings.coalescer.quiet_seconds = 2.0  # type: ignore[misc]


def test_the_tables_given_are_not_changed() -> None:
    """Overriding works on a copy."""
    sections = table()
    before = json.dumps(sections)
    parse_settings(sections, {"LISTENER_SITES__0__PREFIX": "p"})
    assert json.dumps(sections) == before


def test_every_key_says_what_it_is_for() -> None:
    """Each setting of each section carries its meaning where it is declared."""
    schema = described(Settings).model_json_schema()
    for name, section in {"Settings": schema, **schema["$defs"]}.items():
        for key, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, f"{name}.{key}"
