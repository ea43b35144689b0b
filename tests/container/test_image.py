"""The image: built from our Containerfile, run as it should be, stopped, killed; nothing is lost."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from image import IMAGE, Engine
from shells import KEYS, SECRET, Stand, a_stand, fetch, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow, pytest.mark.timeout(1200)]
PATIENCE_SECONDS = 90.0
NAME = f"listener-{os.getpid()}"


@pytest.fixture(scope="module")
def engine(
    system_command: Callable[[str], str],
    absent: Callable[[str], NoReturn],
) -> Iterator[Engine]:
    """An engine with the image built."""
    for name in ("podman", "buildah", "runc", "mmdebstrap"):
        system_command(name)
    if os.geteuid():
        absent("root, to build and run a container")
    engine = Engine(Path(tempfile.mkdtemp(prefix="listener-")))  # podman wants a short path
    try:
        engine.build()
        yield engine
    finally:
        engine.remove([NAME])


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """An origin with an emulator before it."""
    with a_stand(tmp_path_factory.mktemp("container") / "stand") as stand:
        yield stand


@pytest.fixture(scope="module")
def running(engine: Engine, stand: Stand) -> Engine:
    """The daemon in a container, ready."""
    text = re.sub(r'url = "sqlite:.*"', "", stand.configure(path="/srv/www").read_text())
    stand.put(text)
    stand.config.chmod(0o644)
    state = stand.root / "state"
    state.mkdir()
    os.chown(state, 65532, 65532)
    volumes = {
        stand.config: "/etc/cdn-listener/listener.toml:ro",
        stand.tree: "/srv/www:ro",
        state: "/var/lib/cdn-listener",
    }
    engine.run(NAME, volumes=volumes, environment=KEYS)
    until(stand.ready, seconds=PATIENCE_SECONDS, what="it is ready")
    return engine


def state_of(engine: Engine) -> dict[str, Any]:
    """Return the container's state."""
    state = engine.inspect(NAME)["State"]
    assert isinstance(state, dict)
    return state


def turns_fresh(stand: Stand, name: str, text: str) -> None:
    """Wait until the edge serves this text."""
    until(lambda: fetch(stand.url(name))[1] == text, seconds=PATIENCE_SECONDS, what=f"{name} is fresh")


def test_the_image_needs_no_rights(running: Engine, stand: Stand) -> None:
    """Not root, without a capability, on a read-only root: it does its work, and its health check passes."""
    stand.write("a.html", "old")
    assert fetch(stand.url("a.html"))[1] == "old"
    stand.write("a.html", "new")
    turns_fresh(stand, "a.html", "new")
    status = Path(f"/proc/{state_of(running)['Pid']}/status").read_text()
    assert re.search(r"\nUid:\t65532\t65532\t65532\t65532\n", status)
    assert re.search(r"\nCapEff:\t0+\n", status)
    assert "\nNoNewPrivs:\t1\n" in status
    image = running.inspect(IMAGE, "image")
    config = image["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    told = image.get("HealthCheck") or image.get("Healthcheck") or config.get("Healthcheck")
    assert isinstance(told, dict), sorted(image)
    healthcheck = told["Test"]
    assert healthcheck[0] == "CMD"  # no shell
    asks = [part.replace(":9180", f":{stand.admin_port}") for part in healthcheck[1:]]
    running.podman("exec", NAME, *asks)
    assert SECRET not in running.podman("logs", NAME)


def test_killed_it_loses_nothing(running: Engine, stand: Stand) -> None:
    """SIGKILL while files change: what changed before, at and after it turns fresh once it runs again."""
    names = [f"kill/{number}.html" for number in range(30)]
    for name in names:
        stand.write(name, "old")
        assert fetch(stand.url(name))[1] == "old"
    for name in names[:10]:
        stand.write(name, "new")
    running.podman("kill", NAME)
    for name in names[10:20]:
        stand.write(name, "new")
    until(lambda: not state_of(running)["Running"])
    assert state_of(running)["ExitCode"] == 137
    running.podman("start", NAME)
    for name in names[20:]:
        stand.write(name, "new")
    for name in names:
        turns_fresh(stand, name, "new")


def test_sigterm_ends_it_within_the_grace_period(running: Engine, stand: Stand) -> None:
    """As a pod is ended: exit status 0 before the time is over, with everything that was heard in the state file."""
    stand.write("last.html", "old")
    assert fetch(stand.url("last.html"))[1] == "old"
    until(stand.ready, seconds=PATIENCE_SECONDS)
    stand.write("last.html", "new")
    began = time.monotonic()
    running.podman("stop", "--time", "45", NAME)
    assert time.monotonic() - began < 45
    assert state_of(running)["ExitCode"] == 0
    running.podman("start", NAME)
    turns_fresh(stand, "last.html", "new")
