"""From nothing to a service with `init`, and what its users can do: root, a deploy user of its group, anybody else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.product.systemd.booted import COMMAND, CONFIGURATION, UNIT, Machine, a_machine
from tests.stand import KEY_ID, KEYS, SECRET, Stand, fetch, free_port, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]


@pytest.fixture(scope="module")
def machine(stand: Stand, tmp_path_factory: pytest.TempPathFactory, booting: None) -> Iterator[Machine]:
    """A systemd with the program and a tree, and nothing else of ours but a free port."""
    folder = tmp_path_factory.mktemp("machine")
    port = f"LISTENER_ADMIN__LISTEN=127.0.0.1:{free_port()}\nLISTENER_VERIFIER__FIRST_SECONDS=0.2\n"
    files = {"etc/default/cdn-listener": port}
    with a_machine(folder, name=f"operators{os.getpid()}", files=files, binds={stand.tree: "/srv/www"}) as machine:
        machine.run("groupadd", "deploy")
        machine.run("useradd", "--groups", "deploy", "dora")
        machine.run("useradd", "eve")
        yield machine


def run_as(machine: Machine, user: str, *arguments: str, check: bool = True) -> str:
    """Run the command as this user, away from any file of the service."""
    return machine.run("runuser", "-u", user, "--", "env", "-C", "/", COMMAND, *arguments, check=check)


def test_init_sets_up_the_service(stand: Stand, machine: Machine) -> None:
    """Configuration, credentials for root alone, unit and drop-in; all of it is checked as the unit."""
    arguments = ["--source", "/srv/www", "--base-url", stand.edge, "--cdn", "alibaba-cdn", "--group", "deploy"]
    command = [COMMAND, "init", "--systemd", "--yes", "--endpoint", stand.emulator.api_url, *arguments]
    out = machine.run(*command, **KEYS)
    assert f"checked as {UNIT}" in out
    assert "failed" not in out
    assert SECRET not in out
    assert "  systemctl enable --now cdn-listener" in out
    modes = machine.run("stat", "-c", "%U %a %n", "/etc/cdn-listener/credentials", CONFIGURATION)
    assert modes.splitlines() == ["root 700 /etc/cdn-listener/credentials", f"root 644 {CONFIGURATION}"]
    machine.run("systemctl", "enable", "--now", "cdn-listener")
    stand.write("a.html", "old")
    assert fetch(stand.url("a.html"))[1] == "old"
    stand.write("a.html", "new")
    until(lambda: fetch(stand.url("a.html"))[1] == "new", what="a.html is fresh")


def test_check_before_the_first_start_knows_what_systemd_will_make(machine: Machine) -> None:
    """A configuration of the unit whose state directory is not there yet, as any user and not as the unit."""
    machine.run("cp", CONFIGURATION, "/etc/cdn-listener/later.toml")
    machine.run(COMMAND, "systemd", "install", "cdn-listener@.service")
    out = machine.run(COMMAND, "check", "--here", "--json", "--instance", "later", check=False, **KEYS)
    (store,) = [one for one in json.loads(out) if one["subject"] == "store"]
    assert store["state"] == "ok", store
    assert "cdn-listener@later.service makes /var/lib/cdn-listener-later" in store["message"]


def test_a_user_of_the_group_deploys_without_root(stand: Stand, machine: Machine) -> None:
    """hold, release, wait, refresh and every command that shows something, by the admin socket alone."""
    stand.write("page.html", "old")
    assert fetch(stand.url("page.html"))[1] == "old"
    assert "until" in run_as(machine, "dora", "hold", "--reason", "deploy")
    stand.write("page.html", "new")
    assert "ended 1 hold" in run_as(machine, "dora", "release")
    assert "fresh after" in run_as(machine, "dora", "wait")
    assert fetch(stand.url("page.html"))[1] == "new"
    assert "complete" in run_as(machine, "dora", "refresh", "--wait", stand.url("page.html"))
    assert json.loads(run_as(machine, "dora", "status", "--json"))["running"] is True
    assert json.loads(run_as(machine, "dora", "quota", "--json"))
    assert "no dead letters" in run_as(machine, "dora", "dead-letters")
    assert "cancelled 0" in run_as(machine, "dora", "cancel", "--all", "--yes", "--reason", "test")
    found = json.loads(run_as(machine, "dora", "check", "--json"))
    assert {one["state"] for one in found} <= {"ok", "warning"}, found
    assert any("access key" in one["message"] for one in found)
    assert SECRET not in json.dumps(found)


def test_another_user_is_refused_and_shown_what_to_do(machine: Machine) -> None:
    """Neither the state nor the socket can be reached; the message names the group."""
    out = run_as(machine, "eve", "hold", check=False)
    assert "Permission denied" in out
    assert "group of the admin socket" in out
    assert "Traceback" not in out


def test_root_finds_the_keys_of_the_service(stand: Stand, machine: Machine) -> None:
    """While the service runs it is asked; when it is stopped, its credentials are used."""
    assert json.loads(machine.run(COMMAND, "quota", "--json"))
    machine.run("systemctl", "stop", "cdn-listener")
    out = machine.run(COMMAND, "quota", "--json")
    assert json.loads(out)["quota"]["cdn"]["file"]["live"], out
    assert KEY_ID not in out
