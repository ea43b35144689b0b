"""Commands on the machine of a running daemon: what they import, and when they do the work themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

import pytest

from listener.cli import daemon_client
from listener.configuration import read_configuration
from listener.daemon.command_handlers import WRITING
from tests.stand import KEYS, Stand, until

HEAVY = ("aiohttp", "asyncio", "boto3", "click", "pydantic", "rich", "sqlite3", "structlog", "typer")
"""Libraries, of which each takes longer to import than a light command runs."""
LIGHT = {"listener.cli", "listener.configuration", "listener.errors", "listener.redaction", "listener.text"}
WHICH = """
import json, sys
from listener.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""
COMMANDS = (
    ["status", "--json"],
    ["status", "--url", "http://127.0.0.1:1/a.html", "--json"],
    ["quota", "--json"],
    ["tasks", "--json", "--limit", "3"],
    ["tasks", "--manual", "--json"],
    ["hold", "--for", "10m", "--reason", "deploy", "--json"],
    ["release", "--json"],
    ["pause", "--target=cdn", "--json"],
    ["resume", "--json"],
    ["approve", "--json"],
    ["confirm-deletions", "www", "--json"],
    ["refresh", "EDGE/b.html", "--wait", "--json"],
    ["refresh", "--directory", "EDGE/d/", "--urgent", "--reason", "wrong price", "--json"],
    ["prefetch", "EDGE/c.html", "--wait", "--json"],
    ["wait", "--grace", "0s", "--timeout", "20s", "--json"],
)

REFUSED = ("approve", "confirm-deletions")
"""Nothing waits for them."""


