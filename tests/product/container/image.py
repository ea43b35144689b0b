"""The image, built from the Containerfile by real tools, and containers of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

CONTAINERFILE = ROOT / "config/container/Containerfile"
IMAGE = "localhost/cdn-listener:test"
BUILD_SECONDS = 600.0
CALL_SECONDS = 120.0
PACKAGES = "python3-minimal,python3-venv,python-is-python3,ca-certificates"


def called(
    *command: str | Path,
    seconds: float = CALL_SECONDS,
    check: bool = True,
    with_errors: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command; return what it printed, with its errors behind where these are asked for."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL, cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout + (done.stderr if with_errors else "")


@dataclass
class Engine:
    """Builder and engine with a store of their own."""

    folder: Path

    @property
    def _store(self) -> list[str]:
        return ["--root", f"{self.folder}/store", "--runroot", f"{self.folder}/run", "--storage-driver", "overlay"]

    def build(self) -> None:
        """
        Build the image.

        Its base is no registry's here: a Debian with a Python, under the same name, so that what is proved is every
        step of our own file; and packages come from a folder, as `pip download` fills it.
        """
        base, wheels = self.folder / "base.tar", self.folder / "wheels"
        called("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", f"--include={PACKAGES}",
               "bookworm", base, seconds=BUILD_SECONDS)  # fmt: skip
        of_base = shutil.which("python3.11") or sys.executable  # bookworm's, for which wheels must be
        pip = [sys.executable, "-m", "pip", "--python", of_base, "--disable-pip-version-check"]
        python = [*pip, "download", "-q", "--no-deps"]
        for lock in ("image", "build"):
            called(*python, "--require-hashes", "-d", wheels, "-r", f"config/locks/{lock}.txt", seconds=BUILD_SECONDS)
        (self.folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        (self.folder / "Base").write_text("FROM scratch\nADD base.tar /\n")
        build = ["buildah", *self._store, "bud", "--isolation", "chroot", "--format", "docker", "--quiet"]
        named = CONTAINERFILE.read_text().partition("PYTHON_VERSION=")[2].split()[0]
        base_name = f"docker.io/library/python:{named}-slim"
        called(*build, "-t", base_name, "-f", self.folder / "Base", self.folder, seconds=BUILD_SECONDS)
        base.unlink()
        volumes = ["--volume", f"{wheels}:/wheels:ro", "--volume", f"{self.folder}/pip.conf:/etc/pip.conf:ro"]
        called(*build, "--pull-never", *volumes, "-t", IMAGE, "-f", CONTAINERFILE, ROOT, seconds=BUILD_SECONDS)

    def podman(self, *arguments: str, check: bool = True, with_errors: bool = False) -> str:
        """Call podman: with runc, which needs no systemd, and limits that a root without all rights may set."""
        limits = self.folder / "containers.conf"
        limits.write_text('[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
        options = [*self._store, "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
        environment = {"CONTAINERS_CONF": str(limits)}
        return called("podman", *options, *arguments, check=check, with_errors=with_errors, environment=environment)

    def logs(self, name: str) -> str:
        """Return all that a container said."""
        return self.podman("logs", name, with_errors=True)

    def run(
        self, name: str, *command: str, volumes: Mapping[Path, str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a container as an operator should: nothing writable but its state, no capability, no new privilege."""
        options = ["--detach", "--name", name, "--network", "host", "--read-only", "--cap-drop", "all"]
        options += ["--security-opt", "no-new-privileges", "--no-healthcheck"]  # their timers need a systemd
        for outside, inside in volumes.items():
            options += ["--volume", f"{outside}:{inside}"]
        for variable, value in (environment or {}).items():
            options += ["--env", f"{variable}={value}"]
        self.podman("run", *options, IMAGE, *command)

    def inspect(self, name: str, kind: str = "container") -> dict[str, object]:
        """Return what podman knows of a container or an image."""
        (found,) = json.loads(self.podman("inspect", "--type", kind, name))
        return dict(found)

    def remove(self, *, containers: Sequence[str], pods: Sequence[str]) -> None:
        """Remove containers, pods, and everything that was built."""
        for name in containers:
            self.podman("rm", "--force", "--time", "0", name, check=False)
        for name in pods:
            self.podman("pod", "rm", "--force", "--time", "0", name, check=False)
        called("podman", *self._store, "system", "reset", "--force", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
