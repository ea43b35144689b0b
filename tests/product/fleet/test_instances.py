"""Two daemons on one PostgreSQL store, as users run them: each watches its tree, one at a time sends."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeCluster
from tests.stand import DEADLINE_SECONDS, Stand, a_stand, fetch, free_port, until

LEASE_SECONDS = 3.0


@dataclass
class Instance:
    """One daemon with its own configuration, tree and state directory."""

    name: str
    stand: Stand
    url: str
    admin_port: int
    process: subprocess.Popen[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the daemon and of commands on its host."""

    @property
    def folder(self) -> Path:
        return self.stand.root / self.name

    @property
    def config(self) -> Path:
        return self.folder / "listener.toml"

    def configure(self) -> None:
        """Write the configuration, which differs from the others' in the name and the source."""
        self.folder.mkdir()
        (self.stand.tree / self.name).mkdir()
        self.config.write_text(
            f"""
[store]
url = "{self.url}"
[instance]
name = "{self.name}"
[fleet]
lease_seconds = {LEASE_SECONDS}
[coalescer]
quiet_seconds = 0.2
[verifier]
first_seconds = 0.2
interval_seconds = 0.1
[admin]
listen = "127.0.0.1:{self.admin_port}"
[sources.{self.name}]
type = "filesystem"
path = "{self.stand.tree}/{self.name}"
stable_seconds = 0.2
[targets.cdn]
type = "alibaba-cdn"
endpoint = "{self.stand.emulator.api_url}"
[[sites]]
source = "{self.name}"
target = "cdn"
base_urls = ["{self.stand.edge}/{self.name}/"]
"""
        )

    def command(self, *words: str) -> subprocess.Popen[str]:
        environment = {"LISTENER_CONFIG": str(self.config), "STATE_DIRECTORY": str(self.folder), **self.environment}
        return self.stand.command(*words, **environment)

    def start(self) -> None:
        """Start the daemon; it is ready on return."""
        self.process = self.command("run")
        until(self.is_ready, what=f"{self.name} is ready")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.process.communicate()[1]
        return fetch(f"http://127.0.0.1:{self.admin_port}/readyz")[0] == 200

    def text(self, *words: str) -> str:
        process = self.command(*words)
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, err
        return out

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.text("status", "--json")))

    def end(self, how: signal.Signals) -> None:
        """End the daemon by a signal."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(how)
            self.process.communicate(timeout=DEADLINE_SECONDS)
        self.process = None


@contextmanager
def fleet(
    stand: Stand, url: str, *names: str, environments: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> Iterator[list[Instance]]:
    """Run these instances."""
    instances = [Instance(name, stand, url, free_port(), environment=environments.get(name, {})) for name in names]
    with ExitStack() as ends:
        for instance in instances:
            instance.configure()
            ends.callback(instance.end, signal.SIGKILL)
            instance.start()
        yield instances


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """An origin with an emulated CDN before it."""
    with a_stand(tmp_path / "stand") as stand:
        yield stand


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """A server that survives a crash."""
    return make_cluster(durable=True)


def change(stand: Stand, keys: list[str], text: str) -> None:
    """Write these files and see that the edge still serves what it has."""
    for key in keys:
        stand.write(key, text)


def fresh(stand: Stand, keys: list[str], text: str) -> bool:
    """Return whether the edge serves this text everywhere."""
    return {fetch(stand.url(key))[1] for key in keys} == {text}


def test_whichever_instance_is_killed_the_other_one_sends(stand: Stand, cluster: Cluster) -> None:
    """Changes of both trees turn fresh; a killed leader is replaced; a crash of the server loses nothing."""
    keys = [f"{name}/{number}.html" for name in ("web-1", "web-2") for number in range(5)]
    with fleet(stand, cluster.url(), "web-1", "web-2") as (first, second):
        change(stand, keys, "old")
        until(lambda: fresh(stand, keys, "old"), what="the first version is fresh")
        for killed, other in ((first, second), (second, first)):
            killed.end(signal.SIGKILL)
            own = [key for key in keys if key.startswith(other.name)]
            is_seen = lambda: _dead(other.status()) == [killed.name]  # noqa: E731, B023
            until(is_seen, what=f"{killed.name} is reported as dead")
            assert_views(other, killed)
            text = f"without {killed.name}"
            began = time.monotonic()
            change(stand, own, text)
            until(lambda own=own, text=text: fresh(stand, own, text), what=text)  # type: ignore[misc]
            assert time.monotonic() - began < LEASE_SECONDS + 2 + 10  # and the time of a slow machine
            killed.start()
        cluster.restart("immediate")
        change(stand, keys, "new")
        until(lambda: fresh(stand, keys, "new"), what="the last version is fresh")
        until(lambda: first.status()["pending"] + first.status()["in_flight"] == 0, what="nothing is left to do")
        found = second.status()
        assert (found["failed"], found["parked"], found["stale"]) == (0, 0, [])
        assert found["instance"] == "web-2"
        accepted = sum(units.get("file", 0) for units in _units(stand))
        assert found["quota"]["cdn"]["file"]["spent"] == accepted


def _dead(status: dict[str, Any]) -> list[str]:
    return [one["name"] for one in status["instances"] if not one["alive"]]


def assert_views(other: Instance, killed: Instance) -> None:
    """Every view of the instance that is left names the one that is dead, and who leads."""
    until(lambda: other.status()["leader"] == {"main": other.name}, what="the account is taken over")
    found = other.status()
    (problem,) = [one for one in found["problems"] if killed.name in one["what"]]
    assert "no heartbeat" in problem["what"]
    assert problem["since"] < found["at"]
    text = other.text("status")
    assert f"instance {killed.name}: dead, leads nothing" in text
    assert f"instance {other.name}: runs, leads main; heartbeat " in text
    page = fetch(f"http://127.0.0.1:{other.admin_port}/")[1]
    assert killed.name in page
    metrics = fetch(f"http://127.0.0.1:{other.admin_port}/metrics")[1]
    assert f'listener_instance_info{{name="{other.name}"}} 1.0' in metrics
    assert f'listener_instance_alive{{name="{killed.name}"}} 0.0' in metrics
    assert 'listener_account_led{account="main"} 1.0' in metrics


def _units(stand: Stand) -> list[dict[str, int]]:
    windows = stand.emulator.account.ledger.windows().values()
    return [{str(kind): count for kind, count in units.items()} for units in windows]


def test_a_stopped_instance_hands_over_at_once(stand: Stand, cluster: Cluster) -> None:
    """After SIGTERM nobody waits for the lease to end; the exit status is 0."""
    with fleet(stand, cluster.url(), "web-1", "web-2") as (first, second):
        change(stand, ["web-2/a.html"], "old")
        until(lambda: fresh(stand, ["web-2/a.html"], "old"))
        assert first.process is not None
        process = first.process
        first.end(signal.SIGTERM)
        assert process.returncode == 0
        change(stand, ["web-2/a.html"], "new")
        until(lambda: fresh(stand, ["web-2/a.html"], "new"))
        found = second.status()
        assert [one["name"] for one in found["instances"]] == ["web-2"]  # who left in order is not missed
        assert found["leader"] == {"main": "web-2"}
        assert found["problems"] == []
