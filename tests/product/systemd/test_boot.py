"""The unit under a real systemd: it starts, reloads, is killed, hangs and stops, and no change is lost."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest

from tests.product.systemd.booted import COMMAND, CONFIGURATION, UNIT, Machine, a_machine, daemon_files, inside
from tests.stand import SECRET, Stand, fetch, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def machine(stand: Stand, tmp_path_factory: pytest.TempPathFactory, booting: None) -> Iterator[Machine]:
    """A systemd with the shipped unit, which shares the origin's tree and this machine's network."""
    folder = tmp_path_factory.mktemp("machine")
    files = daemon_files(configuration(stand))
    with a_machine(folder, name=f"listener{os.getpid()}", files=files, binds={stand.tree: "/srv/www"}) as machine:
        machine.run("systemctl", "start", UNIT)
        yield machine


def configuration(stand: Stand) -> str:
    """Return the stand's configuration, with the places inside."""
    return inside(stand.configure(path="/srv/www").read_text())


def turn_fresh(stand: Stand, name: str, text: str) -> None:
    """Wait until the edge serves this text."""
    until(lambda: fetch(stand.url(name))[1] == text, seconds=PATIENCE_SECONDS, what=f"{name} is fresh")


def test_it_starts_as_a_user_of_its_own_and_does_its_work(stand: Stand, machine: Machine) -> None:
    """`start` returned once it listened; it is nobody's user, and keys came as credentials."""
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText")
    status = machine.run("cat", f"/proc/{machine.main_pid}/status")
    assert "\nUid:\t0\t" not in status
    assert "\nNoNewPrivs:\t1\n" in status
    assert re.search(r"\nCapEff:\t0+\n", status)
    stand.write("a.html", "old")
    assert fetch(stand.url("a.html"))[1] == "old"
    stand.write("a.html", "new")
    turn_fresh(stand, "a.html", "new")
    assert SECRET not in machine.run("systemctl", "status", "--full", "--no-pager", UNIT)
    assert SECRET not in machine.run("cat", f"/proc/{machine.main_pid}/environ", f"/proc/{machine.main_pid}/cmdline")


def test_a_reload_tries_the_file_first(stand: Stand, machine: Machine) -> None:
    """A file with a mistake fails the reload and leaves the daemon as it was; a good one is taken without a restart."""
    before = machine.main_pid
    good = configuration(stand)
    machine.write(CONFIGURATION, good + "[no-such-table]\n")
    assert "failed" in machine.run("systemctl", "reload", UNIT, check=False)
    assert "no-such-table" in machine.journal()
    assert machine.run("systemctl", "is-active", UNIT).strip() == "active"
    machine.write(CONFIGURATION, good.replace("quiet_seconds = 0.2", "quiet_seconds = 0.3"))
    machine.run("systemctl", "reload", UNIT)
    stand.write("reloaded.html", "old")
    assert fetch(stand.url("reloaded.html"))[1] == "old"
    stand.write("reloaded.html", "new")
    turn_fresh(stand, "reloaded.html", "new")
    assert (machine.main_pid, machine.restarts) == (before, 0)


def test_killed_and_hung_in_a_storm_it_comes_back_and_loses_nothing(stand: Stand, machine: Machine) -> None:
    """SIGKILL and a stopped process, each while files change: systemd starts it again, and every change turns fresh."""
    names = [f"storm/{number}.html" for number in range(60)]
    for name in names:
        stand.write(name, "old")
    for name in names:
        assert fetch(stand.url(name))[1] == "old"
    for count, (blow, part) in enumerate([("KILL", names[:30]), ("STOP", names[30:])], start=machine.restarts + 1):
        for name in part[:15]:
            stand.write(name, "new")
        machine.run("kill", f"-{blow}", str(machine.main_pid))
        for name in part[15:]:
            stand.write(name, "new")
        until(lambda count=count: machine.is_back(count), seconds=PATIENCE_SECONDS, what=f"back after {blow}")
    for name in names:
        turn_fresh(stand, name, "new")
    assert machine.run("systemctl", "is-active", UNIT).strip() == "active"


def test_it_stops_in_order(stand: Stand, machine: Machine) -> None:
    """Within the time the unit gives it, with exit status 0; the file is sound, and says that it left in order."""
    began = time.monotonic()
    machine.run("systemctl", "stop", UNIT)
    assert time.monotonic() - began < 45
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    state = {"LISTENER_CONFIG": CONFIGURATION}
    assert machine.run(COMMAND, "store", "check", **state) == "sound\n"