def run(stand: Stand, *arguments: str, **environment: str) -> tuple[int, str, set[str]]:
    """Run a command in a process of its own; return its status, its output and the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", WHICH, *arguments],
        cwd=stand.root,
        env={**os.environ, **KEYS, "LISTENER_CONFIG": str(stand.config), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    return status, done.stdout, set(modules)


def did_it_itself(modules: set[str]) -> bool:
    """Return whether the command read the state itself."""
    return "listener.store" in modules


CHANGING = "at|ended|task_id|told_at|until|oldest_unsettled_seconds|oldest_seconds|waited_seconds|per_hour|reserve"


def settled(text: str) -> Any:
    """Return the output without what changes with time: a refresh goes on."""
    text = re.sub(r'"state": "(pending|sending|accepted|complete)"', "", text)
    text = re.sub(r' *"ready": true,\n', "", text)  # the daemon alone knows it
    return re.sub(rf'"({CHANGING})": [^,\n]*', "", text)


def test_light_commands_import_no_more_than_they_need_and_have_the_same_result(stand: Stand) -> None:
    """While a daemon runs: no library that takes long to import, no part of ours that reads configuration or state."""
    stand.configure()
    stand.write("a.html")
    with stand.daemon():
        stand.write("a.html", "changed")
        until(stand.paths, what="a refresh was sent")
        until(lambda: stand.json("/api/status")["in_flight"] == 0)
        other = {"LISTENER_PLANNER__RESERVE": "0.11"}
        until(
            lambda: settled(run(stand, *COMMANDS[0], **other)[1]) == settled(run(stand, *COMMANDS[0])[1]),
            what="what the sources last counted is in the file",
        )
        for words in COMMANDS:
            arguments = [word.replace("EDGE", stand.edge) for word in words]
            status, served, modules = run(stand, *arguments)
            assert not [name for name in HEAVY if name in modules], arguments
            ours = {name for name in modules if name.startswith("listener.") and not name.startswith("listener.cli.")}
            assert ours <= LIGHT, arguments
            assert status == (1 if words[0] in REFUSED else 0), (arguments, served)
            alone, own, modules = run(stand, *arguments, **other)
            assert did_it_itself(modules), arguments
            assert alone == status, arguments
            assert settled(own).splitlines() == settled(served).splitlines(), arguments
        for command in ("status", "quota", "tasks"):
            status, text, modules = run(stand, command)
            assert status == 0, text
            assert not [name for name in HEAVY if name in modules], command


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--url", "nonsense"],
        ["hold", "--site", "nobody"],
        ["pause", "--target", "nobody"],
        ["confirm-deletions", "nobody"],
        ["wait", "--site", "nobody"],
        ["refresh", "http://elsewhere.example/"],
        ["refresh", "http://elsewhere.example/", "--target", "nobody"],
        ["refresh", "http://elsewhere.example/", "--urgent"],
    ],
)
def test_mistakes_are_reported_alike_by_the_daemon_and_without_it(stand: Stand, arguments: list[str]) -> None:
    """The same message, hint and exit status."""
    stand.configure()
    with stand.daemon():
        served = stand.run(*arguments)
        assert served[0] == 2
        assert served == stand.run(*arguments, LISTENER_PLANNER__RESERVE="0.11")


def test_a_configuration_that_the_daemon_does_not_run_with_is_read_and_checked(stand: Stand) -> None:
    """Other values are used, and mistakes are reported, also while a daemon runs with what was there before."""
    stand.configure()
    with stand.daemon():
        stand.configure(target="quota = { file = 7 }")
        status, out, modules = run(stand, "status", "--json")
        assert (status, did_it_itself(modules)) == (0, True)
        assert json.loads(out)["running"] is True
        for wrong in ("x = 1", "[admin]\ntoken = 'short'", "store.keep_days = -1"):
            stand.put(wrong)
            assert run(stand, "status")[0] == 2, wrong
        stand.configure()
        assert run(stand, "status", LISTENER_LOG_LEVEL="loud")[0] == 2
        assert run(stand, "status", LISTENER_STORE_URL="x")[0] == 2
        assert not did_it_itself(run(stand, "status")[2])


def test_a_reload_takes_requests_with_the_new_configuration(stand: Stand) -> None:
    """Also where the state file, and with it the socket, moves."""
    stand.configure()
    with stand.daemon() as process:
        moved = stand.config.read_text().replace("state.db", "other.db")
        stand.put(moved)
        process.send_signal(signal.SIGHUP)
        until((stand.root / "other.db.sock").exists, what="the socket moved")
        until(lambda: not did_it_itself(run(stand, "status")[2]), what="the daemon responds")
        assert not (stand.root / "state.db.sock").exists()


def test_a_daemon_that_hangs_is_not_waited_for(stand: Stand) -> None:
    """The command reads the state itself, and its request is not carried out a second time later."""
    stand.configure()
    with stand.daemon() as process:
        process.send_signal(signal.SIGSTOP)
        try:
            status, out, modules = run(stand, "status", "--json")
            assert (status, did_it_itself(modules)) == (0, True)
            assert json.loads(out)["running"] is True
            assert run(stand, "hold", "--for", "10m")[0] == 0
        finally:
            process.send_signal(signal.SIGCONT)
        until(lambda: not did_it_itself(run(stand, "status")[2]), what="the daemon responds again")
        assert len(json.loads(run(stand, "tasks", "--manual", "--json")[1])) == 1


def test_a_long_list_is_not_the_daemons_work(stand: Stand) -> None:
    """To write it would hold up everything else."""
    stand.configure()
    with stand.daemon():
        assert not did_it_itself(run(stand, "tasks", "--limit", "1000")[2])
        assert did_it_itself(run(stand, "tasks", "--limit", "1001")[2])


def test_only_the_daemons_user_reaches_the_socket_and_it_goes_with_the_daemon(stand: Stand) -> None:
    """Whatever the umask; one that a killed daemon left hinders neither commands nor the next daemon."""
    stand.configure()
    path = stand.root / "state.db.sock"
    umask = os.umask(0)
    try:
        with stand.daemon() as process:
            assert path.stat().st_mode & 0o777 == 0o600
            process.kill()
    finally:
        os.umask(umask)
    assert path.exists()
    status, out, modules = run(stand, "status", "--json")
    assert (status, json.loads(out)["running"], did_it_itself(modules)) == (0, False, True)
    with stand.daemon():
        assert not did_it_itself(run(stand, "status")[2])
    assert not path.exists()


def test_a_socket_that_sends_nonsense_gets_no_request(stand: Stand) -> None:
    """Nor one that says nothing, or closes at once."""
    stand.configure()
    with stand.daemon():
        pass
    path = stand.root / "state.db.sock"
    for first_line in (b"", b"nonsense\n", b"[]\n", b'{"accepts": []}\n', b'{"accepts"', b"[" * 100_000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            command = stand.command("status", "--json")
            with server.accept()[0] as channel:
                channel.sendall(first_line)
            out, err = command.communicate(timeout=60)
            assert (command.returncode, json.loads(out)["running"]) == (0, False), err
        path.unlink()


@pytest.mark.parametrize(("arguments", "expected"), [(["status"], 0), (["hold"], 1), (["refresh", "EDGE/a.html"], 1)])
def test_what_may_be_done_already_is_not_done_a_second_time(stand: Stand, arguments: list[str], expected: int) -> None:
    """The daemon ends between a request and its response: a command that reads does so itself, another one fails."""
    stand.configure()
    with stand.daemon():
        pass
    read = read_configuration(stand.config, KEYS)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(stand.root / "state.db.sock"))
        server.listen()
        command = stand.command(*[word.replace("EDGE", stand.edge) for word in arguments])
        with server.accept()[0] as channel:
            offer = {"accepts": read.fingerprints, "writing": sorted(WRITING)}
            channel.sendall(json.dumps(offer).encode() + b"\n")
            assert channel.recv(65536).endswith(b"\n")
        out, err = command.communicate(timeout=60)
    assert (command.returncode, "may have done" in err) == (expected, expected == 1), (out, err)
    assert stand.paths() == []


class Foreign(socket.socket):
    """A connection to a server of another user."""

    def getsockopt(self, *_: Any) -> Any:
        """Return the credentials of that user."""
        return struct.pack("3i", 1, 4711, 4711)


def test_another_users_socket_is_not_trusted(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that others may write to, anybody could listen there; next to the admin socket, too."""
    admin = stand.root / "admin.sock"
    stand.configure()
    with stand.daemon(LISTENER_ADMIN__SOCKET=str(admin)):
        read = read_configuration(stand.config, {})
        request = {"command": "status", "arguments": {}}
        pairs = [(stand.root / "state.db.sock", stand.state), (stand.root / "admin.sock.commands", stand.root)]
        for paths in pairs:
            assert daemon_client._response(*paths, read, request)["result"]["running"] is True
        monkeypatch.setattr(socket, "socket", Foreign)
        for paths in pairs:
            assert daemon_client._response(*paths, read, request) == {}


def test_what_the_environment_sets_for_a_command_counts(stand: Stand) -> None:
    """A command for which it sets nothing means the daemon of the file; any other one must agree with the daemon."""
    stand.configure()
    with stand.daemon(LISTENER_COALESCER__CAP_SECONDS="31"):
        assert not did_it_itself(run(stand, "status")[2])
        assert did_it_itself(run(stand, "status", LISTENER_COALESCER__CAP_SECONDS="32")[2])


def test_more_commands_than_the_daemon_takes_work_all_the_same(stand: Stand) -> None:
    """A further one reads the state itself."""
    stand.configure()
    with stand.daemon():
        channels = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        try:
            for channel in channels:
                channel.connect(str(stand.root / "state.db.sock"))
            assert run(stand, "status")[0] == 0
        finally:
            for channel in channels:
                channel.close()
        until(lambda: not did_it_itself(run(stand, "status")[2]), what="there is room again")
