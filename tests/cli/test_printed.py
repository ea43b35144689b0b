"""What the command line prints about itself: completion scripts, the manual page, shipped files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from listener import cli, plugins
from listener.cli import shipped
from tests import ROOT
from tests.cli.fixtures import Command
from tests.repository.test_docs import commands

PROGRAM = Path(sys.executable).with_name("cdn-listener")
WORDS = {
    "bash": {"COMP_WORDS": "cdn-listener dead", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "cdn-listener dead"},
    "fish": {"_TYPER_COMPLETE_ARGS": "cdn-listener dead", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize("shell", WORDS)
def test_a_shell_completes_commands(command: Command, shell: str) -> None:
    """The script names the program and the variable by which the program answers the shell."""
    status, out, _ = command("--print-completion", shell)
    assert status == 0
    (variable,) = set(re.findall(r"_CDN_LISTENER_COMPLETE", out))
    environment = {**os.environ, variable: f"complete_{shell}", **WORDS[shell]}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "dead-letters" in done.stdout, done.stderr


def test_bash_itself_completes(command: Command, tmp_path: Path) -> None:
    """By the function that the script defines."""
    (tmp_path / "script").write_text(command("--print-completion", "bash")[1])
    lines = 'source ./script; COMP_WORDS=(cdn-listener wait --ti); COMP_CWORD=2; _cdn_listener_completion "$1"; '
    call = ["bash", "-c", f'{lines} echo "${{COMPREPLY[@]}}"', "bash", PROGRAM]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["--timeout"]


def test_no_other_shell(command: Command) -> None:
    """It is an error of usage that names the known ones."""
    status, _, err = command("--print-completion", "tcsh")
    assert (status, "bash, zsh, fish" in err) == (2, True)


def test_the_manual_page_has_every_command_and_option(command: Command) -> None:
    """As roff without a character that has a meaning there."""
    status, out, _ = command("--print-man")
    assert status == 0
    assert out.startswith('.TH CDN\\-LISTENER 1 "" "cdn-listener ')
    assert out.isascii()
    sections = {
        part.partition("\n")[0].replace("\\-", "-"): part.replace("\\-", "-") for part in out.split("\n.SS ")[1:]
    }
    for name, options in commands().items():
        (section,) = [text for title, text in sections.items() if title == name or title.startswith(f"{name} ")]
        missing = [one for one in options - {"--help", "-h"} if one.startswith("--") and f"{one}" not in section]
        assert set(missing) <= {"--anew", "--by-hand"}, name  # old names, which are hidden
    known = ("TH", "SH", "SS", "PP", "TP", "B", "I")
    assert {line.split()[0][1:] for line in out.splitlines() if line.startswith(".")} <= set(known)


def test_shipped_files_are_listed_and_printed(command: Command) -> None:
    """From a checkout here; the wheel has the same folder (see repository/test_packages)."""
    names = command("config", "files")[1].split()
    assert {"policies/ram-cdn.json", "examples/smallest.toml", "grafana/cdn-listener.json"} <= set(names)
    text = (ROOT / "config/policies/ram-cdn.json").read_text()
    assert command("config", "files", "policies/ram-cdn.json")[1] == text
    status, _, err = command("config", "files", "policies/ram-cdm.json")
    assert (status, "policies/ram-cdn.json" in err) == (2, True)
    assert shipped.shipped_folder("units").name == "systemd"


def test_a_foreign_distribution_is_named(
    command: Command, stand: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One called `listener` in the same environment: by check, and where it took our package's place at once."""
    monkeypatch.setattr(plugins, "distribution", lambda _: SimpleNamespace(name="listener", version="0.0.1"))
    status, out, _ = command("check")
    assert status == 1
    assert "failed   installation: the distribution listener 0.0.1" in out
    monkeypatch.setattr("listener.__version__", "")
    monkeypatch.delattr("listener.__version__")
    assert cli.main(["--version"]) == 1
    assert "pip uninstall listener" in capsys.readouterr().err
