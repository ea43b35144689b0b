"""The start of the daemon: what may come later is waited for, what cannot become right ends it with 2."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stand import KEYS, Stand, fetch, free_port, until

NOT_OURS = "192.0.2.1"
"""An address of a documentation network (RFC 5737): no machine has it."""


@contextmanager
def started(stand: Stand, *, answers: bool = True, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the daemon, ready or not, for as long as the block lasts."""
    process = stand.command("run", **environment)
    try:
        until(
            lambda: process.poll() is not None or not answers or fetch(f"{stand.admin}/livez")[0] == 200,
            what="the daemon answers",
        )
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def reasons(stand: Stand) -> str:
    """Return why the daemon is not ready, from /readyz."""
    return " ".join(json.loads(fetch(f"{stand.admin}/readyz")[1]).get("reasons", []))


def test_a_root_that_comes_later_is_waited_for(stand: Stand) -> None:
    """Degraded with the setting and the path in every view; once a link leads to it, changes are refreshed."""
    path = stand.root / "mnt/site"
    stand.configure(path=str(path))
    with started(stand) as process:
        until(lambda: "does not exist" in reasons(stand), what="it says what is missing")
        assert "sources.www.path" in reasons(stand)

        def kept() -> Any:
            """What sources say of themselves is kept once a second."""
            source = json.loads(stand.run("status", "--json")[1])["sources"]["www"]
            return source if source["state"] == "degraded" else None

        source = until(kept, what="status shows it")
        assert source["ready"] is False
        assert str(path) in source["detail"]
        path.parent.mkdir()
        path.symlink_to(stand.tree)  # as the first deploy does
        until(stand.ready, what="it is ready")
        stand.write("a.html", "one")
        until(lambda: stand.url("a.html") in stand.paths())
        assert process.poll() is None


def test_a_webhook_address_that_comes_later_is_waited_for(stand: Stand) -> None:
    """While somebody else has the address, or this machine does not have it, the source is degraded, others run."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        hook = '[sources.{}]\ntype = "webhook"\nlisten = "{}"\ntoken = "{}"\n'
        site = '[[sites]]\nsource = "{}"\ntarget = "cdn"\nbase_urls = ["http://hooks.example.com/{}/"]\n'
        more = hook.format("hook", f"127.0.0.1:{port}", "t" * 32) + site.format("hook", "hook")
        more += hook.format("virtual", f"{NOT_OURS}:9181", "t" * 32) + site.format("virtual", "virtual")
        stand.configure(more)
        with started(stand) as process:
            for address in (f"127.0.0.1:{port}", f"{NOT_OURS}:9181"):
                until(lambda address=address: f"cannot listen on {address}" in reasons(stand), what="it says so")
            wanted = {"www": "listening", "hook": "degraded", "virtual": "degraded"}
            until(lambda: {name: one["state"] for name, one in stand.json("/api/status")["sources"].items()} == wanted)
            taken.close()
            until(lambda: stand.json("/api/status")["sources"]["hook"]["state"] == "listening", what="it listens")
            assert process.poll() is None


def test_an_admin_address_that_comes_later_is_waited_for(stand: Stand) -> None:
    """The daemon works meanwhile, and logs that it waits."""
    stand.put(stand.config.read_text().replace("127.0.0.1:", f"{NOT_OURS}:", 1))
    with started(stand, answers=False) as process:
        stand.write("a.html", "old")
        until(lambda: stand.run("status", "--json")[1].find('"ready": true') > 0, what="the source listens")
        stand.write("a.html", "new")
        until(lambda: stand.url("a.html") in stand.paths(), what="it refreshes")
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "daemon.admin_address_missing" in err, "cannot listen on" in err) == (0, True, True)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{free}", "http://cdn.invalid"], ids=["down", "no name"])
def test_an_api_that_cannot_be_reached_is_waited_for(stand: Stand, endpoint: str) -> None:
    """Refused connections and names without an address are no mistake: it listens, keeps what changes, and says why."""
    endpoint = endpoint.format(free=free_port())
    stand.put(stand.config.read_text().replace(stand.emulator.api_url, endpoint))
    stand.write("a.html", "old")
    with started(stand) as process:
        until(stand.ready)
        stand.write("a.html", "new")
        until(lambda: stand.json("/api/status")["pending"] == 1)
        until(lambda: endpoint in json.dumps(stand.json("/healthz")), what="it says what cannot be reached")
        assert process.poll() is None


def test_a_key_that_is_missing_or_malformed_is_reported_everywhere(stand: Stand, tmp_path: Path) -> None:
    """The daemon stays up, is not ready, and says what to set in one line of each view; it goes on when it is there."""
    secret, file = "ALIBABA_CLOUD_ACCESS_KEY_SECRET", tmp_path / "secret"
    file.write_text("two words")
    with started(stand, **{secret: "", f"{secret}_FILE": str(file)}) as process:
        until(lambda: secret in reasons(stand), what="the key is named")
        assert fetch(f"{stand.admin}/readyz")[0] == 503
        file.unlink()
        until(lambda: str(file) in reasons(stand), what="the missing file is named")
        stand.write("a.html")
        until(lambda: stand.json("/api/status")["pending"] == 1, what="changes are recorded")
        until(lambda: str(file) in json.dumps(stand.json("/api/status")["problems"]), what="status names it")
        assert '<h1 class="warn">Some changes are not detected or not sent</h1>' in fetch(f"{stand.admin}/")[1]
        file.write_text(KEYS[secret])
        until(stand.ready, what="it is ready")
        until(lambda: stand.paths() == [stand.url("a.html")], what="what was recorded is sent")
        process.terminate()
        log = process.communicate()[1]
    assert log.count("daemon.no_credentials") == 2
    assert KEYS[secret] not in log


def test_a_wrong_key_is_not_ready(stand: Stand) -> None:
    """What the CDN says of it is the reason."""
    with started(stand, ALIBABA_CLOUD_ACCESS_KEY_SECRET="a-wrong-one"):
        until(lambda: "account main" in reasons(stand), what="the account is named")
        assert fetch(f"{stand.admin}/readyz")[0] == 503


def test_a_setting_of_a_target_that_is_wrong_ends_the_start(stand: Stand) -> None:
    """No waiting helps: exit status 2, with the setting."""
    for wrong in ('endpoint = "not a url"', 'credentials = "magic"'):
        text = stand.config.read_text()
        stand.put(text.replace(f'endpoint = "{stand.emulator.api_url}"', wrong))
        status, _, err = stand.run("run")
        assert (status, "targets.cdn" in err) == (2, True), err
        stand.put(text)


def test_a_certificate_that_comes_later_is_waited_for(stand: Stand, tmp_path: Path) -> None:
    """A file that is not there is waited for; one that is no certificate ends the daemon."""
    files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key")}
    more = f'[sources.hook]\ntype = "webhook"\nlisten = "127.0.0.1:0"\ntoken = "{"t" * 32}"\n'
    more += "".join(f'tls_{name} = "{path}"\n' for name, path in files.items())
    more += '[[sites]]\nsource = "hook"\ntarget = "cdn"\nbase_urls = ["http://hooks.example.com/"]\n'
    stand.configure(more)
    with started(stand) as process:
        until(lambda: "tls_certificate" in reasons(stand))
        assert process.poll() is None
    for path in files.values():
        path.write_text("no PEM")
    status, _, err = stand.run("run")
    assert (status, "tls_certificate" in err) == (2, True), err
