"""The daemon as users run it: a real process, real signals, the emulator as its CDN."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from listener.store.owner import Owner
from listener.store.sqlite.ownership import owner_of
from tests.stand import SECRET, Stand, fetch, free_port, until


def test_a_change_turns_fresh_and_sigterm_ends_it_in_order(stand: Stand) -> None:
    """Ready, then a change is fresh at the edge; SIGTERM ends it with 0, with nothing held."""
    stand.write("a.html", "old")
    with stand.daemon() as process:
        assert fetch(stand.url("a.html"))[1] == "old"
        stand.write("a.html", "new")
        until(lambda: fetch(stand.url("a.html"))[1] == "new", what="the edge is fresh")
        until(lambda: stand.json("/api/status")["in_flight"] == 0)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    assert "Traceback" not in err
    assert SECRET not in err
    assert all(json.loads(line)["event"] for line in err.splitlines())
    found = json.loads(stand.run("status", "--json")[1])
    assert (found["pending"], found["in_flight"], found["quota"]["cdn"]["file"]["held"]) == (0, 0, 0)
    assert found["quota"]["cdn"]["file"]["spent"] == 1
    assert (found["running"], found["sources"]["www"]["state"]) == (False, "stopped")
    assert found["sources"]["www"]["last_event_at"].endswith("Z")
    assert clean(stand)


def clean(stand: Stand) -> bool:
    """Return whether the last owner shut down in order."""
    connection = sqlite3.connect(stand.state)
    try:
        return bool(connection.execute("SELECT clean FROM meta").fetchone()[0])
    finally:
        connection.close()


def test_not_ready_before_the_first_scan_is_durable(stand: Stand) -> None:
    """/readyz is 503 with the reason until then; /livez is 200 at once."""
    for number in range(3000):
        stand.write(f"{number % 100}/{number}.html")
    process = stand.command("run")
    try:
        answers = []
        until(lambda: answers.append(fetch(f"{stand.admin}/readyz")) or answers[-1][0] == 200)
        found = [json.loads(body) for status, body in answers if status == 503]
        assert all(one["reasons"] for one in found)
        connection = sqlite3.connect(stand.state)
        assert connection.execute("SELECT count(*) FROM object").fetchone()[0] == 3000
        assert connection.execute("SELECT seeded FROM root").fetchone()[0] == 1
        connection.close()
        assert stand.paths() == []
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_admin_port_serves_status_and_metrics(stand: Stand) -> None:
    """Every path answers; the metrics hold needs, quota and sources, and neither URL nor key."""
    stand.write("secret-name.html", "old")
    with stand.daemon():
        stand.write("secret-name.html", "new")
        until(stand.paths)
        until(lambda: stand.json("/api/status")["in_flight"] == 0)
        assert fetch(f"{stand.admin}/livez")[0] == 200
        health = stand.json("/healthz")
        assert health["ok"], health
        assert {"loop", "store", "source www", "account main"} <= {check["name"] for check in health["checks"]}
        metrics = fetch(f"{stand.admin}/metrics")[1]
        assert 'listener_needs{state="pending"} 0.0' in metrics
        assert 'listener_quota_spent{kind="file",target="cdn"} 1.0' in metrics
        assert 'listener_source_ready{source="www"} 1.0' in metrics
        assert 'listener_source_rescans_total{source="www"}' in metrics
        assert "listener_store_commit_group_longest_seconds" in metrics
        assert "secret-name" not in metrics
        assert "http://" not in metrics
        served = stand.json("/api/status")
        assert served["ready"]
        found = json.loads(stand.run("status", "--json")[1])
        assert (found["running"], found["pid"]) == (True, served["pid"])
        assert found["quota"] == served["quota"]
        assert found["sources"]["www"]["state"] == "listening"
        checks = json.loads(stand.run("check", "--json")[1])
        assert any("served by the daemon" in one["message"] for one in checks)
        assert any("owned by process" in one["message"] for one in checks)


def test_two_daemons_on_one_state_file(stand: Stand) -> None:
    """The second says which process owns it, and ends with 1; the first goes on."""
    with stand.daemon() as process:
        status, _, err = stand.run("run", LISTENER_ADMIN__LISTEN="")
        assert status == 1
        assert str(process.pid) in err
        assert "hint: " in err
        assert stand.ready()


def test_check_names_another_daemon_on_the_admin_port(stand: Stand, tmp_path: Path) -> None:
    """Where none sends from this state file, the one that answers there is another, and a start would fail."""
    with stand.daemon():
        status, out, _ = stand.run("check", "--json", LISTENER_STORE__URL=f"sqlite:///{tmp_path / 'other.db'}")
    (found,) = [one for one in json.loads(out) if one["subject"] == "admin"]
    assert (status, found["state"]) == (1, "failed")
    assert "another cdn-listener daemon uses it" in found["message"]


def test_a_taken_admin_port_fails_loudly(stand: Stand) -> None:
    """A daemon that cannot be probed does not run."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stand.admin_port))
        taken.listen()
        status, _, err = stand.run("run")
    assert status == 1
    assert "admin.listen" in err
    assert owner_of(stand.state) == Owner(False)


