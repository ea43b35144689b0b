"""What people copy works: every example is a whole configuration without a mistake."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from listener.plugins import effective_settings, load_sources, load_targets
from listener.redaction import MASK
from listener.settings import Settings, as_toml, parse_settings
from tests import ROOT
from tests.repository.full_example import full_example

EXAMPLES = sorted((ROOT / "config/examples").glob("*.toml"))
README_BLOCKS = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
KEY_LINE = re.compile(r"^# (?=[a-z_]+ = )", re.MULTILINE)


def loaded(text: str) -> Settings:
    """Return the settings of a file's text, with every plugin table checked and every plugin made."""
    settings = parse_settings(tomllib.loads(text), {})
    assert load_sources(settings)
    assert load_targets(settings)
    return settings


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_file_loads(path: Path) -> None:
    """Each file below config/examples is accepted as it stands."""
    assert loaded(path.read_text()).sites


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_is_commented_out_can_be_used(path: Path) -> None:
    """Each group of commented settings, one at a time, is accepted as it stands."""
    text = path.read_text()
    for group in re.finditer(r"(?:^# [a-z_]+ = .+\n)+", text, re.MULTILINE):
        assert loaded(text[: group.start()] + KEY_LINE.sub("", group.group()) + text[group.end() :]).sites


def test_the_readme_shows_the_three_shapes_and_each_loads() -> None:
    """The daemon, the sidecar and the backfill of the README are accepted as they stand."""
    assert len(README_BLOCKS) == 3
    for block in README_BLOCKS:
        assert loaded(block).sites
        assert len(block.splitlines()) <= 17


def test_the_full_example_is_up_to_date() -> None:
    """The full example says what the declarations say; `make examples` writes it again."""
    assert (ROOT / "config/examples/full.toml").read_text() == full_example(), "run: make examples"


def test_the_full_example_names_every_key_at_its_default() -> None:
    """With every comment mark removed it is still valid, sets nothing but defaults, and leaves no key out."""
    text = (ROOT / "config/examples/full.toml").read_text()
    table = tomllib.loads(KEY_LINE.sub("", text))
    assert table["sites"][0].pop("targets") == []
    settings = parse_settings(table, {})
    shown = effective_settings(settings)
    assert shown == effective_settings(loaded(text))
    assert MASK not in as_toml(shown)
    assert effective_settings(loaded(as_toml(shown))) == shown
    for section, model in Settings.model_fields.items():
        if section not in ("sources", "targets", "sites"):
            fields = type(model.default).model_fields.items()
            # A secret has no default to show: its line names it, and stays a comment.
            assert set(table[section]) == {name for name, field in fields if field.default is not None}
            assert all(f"# {name} =\n" in text for name, field in fields if field.default is None)
    site_keys = set(type(settings.sites[0]).model_fields) - {"targets"}
    assert set(table["sites"][0]) == site_keys


def test_the_smallest_example_is_the_readmes_daemon() -> None:
    """The file to start from and the README agree."""
    smallest = (ROOT / "config/examples/smallest.toml").read_text()
    assert tomllib.loads(smallest) == tomllib.loads(README_BLOCKS[0])
