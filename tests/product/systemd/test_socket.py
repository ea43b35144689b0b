"""The socket unit under a real systemd: it holds the webhook's port, so that no sender is refused, whatever happens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.product.systemd.booted import CONFIGURATION, ROOT, STATE, UNIT, Machine, a_machine, daemon_files, inside
from tests.product.systemd.senders import Senders, bearing, signing
from tests.stand import Stand, free_port, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]
SOCKET = "cdn-listener.socket"
TOKEN, SECRET = "0123456789abcdef0123456789abcdef", "a-secret-that-both-ends-know-and-nobody-else"
WAYS = [("/bearing", bearing(TOKEN)), ("/signing", signing(SECRET))] * 3
HOOK = """
[sources.{name}]
type = "webhook"
listen = "127.0.0.1:{port}"
path = "/{name}"
[[sites]]
source = "{name}"
target = "cdn"
base_urls = ["{edge}/"]
"""
CREDENTIALS = """[Service]
LoadCredential=sources.bearing.token:/etc/cdn-listener/credentials/token
LoadCredential=sources.signing.secret:/etc/cdn-listener/credentials/secret
"""
KEYS_OF_STATE = """
import json, sqlite3
connection = sqlite3.connect("file:{state}?mode=ro", uri=True)
print(json.dumps([bytes(row[0]).decode() for row in connection.execute("SELECT name FROM object")]))
"""
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def senders() -> Senders:
    """Those who send to the port."""
    return Senders(free_port())


@pytest.fixture(scope="module")
def configuration(stand: Stand, senders: Senders) -> str:
    """Two webhooks on one port next to the tree."""
    hooks = [HOOK.format(name=name, port=senders.port, edge=stand.edge) for name in ("bearing", "signing")]
    return inside(stand.configure("".join(hooks), path="/srv/www").read_text())


@pytest.fixture(scope="module")
def machine(
    stand: Stand, senders: Senders, configuration: str, tmp_path_factory: pytest.TempPathFactory, booting: None
) -> Iterator[Machine]:
    """A systemd with the shipped units, the daemon running and the socket not yet enabled."""
    files = {
        **daemon_files(configuration),
        f"etc/systemd/system/{SOCKET}": (ROOT / "systemd" / SOCKET).read_text(),
        # Elsewhere it is a fixed port; `systemctl edit` writes such a file.
        f"etc/systemd/system/{SOCKET}.d/port.conf": f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{senders.port}\n",
        f"etc/systemd/system/{UNIT}.d/credentials.conf": CREDENTIALS,
        "etc/cdn-listener/credentials/token": TOKEN + "\n",
        "etc/cdn-listener/credentials/secret": SECRET + "\n",
    }
    folder = tmp_path_factory.mktemp("machine")
    with a_machine(folder, name=f"socket{os.getpid()}", files=files, binds={stand.tree: "/srv/www"}) as machine:
        machine.run("systemctl", "start", UNIT)
        yield machine


def kept(machine: Machine) -> set[str]:
    """Return the keys in the state file, read as another process would."""
    return set(json.loads(machine.python(KEYS_OF_STATE.format(state=STATE))))


def more_get_through(senders: Senders) -> None:
    """Wait until senders are answered again."""
    until(senders.some_more(), seconds=PATIENCE_SECONDS, what=f"senders get through: {senders}")


def nobody_was_refused(senders: Senders, machine: Machine) -> None:
    """Every connection was taken, every answer was one of two, and what was promised is in the state file."""
    assert (senders.refused, senders.odd) == ([], [])
    assert set(senders.promised) <= kept(machine)


def test_enabled_on_a_running_daemon_it_takes_the_port_over(machine: Machine, senders: Senders) -> None:
    """`enable` and one restart, as the unit says; from then on the daemon listens on what systemd holds."""
    assert senders.report("before.html", *WAYS[0])
    assert '"inherited": false' in machine.journal()
    machine.run("systemctl", "enable", SOCKET)
    machine.run("systemctl", "restart", UNIT)
    assert machine.show("ActiveState", SOCKET) == "active"
    assert '"inherited": true' in machine.journal()
    assert senders.report("after.html", *WAYS[1])
    nobody_was_refused(senders, machine)


def test_a_request_starts_the_daemon(machine: Machine, senders: Senders) -> None:
    """Stopped, it is started by the first sender, who waits for it and is answered."""
    machine.run("systemctl", "stop", UNIT)
    assert senders.report("woken.html", *WAYS[0])
    until(lambda: machine.show("ActiveState") == "active", seconds=PATIENCE_SECONDS, what="it is started")
    nobody_was_refused(senders, machine)


@pytest.mark.parametrize("order", ["restart", "reload"])
def test_an_orderly_change_leaves_nobody_without_an_answer(machine: Machine, senders: Senders, order: str) -> None:
    """While senders send without a pause: none is refused or left without an answer, and every 2xx was kept."""
    before = len(senders.unanswered)
    with senders.at_work(*WAYS, name=order):
        more_get_through(senders)
        for _ in range(2):
            machine.run("systemctl", order, UNIT)
            more_get_through(senders)
    nobody_was_refused(senders, machine)
    assert senders.unanswered[before:] == []


def test_killed_again_and_again_it_refuses_nobody(machine: Machine, senders: Senders) -> None:
    """SIGKILL while senders send without a pause: who was let in may have to send again, and nobody is refused."""
    with senders.at_work(*WAYS, name="kill"):
        for count in range(machine.restarts + 1, machine.restarts + 3):
            more_get_through(senders)
            machine.run("kill", "-KILL", str(machine.main_pid))
            until(lambda count=count: machine.is_back(count), seconds=PATIENCE_SECONDS, what="it is back")
        more_get_through(senders)
    nobody_was_refused(senders, machine)


def test_a_mistake_in_the_file_is_mended_by_one_start(machine: Machine, senders: Senders, configuration: str) -> None:
    """Senders start it in vain until systemd gives both units up; mended, one start brings both back."""
    machine.run("systemctl", "stop", SOCKET, UNIT)
    machine.write(f"/etc/systemd/system/{UNIT}.d/limit.conf", "[Unit]\nStartLimitBurst=3\n")
    machine.write(CONFIGURATION, configuration + "[no-such-table]\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", check=False)
    machine.run("systemctl", "start", SOCKET)
    Senders(senders.port).report("in-vain.html", *WAYS[0])
    until(lambda: machine.show("ActiveState", SOCKET) == "failed", seconds=PATIENCE_SECONDS, what="it is given up")
    assert "no-such-table" in machine.journal()
    machine.write(CONFIGURATION, configuration)
    machine.run("systemctl", "reset-failed", UNIT)
    machine.run("systemctl", "start", UNIT)
    assert machine.show("ActiveState", SOCKET) == "active"
    assert senders.report("mended.html", *WAYS[1])
    machine.run("systemctl", "stop", SOCKET, UNIT)
    assert machine.show("Result") == "success"
    nobody_was_refused(senders, machine)
