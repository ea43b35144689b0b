"""The units as files: systemd finds no fault in them, those that share lines agree, and a command installs them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from listener.cli import main
from tests.repository.units import DAEMON, ROOT, UNITS

Run = Callable[..., tuple[int, str, str]]
UNIT = DAEMON
FILES = sorted(path.name for path in (ROOT / "systemd").glob("*.*"))
DROP_INS = sorted(path.name for path in (ROOT / "systemd/drop-ins").iterdir())


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command; return its exit status, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def unit_settings() -> dict[str, list[str]]:
    """Return the unit's lines by key."""
    lines = re.findall(r"^([A-Za-z]+)=(.*)$", UNIT.read_text(), re.MULTILINE)
    return {key: [value for name, value in lines if name == key] for key, _ in lines}


def test_the_unit_is_ready_when_it_runs_and_keeps_its_state() -> None:
    """Readiness by notification, a state directory of its own, a watchdog, a reload that tries the file first."""
    unit = unit_settings()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["StateDirectory"] == ["cdn-listener"]
    assert unit["DynamicUser"] == ["yes"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert len(unit["ExecReload"]) == 2
    assert unit["ExecReload"][1].endswith("-HUP $MAINPID")
    assert [line.partition(":")[0] for line in unit["LoadCredential"]] == [
        "alibaba_cloud_access_key_id",
        "alibaba_cloud_access_key_secret",
    ]


def laid_out(folder: Path) -> None:
    """Write every unit, with a command that is there."""
    for name in FILES:
        (folder / name).write_text(re.sub(r"=(\+?)/opt/\S+", r"=\1/bin/true", (ROOT / "systemd" / name).read_text()))


@pytest.mark.parametrize("name", FILES)
def test_systemd_finds_no_fault(name: str, tmp_path: Path, system_command: Callable[[str], str]) -> None:
    """``systemd-analyze verify`` is silent about each unit; a template is looked at as an instance."""
    laid_out(tmp_path)
    instance = tmp_path / name.replace("@.", "@shop.")
    command = [system_command("systemd-analyze"), "verify", "--man=no", instance]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "cdn-listener" in line]) == (0, [])


@pytest.mark.parametrize("name", DROP_INS)
def test_systemd_finds_no_fault_in_a_drop_in(name: str, tmp_path: Path, system_command: Callable[[str], str]) -> None:
    """Each is read with the unit that it belongs to; one for a newer systemd may name what this one does not know."""
    laid_out(tmp_path)
    (tmp_path / f"{UNIT.name}.d").mkdir()
    text = re.sub(r"=(\+?)/opt/\S+", r"=\1/bin/true", (ROOT / "systemd/drop-ins" / name).read_text())
    (tmp_path / f"{UNIT.name}.d" / name).write_text(text)
    command = [system_command("systemd-analyze"), "verify", "--man=no", tmp_path / UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    said = [line for line in done.stderr.splitlines() if "cdn-listener" in line or name in line]
    assert [line for line in said if not (name == "systemd-253.conf" and "notify-reload" in line)] == []


@pytest.mark.parametrize("name", ["cdn-listener.service", "cdn-listener@shop.service", "cdn-listener-backfill.service"])
def test_the_services_are_little_exposed(name: str, tmp_path: Path, system_command: Callable[[str], str]) -> None:
    """1.5 of 10 at most, as systemd counts."""
    laid_out(tmp_path)
    command = [system_command("systemd-analyze"), "security", "--offline=yes", "--threshold=15", tmp_path / name]
    if "@" in name:
        (tmp_path / name).write_text((tmp_path / "cdn-listener@.service").read_text())
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(UNITS))
def test_units_that_share_lines_agree(name: str) -> None:
    """They are derived from the daemon's; ``make examples`` writes them."""
    assert (ROOT / "systemd" / name).read_text() == UNITS[name](UNIT.read_text())


def test_units_are_shown_with_the_path_of_this_installation(command: Run) -> None:
    """What is listed can be shown; the command that they start is the one that shows them."""
    names = [line.split()[0] for line in command("systemd", "list")[1].splitlines()]
    assert names == [*FILES, *(f"drop-ins/{name}" for name in DROP_INS)]
    for name in names:
        status, out, _ = command("systemd", "show", name)
        assert status == 0
        assert "/opt/cdn-listener/bin" not in out
    assert "ExecStart=" in command("systemd", "show")[1]
    status, _, err = command("systemd", "show", "cdn-listner.service")
    assert (status, "cdn-listener.service" in err) == (2, True)


def test_installing_overwrites_nothing_that_was_changed(command: Run, tmp_path: Path) -> None:
    """Units and drop-ins go where systemd looks; the same again is fine; what differs stays unless it is forced."""
    names = ["cdn-listener.service", "cdn-listener.socket", "drop-ins/home.conf"]
    for _ in range(2):
        status, out, err = command("systemd", "install", *names, "--directory", str(tmp_path))
        assert (status, len(out.splitlines()), "daemon-reload" in err) == (0, 3, True)
        assert "enable cdn-listener.socket && systemctl restart cdn-listener" in err
    assert (tmp_path / "cdn-listener.service.d/home.conf").is_file()
    (tmp_path / "cdn-listener.socket").write_text("mine")
    status, _, err = command("systemd", "install", *names, "--directory", str(tmp_path))
    assert (status, "exists and differs" in err) == (2, True)
    assert (tmp_path / "cdn-listener.socket").read_text() == "mine"
    assert command("systemd", "install", *names, "--directory", str(tmp_path), "--force")[0] == 0
    assert (tmp_path / "cdn-listener.socket").read_text() != "mine"
    (tmp_path / "file").write_text("")
    assert command("systemd", "install", "--directory", str(tmp_path / "file" / "below"))[0] == 1
