"""The sidecar's pod, from the shipped manifest, played by podman."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import yaml

from tests.product.container.image import IMAGE, ROOT, Engine
from tests.stand import KEYS

SIDECAR = ROOT / "config/kubernetes/sidecar"
API, EDGE, ADMIN = "127.0.0.1:8700", "127.0.0.1:8701", "127.0.0.1:9180"
SECRETS = "cdn-listener-key"
PATIENCE_SECONDS = 90.0
# What differs by place, where the documentation puts it: in the environment.
PLACES = {
    "LISTENER_TARGETS__CDN__ENDPOINT": f"http://{API}",
    "LISTENER_SITES__0__BASE_URLS": json.dumps([f"http://{EDGE}/"]),
    "LISTENER_COALESCER__QUIET_SECONDS": "0.2",
    "LISTENER_VERIFIER__FIRST_SECONDS": "0.2",
    "LISTENER_VERIFIER__INTERVAL_SECONDS": "0.1",
}
WEB_SERVER = """import functools, http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/srv/www")
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), handler).serve_forever()
"""
# The emulator has its key from the same files: podman 4.3 leaves a secret in Base64 where others decode it.
EMULATOR = f"""import os, pathlib
for path in pathlib.Path("/run/secrets/cdn-listener").iterdir():
    os.environ[path.name.upper()] = path.read_text().strip()
os.execvp("cdn-listener", ["cdn-listener", "emulate", "--origin", "http://127.0.0.1:8080", "--task-seconds", "0.2",
                           "--api", "{API}", "--edge", "{EDGE}"])
"""
# What the web server's container can do and see.
STEPS = f"""import pathlib, sys, time, urllib.error, urllib.request

def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)

def write(names, text):
    for name in names:
        pathlib.Path("/srv/www", name).write_text(text)

def until(condition, what):
    ends = time.monotonic() + {PATIENCE_SECONDS}
    while not condition():
        if time.monotonic() > ends:
            sys.exit("not in time: " + what())
        time.sleep(0.05)

def turn(names, text):
    for name in names:
        url = "http://{EDGE}/" + name
        until(lambda: fetch(url) == (200, text), lambda: repr((name, text, fetch(url))))

def answers(path):
    url = "http://{ADMIN}" + path
    until(lambda: fetch(url)[0] == 200, lambda: repr((path, fetch(url))))

"""


def workload() -> dict[str, Any]:
    """Return the shipped StatefulSet."""
    return dict(yaml.safe_load((SIDECAR / "statefulset.yaml").read_text()))


def probes() -> list[str]:
    """Return the paths that Kubernetes would ask the sidecar for, at its port."""
    (sidecar,) = workload()["spec"]["template"]["spec"]["initContainers"]
    (port,) = sidecar["ports"]
    assert ADMIN.endswith(f":{port['containerPort']}")
    asked = [sidecar[name]["httpGet"] for name in ("startupProbe", "livenessProbe")]
    assert {one["port"] for one in asked} == {port["name"]}
    return [one["path"] for one in asked]


def played(name: str) -> list[dict[str, Any]]:
    """
    Return what podman plays: the pod of the shipped StatefulSet, and the objects that it names.

    Changed is what Debian 12's podman (4.3) does not know or gets wrong, and what stands in for others:

    - a pod instead of its StatefulSet, and the claim that this would make;
    - the native sidecar is the first container: podman waits for the end of every init container, whatever its
      restart policy;
    - no probes, which podman runs by systemd's timers and a curl in the image: the test asks them;
    - no ports, which podman publishes: the pod has a network of its own with nothing but loopback;
    - a Secret of another name than the ConfigMap, since podman keeps both in a volume of that name, and with
      ``optional``, without which podman crashes;
    - the image; the command of the web server; the emulator, a third container; where it is, by the environment.
    """
    shipped = workload()["spec"]
    spec = shipped["template"]["spec"]
    (sidecar,) = spec.pop("initContainers")
    assert sidecar.pop("restartPolicy") == "Always"
    for probe in ("startupProbe", "livenessProbe"):
        del sidecar[probe]
    sidecar["env"] += [{"name": variable, "value": value} for variable, value in PLACES.items()]
    (app,) = spec["containers"]
    app["command"] = ["python", "-c", WEB_SERVER]
    (secrets,) = [mount for mount in sidecar["volumeMounts"] if mount["name"] == "secrets"]
    emulator = {"name": "emulator", "command": ["python", "-c", EMULATOR], "volumeMounts": [secrets]}
    spec["containers"] = [sidecar, app, {**emulator, "securityContext": app["securityContext"]}]
    for container in spec["containers"]:
        container.update(image=IMAGE, imagePullPolicy="Never")
        container.pop("ports", None)
    for volume in spec["volumes"]:
        if "secret" in volume:
            volume["secret"].update(secretName=SECRETS, optional=False)
    claims = []
    for claim in shipped["volumeClaimTemplates"]:
        volume_name = claim["metadata"]["name"]
        claim_name = f"{volume_name}-{name}"
        spec["volumes"].append({"name": volume_name, "persistentVolumeClaim": {"claimName": claim_name}})
        claims.append(_object("PersistentVolumeClaim", claim_name, spec=claim["spec"]))
    secrets_given = {**KEYS, "admin.token": "a-token-that-only-this-pod-has"}
    data = {key.lower(): base64.b64encode(value.encode()).decode() for key, value in secrets_given.items()}
    return [_object("Secret", SECRETS, data=data), *claims, _object("Pod", name, spec=spec)]


def _object(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **more}


@dataclass
class Pod:
    """A pod that is played."""

    engine: Engine
    name: str

    def play(self) -> None:
        """Start it."""
        objects, generated = self.engine.folder / "pod.yaml", self.engine.folder / "config.yaml"
        objects.write_text("\n---\n".join(json.dumps(one) for one in played(self.name)))
        data = {"listener.toml": (SIDECAR / "listener.toml").read_text()}
        generated.write_text(json.dumps(_object("ConfigMap", "cdn-listener", data=data)))
        self.engine.podman("kube", "play", "--network", "none", "--configmap", str(generated), str(objects))

    def container(self, name: str = "cdn-listener") -> str:
        """Return the name that podman gives to a container of it."""
        return f"{self.name}-{name}"

    def state(self, name: str = "cdn-listener") -> dict[str, Any]:
        """Return the state of a container of it."""
        state = self.engine.inspect(self.container(name))["State"]
        assert isinstance(state, dict)
        return state

    def run(self, script: str, name: str = "www") -> str:
        """Run a script in a container of it, after the steps above; return what it printed."""
        return self.engine.podman("exec", self.container(name), "python", "-c", STEPS + script)
