"""Instances next to a plain unit, and `check` as the unit that is installed, under a real systemd."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.product.systemd.booted import COMMAND, CONFIGURATION, UNIT, Machine, a_machine, daemon_files
from tests.stand import KEY_ID, SECRET, Stand, free_port, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]
NAMES = ("shop", "blog")
ETC = "/etc/cdn-listener"


def configuration(stand: Stand, path: str, more: str = "") -> str:
    """Return the smallest configuration: no state file, no admin port."""
    return f"""
{more}
[sources.www]
type = "filesystem"
path = "{path}"
[targets.cdn]
type = "alibaba-cdn"
endpoint = "{stand.emulator.api_url}"
[[sites]]
source = "www"
target = "cdn"
base_urls = ["{stand.edge}/"]
"""


@pytest.fixture(scope="module")
def machine(stand: Stand, tmp_path_factory: pytest.TempPathFactory, booting: None) -> Iterator[Machine]:
    """A systemd with the shipped plain unit and template, three configurations and three trees."""
    folder = tmp_path_factory.mktemp("machine")
    port = f'[admin]\nlisten = "127.0.0.1:{free_port()}"'
    files = daemon_files(configuration(stand, "/srv/www", port))
    for name in NAMES:
        files[f"srv/{name}/index.html"] = "one"
        files[f"etc/cdn-listener/{name}.toml"] = configuration(stand, f"/srv/{name}")
        files[f"etc/cdn-listener/credentials/{name}/access-key-id"] = KEY_ID
        files[f"etc/cdn-listener/credentials/{name}/access-key-secret"] = SECRET
    with a_machine(folder, name=f"instances{os.getpid()}", files=files, binds={stand.tree: "/srv/www"}) as machine:
        machine.run(COMMAND, "systemd", "install", "cdn-listener@.service")
        machine.run("systemctl", "daemon-reload")
        yield machine


def status(machine: Machine, *arguments: str, **environment: str) -> dict[str, Any]:
    """Return what `status --json` prints."""
    return dict(json.loads(machine.run(COMMAND, "status", "--json", *arguments, **environment)))


def test_instances_run_together_with_a_plain_unit(machine: Machine) -> None:
    """All start, in any order; every one is found by its name and by its file, and has an admin socket of its own."""
    units = {name: f"cdn-listener@{name}.service" for name in NAMES} | {"": UNIT}
    for unit in (units["shop"], units[""], units["blog"]):
        machine.run("systemctl", "start", unit)
    pids = {name: int(machine.show("MainPID", unit)) for name, unit in units.items()}
    for name in NAMES:
        assert status(machine, "--instance", name)["pid"] == pids[name]
        assert status(machine, "--config", f"{ETC}/{name}.toml")["pid"] == pids[name]
        assert status(machine, LISTENER_CONFIG=f"{ETC}/{name}.toml")["pid"] == pids[name]
        address = f"/run/cdn-listener-{name}/admin.sock"
        answer = machine.run("curl", "-s", "--unix-socket", address, "http://localhost/api/status")
        assert json.loads(answer)["pid"] == pids[name]
        assert machine.run("stat", "-c", "%a", address).strip() == "660"
    assert status(machine, LISTENER_CONFIG=CONFIGURATION)["pid"] == pids[""]
    machine.run("systemctl", "restart", units[""], units["shop"])
    assert status(machine, "--instance", "shop")["pid"] == int(machine.show("MainPID", units["shop"]))
    for name, unit in units.items():
        machine.run("systemctl", "stop", unit)
        assert machine.show("Result", unit) == "success", name
    directories = machine.run("find", "/var/lib/private", "-name", "state.db").split()
    assert sorted(directories) == sorted(
        f"/var/lib/private/cdn-listener{suffix}/state.db" for suffix in ("", "-shop", "-blog")
    )


def test_a_name_that_can_be_no_instance_is_refused(machine: Machine) -> None:
    """Neither a path nor the plain one; not both a file and a name."""
    both = ["--instance", "shop", "--config", CONFIGURATION]
    for wrong in (["--instance", "../x"], ["--instance", "listener"], both):
        assert "error: " in machine.run(COMMAND, "status", *wrong, check=False)


def check(machine: Machine, *arguments: str, **environment: str) -> list[dict[str, str]]:
    """Return what `check --json` prints; and see that it left nothing behind."""
    found = machine.run(COMMAND, "check", "--json", *arguments, check=False, **environment)
    left = machine.run("sh", "-c", "ls /run /run/systemd/system; systemctl list-units --all")
    assert "cdn-listener-check" not in left
    return list(json.loads(found))


def test_check_as_root_is_tried_as_the_unit(machine: Machine) -> None:
    """With the credentials that only the unit has; with the daemon running and without; it goes on undisturbed."""
    for _ in range(2):
        found = check(machine, "--instance", "shop")
        assert "cdn-listener@shop.service" in found[0]["message"], found
        assert not [one for one in found if one["state"] == "failed"], found
        assert "ok" in {one["state"] for one in found if one["subject"] == "cdn: credentials"}
        machine.run("systemctl", "start", "cdn-listener@shop.service")
    pid = machine.show("MainPID", "cdn-listener@shop.service")
    assert machine.run("ls", "/run/cdn-listener-shop").split() == ["admin.sock", "admin.sock.commands"]
    assert status(machine, "--instance", "shop")["pid"] == int(pid)
    machine.run("systemctl", "stop", "cdn-listener@shop.service")


def test_check_by_another_user_says_that_it_was_not_the_unit(machine: Machine) -> None:
    """As nobody: a warning that names the unit and what to do."""
    command = f"setpriv --reuid 65534 --regid 65534 --clear-groups {COMMAND}"
    out = machine.run("sh", "-c", f"{command} check --instance shop --json", check=False)
    (found,) = [one for one in json.loads(out) if one["subject"] == "unit"]
    assert (found["state"], "not as cdn-listener@shop.service" in found["message"]) == ("warning", True)


CLOSED = {
    "/tmp/site": ("mkdir -m 755 {0}", r"PrivateTmp=yes"),
    "/srv/group": ("mkdir -m 750 {0} && chgrp www-data {0}", r"SupplementaryGroups=www-data"),
    "/srv/deep/er/site": ("mkdir -p {0} && chmod 750 /srv/deep && chgrp www-data /srv/deep", r"group www-data may"),
    "/home/shop/htdocs": (r"mkdir -p {0}; printf '[Service]\nProtectHome=yes\n' > {1}", r"ProtectHome="),
    "/srv/secret": ("mkdir -m 700 {0}", r"let the user of the unit read"),
    "/srv/none": ("true", r"create the directory"),
}
STARTED = ("/tmp/site", "/srv/group")


@pytest.mark.parametrize("path", CLOSED)
def test_what_only_the_unit_cannot_read_is_found_by_check(stand: Stand, machine: Machine, path: str) -> None:
    """The check fails as the unit would, with the cause; the unit (not each is tried) starts, and says the same."""
    prepare, hint = CLOSED[path]
    drop_in = "/etc/systemd/system/cdn-listener@blog.service.d/home.conf"
    machine.run("mkdir", "-p", drop_in.rpartition("/")[0])
    machine.run("sh", "-c", prepare.format(path, drop_in))
    machine.write(f"{ETC}/blog.toml", configuration(stand, path))
    machine.run("systemctl", "daemon-reload")
    try:
        (found,) = [one for one in check(machine, "--instance", "blog") if one["subject"] == "sources.www.path"]
        assert found["state"] == "failed"
        assert re.search(hint, found["hint"]), found
        if path in STARTED:
            machine.run("systemctl", "start", "cdn-listener@blog.service")
            assert re.search(hint, machine.show("StatusText", "cdn-listener@blog.service"))
            assert status(machine, "--instance", "blog")["sources"]["www"]["state"] == "degraded"
    finally:
        machine.run("systemctl", "stop", "cdn-listener@blog.service")
        machine.run("rm", "-rf", drop_in)


def test_the_drop_in_for_a_group_opens_what_that_may_read(stand: Stand, machine: Machine) -> None:
    """Installed with the template it is every instance's; `check` and the daemon then read the tree."""
    machine.run("sh", "-c", "mkdir -m 750 /srv/members; chgrp www-data /srv/members; cp /srv/shop/* /srv/members")
    machine.write(f"{ETC}/blog.toml", configuration(stand, "/srv/members"))
    machine.run(COMMAND, "systemd", "install", "cdn-listener@.service", "drop-ins/group.conf")
    machine.run("systemctl", "daemon-reload")
    assert not [one for one in check(machine, "--instance", "blog") if one["state"] == "failed"]
    machine.run("systemctl", "start", "cdn-listener@blog.service")
    until(lambda: status(machine, "--instance", "blog")["sources"]["www"]["state"] == "listening")
    machine.run("systemctl", "stop", "cdn-listener@blog.service")
    machine.run("rm", "-r", "/etc/systemd/system/cdn-listener@.service.d")


def test_a_unit_that_cannot_start_is_found_by_check(machine: Machine) -> None:
    """Credentials that are not where the unit looks for them."""
    machine.run("mv", f"{ETC}/credentials/shop", f"{ETC}/credentials/elsewhere")
    (found,) = check(machine, "--instance", "shop")
    assert (found["subject"], found["state"]) == ("unit", "failed")
    assert "LoadCredential=" in found["message"]
    machine.run("mv", f"{ETC}/credentials/elsewhere", f"{ETC}/credentials/shop")
