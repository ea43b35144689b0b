"""The section of docs/operations.md that moves a service to another host, as it is written, under a real systemd."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

from tests import ROOT
from tests.product.systemd.booted import COMMAND, UNIT, Machine, a_machine
from tests.stand import KEYS, Stand, fetch, free_port, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]


@pytest.fixture(scope="module")
def machine(stand: Stand, tmp_path_factory: pytest.TempPathFactory, booting: None) -> Iterator[Machine]:
    """A systemd with the program and a tree, and nothing else of ours but a free port."""
    folder = tmp_path_factory.mktemp("machine")
    port = f"LISTENER_ADMIN__LISTEN=127.0.0.1:{free_port()}\nLISTENER_VERIFIER__FIRST_SECONDS=0.2\n"
    files = {"etc/default/cdn-listener": port}
    with a_machine(folder, name=f"moving{os.getpid()}", files=files, binds={stand.tree: "/srv/www"}) as machine:
        yield machine


def test_a_service_moves_with_its_state(stand: Stand, machine: Machine) -> None:
    """What changed between the two hosts is refreshed on the new one, and nothing else."""
    section = (ROOT / "docs/operations.md").read_text().partition("## Move to another host\n")[2].partition("\n## ")[0]
    leave, arrive = (
        re.sub(r"^cdn-listener ", f"{COMMAND} ", text, flags=re.MULTILINE)
        for text in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    )
    arguments = ["--source", "/srv/www", "--base-url", stand.edge, "--cdn", "alibaba-cdn"]
    machine.run(COMMAND, "init", "--systemd", "--yes", "--endpoint", stand.emulator.api_url, *arguments, **KEYS)
    machine.run("systemctl", "enable", "--now", "cdn-listener")
    stand.write("a.html", "one")
    stand.write("b.html", "one")
    until(lambda: len(stand.paths()) == 2)
    machine.run(COMMAND, "wait")
    assert fetch(stand.url("b.html"))[1] == "one"
    machine.run("sh", "-ec", leave)
    machine.run("rm", "-r", "/var/lib/cdn-listener", "/var/lib/private/cdn-listener", f"/etc/systemd/system/{UNIT}")
    machine.run("systemctl", "daemon-reload")
    stand.write("b.html", "two")
    machine.run("sh", "-ec", arrive)
    until(lambda: fetch(stand.url("b.html"))[1] == "two", what="b.html is fresh")
    assert [path.rpartition("/")[2] for path in stand.paths()[2:]] == ["b.html"]
    status = json.loads(machine.run(COMMAND, "status", "--json"))
    assert status["quota"]["cdn"]["file"]["spent"] == 3
