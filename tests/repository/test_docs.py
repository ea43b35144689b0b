"""The documentation: it builds without a warning, names every command and setting, and what it shows works."""

from __future__ import annotations

import html.parser
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import typer

from listener.cli.app import app
from listener.plugins import effective_settings, installed, plugin_class
from listener.settings import Section, Settings, Site, parse_settings
from listener.store.sqlite.database import prepare
from tests import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
WRITTEN = [*PAGES, ROOT / "README.md"]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a language in every page: page and text."""
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    return [
        (str(page.relative_to(ROOT)), "\n".join(line.removeprefix(indent) for line in text.splitlines()))
        for page in WRITTEN
        for indent, text in pattern.findall(page.read_text("utf-8"))
    ]


def commands() -> dict[str, set[str]]:
    """Return every command with its options."""
    found: dict[str, set[str]] = {}

    def walk(command: object, path: tuple[str, ...]) -> None:
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*path, name))
        if not hasattr(command, "commands"):
            options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}  # type: ignore[attr-defined]
            found[" ".join(path)] = options | {"--help", "-h"}

    walk(typer.main.get_command(app), ())
    return found


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append(value)
            if name == "id" and value:
                self.ids.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", ROOT / "docs", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_no_link_within_the_site_is_dead(site: Path) -> None:
    """Each leads to a page, a place in one, or a picture; and reading it asks nobody elsewhere for anything."""
    pages = {}
    for page in site.rglob("*.html"):
        pages[page] = _Links()
        pages[page].feed(page.read_text("utf-8"))
    assert len(pages) > 15
    for page, links in pages.items():
        for target in links.targets:
            if re.match(r"[a-z]+:", target):
                continue
            path, _, place = target.partition("#")
            file = (page.parent / path.partition("?")[0]).resolve() if path else page
            assert file.exists(), f"{page.name}: {target}"
            assert not place or file not in pages or place in pages[file].ids, f"{page.name}: {target}"


def test_the_table_of_contents_names_every_page() -> None:
    """Each page is in a table of the first one, and in its navigation."""
    text = (ROOT / "docs/index.md").read_text("utf-8")
    written = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    pages = sorted({*written, "reference/commands", "reference/settings", "reference/metrics"} - {"index"})
    assert [page for page in pages if f"]({page}.md) |" not in text or f"\n{page}\n" not in text] == []


def test_every_command_and_setting_is_in_the_reference(site: Path) -> None:
    """Every command, option and setting has its place there."""
    shown = (site / "reference/commands.html").read_text("utf-8")
    for name, options in commands().items():
        assert f"cdn-listener {name}<" in shown, name
        documented = {option for option in options if option.startswith("-")} - {"--config", "--help", "-h"}
        assert all(option in shown for option in documented), name
    shown = (site / "reference/settings.html").read_text("utf-8")
    sections = [type(field.default) for field in Settings.model_fields.values()]
    models = [one for one in sections if issubclass(one, Section)]
    models += [plugin_class(one.group, one.name).Settings for one in installed() if one.package == "cdn-listener"]
    keys = {field.alias or name for model in (*models, Site) for name, field in model.model_fields.items()}
    assert [key for key in sorted(keys - {"type"}) if f">{key}<" not in shown] == []


def test_every_table_of_the_state_file_is_in_the_reference(site: Path, tmp_path: Path) -> None:
    """Each table and index that a new file has."""
    shown = (site / "reference/state.html").read_text("utf-8")
    with closing(prepare(tmp_path / "state.db")) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL AND type IN ('table', 'index')"
        )
        missing = [name for (name,) in names if f">{name}<" not in shown]
    assert missing == ["sqlite_sequence"]  # SQLite's own


def test_every_configuration_shown_is_valid() -> None:
    """Whole ones as they stand; parts of one next to what they leave out."""
    shown = blocks("toml")
    assert len(shown) > 8
    whole = {
        "sources": {"www": {"type": "filesystem", "path": "/srv/www"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
    }
    for page, text in shown:
        table = tomllib.loads(text)
        if page.startswith("docs/extend/"):
            continue  # of the example plugin, which product/test_example_plugin.py installs and runs
        missing = {} if "sites" in table else {name: value for name, value in whole.items() if name not in table}
        if "sites" in missing and "sources" in table:
            missing["sites"] = [{**whole["sites"][0], "source": next(iter(table["sources"]))}]  # type: ignore[index]
        secrets = {"LISTENER_SOURCES__HOOK__TOKEN": "0123456789abcdef0123456789abcdef"} if "hook" in text else {}
        effective_settings(parse_settings({**missing, **table}, secrets)), page


def test_every_command_shown_exists() -> None:
    """With every option that it is shown with, in shell blocks and in the text."""
    known = commands()
    texts = [(page, line) for page, text in blocks("sh") for line in text.replace("\\\n", " ").splitlines()]
    for page in WRITTEN:
        texts += [(str(page.relative_to(ROOT)), one) for one in re.findall(r"`([^`\n]*)`", page.read_text("utf-8"))]
    seen = 0
    for page, line in texts:
        for call in re.findall(r"(?:^|[\s/|])cdn-listener ([a-z][^|&#]*)", line):
            words = shlex.split(call.replace("…", "X"), posix=True)
            names = [name for name in known if words[: len(name.split())] == name.split()]
            assert names or words[0] in ("systemd", "config", "store"), f"{page}: cdn-listener {call}"
            for word in words:
                option = word.partition("=")[0]
                assert not option.startswith("--") or any(option in known[name] for name in names), f"{page}: {call}"
            seen += 1
    assert seen > 40


def test_every_test_that_is_named_exists() -> None:
    """In the pages and in the table of mutations: by its path below tests, without its ending."""
    pages = [
        ROOT / "tests/README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "bench").glob("*.md"),
    ]
    named = {
        (page.name, name.removeprefix("tests/"))
        for page in pages
        for name in re.findall(r"`((?:\w+/)*test_\w+)(?:\.py)?`", page.read_text("utf-8"))
    }
    assert sorted(one for one in named if not (ROOT / "tests" / f"{one[1]}.py").exists()) == []


def test_the_table_of_layers_is_the_one_that_is_checked() -> None:
    """Each of its rows is one or more layers of ``pyproject.toml``, in their order, and none is left out."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [
        {name.strip() for name in layer.split("|")}
        for contract in contracts
        if contract["id"] == "layers"
        for layer in contract["layers"]
    ]
    section = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Layers")[2].partition("\n## ")[0]
    _, *rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")]
    for row in ({*re.findall(r"`(\w+)`", cell)} for cell in rows):
        named: set[str] = set()
        while layers and named < row:
            named |= layers.pop(0)
        assert named == row
    assert layers == []


def _paths_named(text: str) -> Iterator[str]:
    """Yield the paths that a page links, starts as a module, or names in the text."""
    yield from re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)
    yield from (one.replace(".", "/") + ".py" for one in re.findall(r"python3? -m ((?:bench|tests)\.[\w.]*\w)", text))
    yield from re.findall(r"(?<![\w/.:-])((?:bench|config|docs|examples|listener|systemd|tests)/[\w./-]*\w)", text)


@pytest.mark.usefixtures("site")  # which writes the generated pages
def test_every_path_and_module_that_is_named_exists() -> None:
    """Of the repository, in every page: in links, in commands (``python -m``) and in the text."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pages = [ROOT / one for one in listed.split() if (ROOT / one).exists()]
    named = [(page, path) for page in pages for path in _paths_named(page.read_text("utf-8"))]
    assert len(named) > 100
    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page, path in named
        if not any((base / path).exists() for base in (ROOT, page.parent, ROOT / "examples/plugin"))
    ]
    assert missing == []