def test_sighup_keeps_the_old_configuration_where_the_new_one_is_wrong(stand: Stand) -> None:
    """A mistake is reported and changes nothing: the daemon goes on listening and refreshing."""
    stand.write("a.html", "old")
    with a_manager(stand) as manager, stand.daemon(NOTIFY_SOCKET=str(stand.root / "notify")) as process:
        fetch(stand.url("a.html"))
        received(manager, "STATUS=running: every source")
        for wrong in ("[coalescer]\nquite_seconds = 1", "not even TOML", "", stand.config.read_text() + "\n[x]\n"):
            stand.put(wrong)
            process.send_signal(signal.SIGHUP)
            received(manager, "STATUS=running with the old configuration")
        stand.configure(path=str(stand.root / "nowhere"))
        process.send_signal(signal.SIGHUP)
        received(manager, "STATUS=running with the old configuration")
        assert stand.ready()
        stand.write("a.html", "new")
        until(lambda: fetch(stand.url("a.html"))[1] == "new")
        process.terminate()
        _, err = process.communicate(timeout=20)
    refused = [json.loads(line) for line in err.splitlines() if "reload_refused" in line]
    assert len(refused) == 5
    assert "nowhere" in refused[-1]["error"]
    assert process.returncode == 0


def test_sighup_takes_a_new_configuration(stand: Stand) -> None:
    """Another tree, another admin port: the same process listens to them; nothing due is lost."""
    (stand.root / "other").mkdir()
    with stand.daemon() as process:
        old = stand.admin_port
        stand.admin_port = free = free_port()
        stand.configure(path=str(stand.root / "other"))
        process.send_signal(signal.SIGHUP)
        until(stand.ready, what=f"ready at {free}")
        assert fetch(f"http://127.0.0.1:{old}/livez")[0] == 0
        assert process.poll() is None
        (stand.root / "other" / "b.html").write_text("one")
        until(lambda: stand.url("b.html") in stand.paths())
        assert owner_of(stand.state).pid == process.pid


def test_a_second_signal_exits_immediately(stand: Stand) -> None:
    """The first SIGTERM waits for the request under way; the second does not, and loses nothing."""
    stand.write("a.html", "old")
    with stand.daemon() as process:
        stand.order("slow:60,action=RefreshObjectCaches")
        stand.write("a.html", "new")
        until(lambda: stand.json("/api/status")["in_flight"] == 1)
        time.sleep(0.3)
        process.terminate()
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM
    found = json.loads(stand.run("status", "--json")[1])
    assert found["in_flight"] + found["pending"] == 1
    stand.emulator.faults.clear()
    with stand.daemon():
        until(lambda: stand.json("/api/status")["oldest_unsettled_seconds"] == 0, what="settled after the restart")


