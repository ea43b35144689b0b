"""What the command line reports about a configuration: origins of values, and several mistakes at once."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from listener.alibaba.session import words
from listener.configuration import seems_absolute
from tests.cli.fixtures import Command
from tests.stand import Stand


def test_each_value_has_its_origin(stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, a variable or the default, as comments: the text is TOML all the same."""
    stand.configure()
    monkeypatch.setenv("LISTENER_PLANNER__RESERVE", "0.25")
    monkeypatch.setenv("LISTENER_SITES__0__INDEX_DOCUMENTS", '["default.htm"]')
    status, out, _ = command("config", "show")
    assert status == 0
    lines = out.splitlines()
    assert "reserve = 0.25  # LISTENER_PLANNER__RESERVE" in lines
    assert "quiet_seconds = 0.2  # listener.toml" in lines
    assert "cap_seconds = 30.0  # default" in lines
    assert "index_documents = [  # LISTENER_SITES__0__INDEX_DOCUMENTS" in lines
    assert "targets = [  # listener.toml" in lines
    assert "stable_seconds = 0.2  # listener.toml" in lines
    assert tomllib.loads(out)["planner"]["reserve"] == 0.25


@pytest.mark.parametrize("arguments", [["config", "show"], ["config", "check"], ["run"]])
def test_an_empty_file_is_no_configuration(command: Command, tmp_path: Path, arguments: list[str]) -> None:
    """For every command alike: nothing would be refreshed."""
    (tmp_path / "empty.toml").write_text("")
    status, _, err = command(*arguments, "--config", str(tmp_path / "empty.toml"))
    assert (status, "sources: " in err, "cdn-listener init" in err) == (2, True, True), err


def test_each_mistake_has_a_line_and_a_hint_of_its_own(stand: Stand, command: Command) -> None:
    """In the tables of the product, and then in those of all plugins."""
    stand.configure("[planner]\nreserv = 1\n[verifier.nothing]\n")
    status, _, err = command("config", "check")
    assert status == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.rpartition(": ")[0].rpartition(" ")[2] for line in errors] == ["planner.reserv", "verifier.nothing"]
    assert err.splitlines()[1] == "hint: Did you mean planner.reserve?"
    stand.configure(target="endpont = 1\n[sources.www2]\ntype = 'filesystem'\npth = '/'\n")
    errors = [line for line in command("config", "check")[2].splitlines() if line.startswith("error: ")]
    assert [("sources.www2" in one, "targets.cdn.endpont" in one) for one in errors] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_plugins_take_a_configuration(stand: Stand, command: Command) -> None:
    """Each plugin with the tables that use it."""
    stand.configure()
    status, out, _ = command("plugins", "--config", str(stand.config))
    assert status == 0
    assert [line.split()[-1] for line in out.splitlines() if " filesystem " in line] == ["www"]
    assert command("plugins")[0] == 0


def test_three_slashes_before_a_path_of_the_machine(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` warns that it is relative, and names the URL that was meant."""
    monkeypatch.chdir(tmp_path)
    assert seems_absolute("sqlite:///tmp/x/state.db") == "sqlite:////tmp/x/state.db"
    assert seems_absolute("sqlite:///state.db") == ""
    assert seems_absolute("sqlite:///state/x.db") == ""
    assert seems_absolute("sqlite:////tmp/x.db") == ""
    assert seems_absolute("postgresql://tmp/x") == ""
    (tmp_path / "tmp").mkdir()
    assert seems_absolute("sqlite:///tmp/x/state.db") == ""  # it is there: meant as written
    (tmp_path / "tmp").rmdir()
    (tmp_path / "listener.toml").write_text(
        '[store]\nurl = "sqlite:///tmp/x/state.db"\n[sources.w]\ntype = "filesystem"\npath = "/usr/share/doc"\n'
        '[targets.c]\ntype = "http-purge"\nservers = ["http://127.0.0.1:9"]\n'
        '[[sites]]\nsource = "w"\ntarget = "c"\nbase_urls = ["https://a/"]\n'
    )
    out = command("check")[1]
    assert "warning  store.url: sqlite:///tmp/x/state.db is relative" in out
    assert "sqlite:////tmp/x/state.db" in out


def test_a_connection_that_failed_is_reported_once(stand: Stand, command: Command) -> None:
    """The address, and why: no name of a class, and nothing twice."""
    stand.configure()
    text = stand.config.read_text().replace(stand.emulator.api_url, "http://127.0.0.1:9")
    stand.put(text)
    out = command("check")[1]
    assert out.count("cannot connect to http://127.0.0.1:9: Connection refused") == 1
    assert "ClientConnector" not in out
    assert words(TimeoutError()) == "it took too long"
    assert words(OSError(os.strerror(5))) == os.strerror(5)
