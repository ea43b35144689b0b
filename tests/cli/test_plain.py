"""Plain command lines mean the same without typer as with it; all others are left to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from listener.cli import app as full
from listener.cli.plain import COMMANDS, read_plainly, resolved, run_plain

LINES = (
    "run",
    "run --config x.toml",
    "run --instance shop",
    "status",
    "status --json --verbose",
    "status --url http://h/a=b --config=etc/x.toml",
    "quota --json",
    "tasks --limit 7 --url http://h/a --manual",
    "tasks --by-hand",
    "hold",
    "hold --for 1h30m --site 0 --target cdn --reason deploy",
    "release --target=cdn",
    "pause --for 90",
    "resume",
    "approve --target cdn",
    "confirm-deletions www --reason sure",
    "cancel --reason wrong --all --yes",
    "wait --timeout 2s --grace 0s --prefix /a",
    "refresh http://h/a http://h/b --wait --urgent --reason price",
    "refresh --directory http://h/d/",
    "prefetch http://h/a --target cdn --json",
)
OTHERS = (
    "status --help",
    "status -h",
    "status --jso",
    "status --json=1",
    "status --json --json",
    "status --url",
    "status --url --json",
    "status extra",
    "status --nonsense",
    "status -- x",
    "tasks --limit 0",
    "tasks --limit many",
    "tasks --limit 100001",
    "hold --for soon",
    "cancel --all",
    "confirm-deletions",
    "confirm-deletions a b",
    "refresh",
    "refresh --wait",
)


def as_typer_reads(monkeypatch: pytest.MonkeyPatch, line: str) -> dict[str, Any]:
    """Return the arguments that typer gives the command."""
    name, *words = line.split()
    command = typer.main.get_command(full.app).commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, words) as context:
        return dict(context.params)


@pytest.mark.parametrize("line", LINES)
def test_a_plain_line_means_the_same_with_and_without_typer(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Every parameter has the same value of the same type."""
    name, *words = line.split()
    plain = read_plainly(resolved(COMMANDS[name]), words)
    assert plain is not None
    full = as_typer_reads(monkeypatch, line)
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in full.items()} == plain
    assert [type(plain[key]) for key in full if isinstance(plain[key], Path)] == [
        type(value) for value in full.values() if isinstance(value, Path)
    ]


@pytest.mark.parametrize("line", OTHERS)
def test_everything_else_is_left_to_typer(line: str) -> None:
    """Help, abbreviations and mistakes."""
    name, *words = line.split()
    assert read_plainly(resolved(COMMANDS[name]), words) is None


@pytest.mark.parametrize("line", ["", "--version", "--help", "nonsense", "check", "config show", "store check"])
def test_other_commands_are_left_to_typer(line: str) -> None:
    """And nothing was done."""
    assert run_plain(line.split()) is None


def test_the_shells_completion_is_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls the command with a variable."""
    monkeypatch.setenv("_CDN_LISTENER_COMPLETE", "bash_source")
    assert run_plain(["status"]) is None
