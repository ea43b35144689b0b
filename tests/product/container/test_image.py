"""The image, by itself and in the sidecar's pod: run as it should be, stopped, killed; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.product.container.image import IMAGE, ROOT, Engine
from tests.product.container.pod import Pod, probes, workload
from tests.readme import block, replaced
from tests.stand import KEYS, SECRET, Stand, a_stand, fetch, free_port, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow, pytest.mark.timeout(1200)]
PATIENCE_SECONDS = 90.0
NAME, WEB, SIDECAR = (f"{name}-{os.getpid()}" for name in ("listener", "web", "sidecar"))
POD = f"www-{os.getpid()}"


@pytest.fixture(scope="module")
def engine(
    system_command: Callable[[str], str],
    absent: Callable[[str], NoReturn],
) -> Iterator[Engine]:
    """An engine with the image built."""
    for name in ("podman", "buildah", "runc", "mmdebstrap", "catatonit"):
        system_command(name)
    if os.geteuid():
        absent("root, to build and run a container")
    engine = Engine(Path(tempfile.mkdtemp(prefix="listener-")))  # podman wants a short path
    try:
        engine.build()
        yield engine
    finally:
        engine.remove(containers=[NAME, SIDECAR, WEB], pods=[POD])


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


def has_no_rights(state: dict[str, Any]) -> None:
    """A container's process is not root's, and can never become so."""
    status = Path(f"/proc/{state['Pid']}/status").read_text()
    assert re.search(r"\nUid:\t65532\t65532\t65532\t65532\n", status)
    assert re.search(r"\nCapEff:\t0+\n", status)
    assert "\nNoNewPrivs:\t1\n" in status


def turns_fresh(stand: Stand, name: str, text: str) -> None:
    """Wait until the edge serves this text."""
    until(lambda: fetch(stand.url(name))[1] == text, seconds=PATIENCE_SECONDS, what=f"{name} is fresh")


def test_the_image_needs_no_rights(running: Engine, stand: Stand) -> None:
    """Not root, without a capability, on a read-only root: it does its work, and its health check passes."""
    stand.write("a.html", "old")
    assert fetch(stand.url("a.html"))[1] == "old"
    stand.write("a.html", "new")
    turns_fresh(stand, "a.html", "new")
    has_no_rights(state_of(running))
    image = running.inspect(IMAGE, "image")
    config = image["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    reported = image.get("HealthCheck") or image.get("Healthcheck") or config.get("Healthcheck")
    assert isinstance(reported, dict), sorted(image)
    healthcheck = reported["Test"]
    assert healthcheck[0] == "CMD"  # no shell
    asks = [part.replace(":9180", f":{stand.admin_port}") for part in healthcheck[1:]]
    running.podman("exec", NAME, *asks)
    said = running.logs(NAME)
    assert "daemon.ready" in said
    assert SECRET not in said


def test_the_image_says_what_is_in_it(engine: Engine) -> None:
    """Its bill of materials names the packages of the lock at their versions, and the product; pip is not in it."""
    lock = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", (ROOT / "config/locks/image.txt").read_text(), re.MULTILINE))
    shown = engine.podman("run", "--rm", "--entrypoint", "cat", IMAGE, "/opt/cdn-listener/sbom.cdx.json")
    bill = json.loads(shown)
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "cdn-listener"
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in bill["components"]}
    assert {name: found[name] for name in ("aiohttp", "cryptography", "boto3")} == {
        name: lock[name] for name in ("aiohttp", "cryptography", "boto3")
    }
    assert all(lock[name] == version for name, version in found.items() if name != "cdn-listener")
    assert "pip" not in found


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
    """As a pod is ended: exit status 0 before the time is over, with everything that was received in the state file."""
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


# --- the sidecar's pod ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pod(engine: Engine) -> Pod:
    """The pod of the shipped manifest: the sidecar, a web server of which it shares the volume, and the emulator."""
    pod = Pod(engine, POD)
    pod.play()
    pod.run("".join(f"answers({path!r})\n" for path in probes()))
    return pod


def test_what_the_web_server_writes_is_refreshed(pod: Pod) -> None:
    """In a volume that both share and the sidecar only reads; keys come as files; probes are answered where asked."""
    pod.run("write(['a.html'], 'old'); turn(['a.html'], 'old'); write(['a.html'], 'new'); turn(['a.html'], 'new')")
    for name in ("cdn-listener", "www"):
        has_no_rights(pod.state(name))
    attempt = "try: open({!r}, 'w')\nexcept OSError as error: print(error.errno)\n"
    tried = "".join(attempt.format(path) for path in ("/x", "/srv/www/x"))
    assert pod.run(tried, "cdn-listener").split() == [str(errno.EROFS)] * 2
    environment = Path(f"/proc/{pod.state()['Pid']}/environ").read_text()
    assert "ALIBABA_CLOUD" not in environment


def test_a_killed_sidecar_is_started_again_and_loses_nothing(pod: Pod) -> None:
    """SIGKILL while the web server writes: it is started again, and everything turns fresh at an edge that stayed."""
    names = [f"kill-{number}.html" for number in range(20)]
    pod.run(f"write({names}, 'old'); turn({names}, 'old'); write({names[:10]}, 'new')")
    killed = pod.state()["Pid"]
    os.kill(killed, signal.SIGKILL)
    pod.run(f"write({names[10:]}, 'new')")
    until(lambda: pod.state()["Running"] and pod.state()["Pid"] != killed, seconds=PATIENCE_SECONDS, what="it is back")
    pod.run(f"turn({names}, 'new')")


def test_the_pod_ends_within_its_grace_period(pod: Pod) -> None:
    """Stopped while there is something to do: everybody leaves in order and in time; started again, it goes on."""
    grace = workload()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    names = [f"stop-{number}.html" for number in range(20)]
    pod.run(f"write({names}, 'old'); turn({names}, 'old'); write({names}, 'new')")
    began = time.monotonic()
    pod.engine.podman("pod", "stop", "--time", str(grace), POD)
    assert time.monotonic() - began < grace
    assert [pod.state(name)["ExitCode"] for name in ("cdn-listener", "www")] == [0, 0]
    # The engine may note the exit code before it has read all that the process wrote.
    until(lambda: "daemon.ended" in pod.engine.logs(pod.container()), seconds=PATIENCE_SECONDS, what="its log is whole")
    pod.engine.podman("pod", "start", POD)
    pod.run("".join(f"answers({path!r})\n" for path in probes()))
    pod.run("turn(['stop-1.html'], 'new'); write(['stop-1.html'], 'newer'); turn(['stop-1.html'], 'newer')")


def test_the_sidecar_of_the_readme(engine: Engine, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's configuration and its `podman run`, which takes the files of the container `web`."""
    port, folder = free_port(), stand.root / "sidecar"
    text = (ROOT / "README.md").read_text()
    (configuration,) = re.findall(r"```toml\n(# cdn-listener/listener.toml\n.*?)```", text, re.DOTALL)
    target = f'type = "alibaba-cdn"\nendpoint = "{stand.emulator.api_url}"'
    places = {"9180": str(port), 'type = "alibaba-cdn"': target, "https://www.example.com": stand.edge}
    folder.mkdir()
    (folder / "listener.toml").write_text(replaced(configuration, places))
    lines = " ".join(block("Sidecar container", "podman build")).replace("\\ ", "")
    run = lines[lines.index("podman run") :]
    run = replaced(run, {"--publish 127.0.0.1:9180:9180": "--network host", "./cdn-listener": str(folder)})
    run = replaced(run, {" web:ro": f" {WEB}:ro", "listener-state": f"state-{os.getpid()}"})
    for name, value in {**KEYS, "LISTENER_ADMIN__TOKEN": "t" * 32}.items():
        monkeypatch.setenv(name, value)
    engine.podman("create", "--name", WEB, "--volume", f"{stand.tree}:/srv/www", IMAGE)
    *words, image = shlex.split(run)
    assert image == "cdn-listener"
    engine.podman(*words[1:], "--detach", "--name", SIDECAR, "--no-healthcheck", IMAGE)
    until(lambda: fetch(f"http://127.0.0.1:{port}/readyz")[0] == 200, seconds=PATIENCE_SECONDS, what="it is ready")
    stand.write("sidecar.html", "old")
    assert fetch(stand.url("sidecar.html"))[1] == "old"
    stand.write("sidecar.html", "new")
    turns_fresh(stand, "sidecar.html", "new")
