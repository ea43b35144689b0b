"""The README's way to a service, word for word, under a real systemd; only the CDN is an emulator."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

import pytest

from tests import ROOT
from tests.product.systemd.booted import COMMAND, CONFIGURATION, UNIT, Machine, a_machine
from tests.readme import block, replaced
from tests.stand import KEY_ID, SECRET, Stand, fetch, free_port, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]
SECTION = "Your first refresh in five minutes"


@pytest.fixture(scope="module")
def machine(stand: Stand, tmp_path_factory: pytest.TempPathFactory, booting: None) -> Iterator[Machine]:
    """A systemd with the program and a tree; the environment file has a free port, as this machine is shared."""
    folder = tmp_path_factory.mktemp("machine")
    port = f"LISTENER_ADMIN__LISTEN=127.0.0.1:{free_port()}\nLISTENER_VERIFIER__FIRST_SECONDS=0.2\n"
    files = {"etc/default/cdn-listener": port}
    with a_machine(folder, name=f"readme{os.getpid()}", files=files, binds={stand.tree: "/srv/www"}) as machine:
        yield machine


def typed(machine: Machine, line: str, *answers: str) -> str:
    """Run a line in a shell as root, who types these answers; return what was printed."""
    text = "".join(f"{answer}\n" for answer in answers)
    return machine.run("sh", "-c", f"printf %s {shlex.quote(text)} | {line}" if answers else line)


def works(stand: Stand, machine: Machine, name: str) -> None:
    """Change a file, and wait as the README says."""
    stand.write(name, "old")
    assert fetch(stand.url(name))[1] == "old"
    stand.write(name, "new")
    until(lambda: fetch(stand.url(name))[1] == "new", what=f"{name} is fresh")
    assert "fresh after" in machine.run(COMMAND, "wait")
    assert SECRET not in machine.journal()


def test_init_and_two_commands(stand: Stand, machine: Machine) -> None:
    """The first block of the section, with what it prompts for."""
    setup, start, show = block(SECTION, "/opt/cdn-listener/bin/cdn-listener init --systemd")
    out = typed(machine, f"{setup} --endpoint {stand.emulator.api_url}", "/srv/www", stand.edge, "", KEY_ID, SECRET)
    assert "failed" not in out, out
    typed(machine, start)
    assert "listening" in typed(machine, show)
    works(stand, machine, "init.html")
    machine.run("systemctl", "disable", "--now", "cdn-listener")
    machine.run("rm", "-r", "/etc/cdn-listener", f"/etc/systemd/system/{UNIT}")
    machine.run("systemctl", "daemon-reload")


def test_step_by_step(stand: Stand, machine: Machine) -> None:
    """The configuration of the page, then the key in two files, the unit, `check` and the start."""
    (configuration,) = re.findall(
        r"```toml\n(# /etc/cdn-listener/listener.toml\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    text = replaced(configuration, {"https://www.example.com": stand.edge})
    text = replaced(text, {'type = "alibaba-cdn"': f'type = "alibaba-cdn"\nendpoint = "{stand.emulator.api_url}"'})
    machine.run("mkdir", "-p", "/etc/cdn-listener")
    machine.write(CONFIGURATION, text)
    directory, key_id, secret, install, check, start = block(SECTION, "install -d")
    typed(machine, directory)
    typed(machine, key_id, KEY_ID)
    typed(machine, secret, SECRET)
    modes = machine.run("sh", "-c", "stat -c '%U %a' /etc/cdn-listener/credentials /etc/cdn-listener/credentials/*")
    assert modes.splitlines() == ["root 700", "root 600", "root 600"]
    typed(machine, install)
    out = typed(machine, check)
    assert f"checked as {UNIT}" in out
    assert "failed" not in out
    typed(machine, start)
    works(stand, machine, "steps.html")