@contextmanager
def a_manager(stand: Stand) -> Iterator[socket.socket]:
    """Listen where a service manager would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(stand.root / "notify"))
        manager.settimeout(20)
        yield manager


def test_the_service_manager_is_notified(stand: Stand) -> None:
    """READY once every source listens, WATCHDOG in time, RELOADING and READY again, STOPPING at the end."""
    environment = {"NOTIFY_SOCKET": str(stand.root / "notify"), "WATCHDOG_USEC": "600000"}
    with a_manager(stand) as manager, stand.daemon(**environment) as process:
        messages = received(manager, "WATCHDOG=1", "READY=1", "STATUS=running")
        assert messages.index("READY=1") < next(
            at for at, line in enumerate(messages) if line.startswith("STATUS=running")
        )
        process.send_signal(signal.SIGHUP)
        messages = received(manager, "RELOADING=1", "READY=1")
        assert messages.index("READY=1") > next(
            at for at, line in enumerate(messages) if line.startswith("RELOADING=1")
        )
        process.terminate()
        received(manager, "STOPPING=1")


def received(manager: socket.socket, *wanted: str) -> list[str]:
    """Return the messages received until each of these has begun one."""
    messages: list[str] = []
    while not all(any(line.startswith(word) for line in messages) for word in wanted):
        messages.append(manager.recv(4096).decode())
    return messages


def quiet(manager: socket.socket, seconds: float) -> bool:
    """Return whether the watchdog receives nothing for so long from now on."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        manager.settimeout(left)
        try:
            if manager.recv(4096) == b"WATCHDOG=1":
                return False
        except TimeoutError:
            break
    return True


def test_a_stuck_store_is_not_called_alive(stand: Stand) -> None:
    """While the store cannot write, the watchdog falls silent, so that the manager may restart the process."""
    environment = {"NOTIFY_SOCKET": str(stand.root / "notify"), "WATCHDOG_USEC": "600000"}
    with a_manager(stand) as manager, stand.daemon(**environment) as process:
        received(manager, "READY=1", "WATCHDOG=1")
        blocker = sqlite3.connect(stand.state, isolation_level=None)
        until(lambda: blocker.execute("BEGIN IMMEDIATE"))
        until(lambda: quiet(manager, 2.0), what="the watchdog receives nothing")
        blocker.execute("ROLLBACK")
        blocker.close()
        manager.settimeout(20)
        received(manager, "WATCHDOG=1")
        assert process.poll() is None


def test_a_cdn_that_does_not_answer_holds_nothing_up(stand: Stand) -> None:
    """With a quota call that hangs the daemon still listens, and ends long before that call does."""
    stand.order("slow:120,action=DescribeRefreshQuota")
    with stand.daemon() as process:
        stand.write("a.html")
        until(lambda: stand.json("/api/status")["pending"] == 1)
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_manual_commands_while_a_daemon_runs(stand: Stand) -> None:
    """refresh --wait leaves the sending to the daemon and reports the outcome; backfill only makes needs."""
    stand.write("a.html", "old")
    stand.write("b.html", "old")
    with stand.daemon():
        fetch(stand.url("a.html"))
        (stand.tree / "a.html").write_text("old")
        status, out, err = stand.run("refresh", stand.url("a.html"), "--wait", "--json")
        assert status == 0, err
        found = json.loads(out)
        assert (found["sent_by"], found["urls"][0]["state"]) == ("daemon", "complete")
        assert stand.url("a.html") in stand.paths()
        status, out, err = stand.run("backfill", "--yes", "--json")
        assert (status, json.loads(out)["sent_by"]) == (0, "daemon"), err
        until(lambda: stand.url("b.html") in stand.paths())
        until(lambda: stand.json("/api/status")["in_flight"] == 0)


def test_reading_imports_little(stand: Stand) -> None:
    """`status` from a cold process imports nothing that only the daemon needs."""
    heavy = "{'boto3', 'jinja2', 'watchdog'} & set(sys.modules)"
    code = f"import sys; from listener.cli import main; main(['status','--json']); print(bool({heavy}))"
    environment = {**os.environ, "LISTENER_CONFIG": str(stand.config)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
