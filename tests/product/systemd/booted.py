"""A real systemd: the machine's own file system with a layer of its own above, booted in a name space."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import ROOT
from tests.stand import KEY_ID, SECRET

BOOT_SECONDS = 60.0
CALL_SECONDS = 90.0
COMMAND = "/opt/cdn-listener/bin/cdn-listener"
UNIT = "cdn-listener.service"
CONFIGURATION = "/etc/cdn-listener/listener.toml"
STATE = "/var/lib/cdn-listener/state.db"
# The watchdog of the unit is for people; here it barks within seconds.
QUICK = "[Service]\nWatchdogSec=5\nTimeoutAbortSec=1\nRestartSec=100ms\n"
# Only what is named here is booted, not what the machine itself would start.
TARGET = "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n"
# The mounts are in a name space of their own: they go with this shell, whatever becomes of the test.
# Each machine has control groups of its own: otherwise two of them share one, and remove each other's units from it.
SCRIPT = """
set -e
for own in {groups}; do mkdir "$own" && echo $$ > "$own/cgroup.procs" || true; done
mount -t tmpfs -o size=1g tmpfs {work}
mkdir {work}/upper {work}/work {work}/root
mount -t overlay overlay -o lowerdir=/,upperdir={work}/upper,workdir={work}/work {work}/root
cp -a {files}/. {work}/root/
: > {work}/root/etc/machine-id
rm -rf {work}/root/var/lib/cdn-listener {work}/root/var/lib/private/cdn-listener
exec systemd-nspawn -q -D {work}/root -M {name} {binds} --register=no --keep-unit --resolv-conf=off --timezone=off \
  --link-journal=no --console=pipe -b systemd.unit=cdn-listener-test.target
"""


class Machine:
    """One booted systemd."""

    def __init__(self, init: int, python: str) -> None:
        """Take the process number of its first process, and its Python."""
        self._python = python
        self._enter = ["nsenter", "-t", str(init), "-m", "-p", "-n", "-u", "-i", "-C", "env", "-i"]
        self._enter.append("PATH=/usr/sbin:/usr/bin:/sbin:/bin")

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command in it; return what it printed, errors behind."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        done = subprocess.run(
            [*self._enter, *variables, *command],
            capture_output=True, text=True, timeout=CALL_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout + done.stderr

    def python(self, script: str) -> str:
        """Run a script in it; return what it printed."""
        return self.run(self._python, "-c", script, LD_LIBRARY_PATH=str(Path(self._python).parents[1] / "lib"))

    def journal(self) -> str:
        """Return the daemon's last words."""
        command = [*self._enter, "journalctl", "-n", "40", "--no-pager", "-o", "cat"]
        return subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS, check=False).stdout

    def show(self, key: str, unit: str = "cdn-listener.service") -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", "-P", key, unit).strip()

    def write(self, path: str, text: str) -> None:
        """Put a text in the place of a file."""
        self.run("sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text)

    @property
    def main_pid(self) -> int:
        """The daemon's process number, inside."""
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        """How often systemd started the daemon again by itself."""
        return int(self.show("NRestarts"))

    def is_back(self, count: int) -> bool:
        """Return whether it was started again so often, and listens again."""
        return self.restarts >= count and self.show("ActiveState") == "active"


def inside(configuration: str) -> str:
    """Return a stand's configuration with its places in the machine."""
    return re.sub(r'url = "sqlite:.*"', f'url = "sqlite:///{STATE}"', configuration)


def daemon_files(configuration: str) -> dict[str, str]:
    """Return what an operator lays out: the shipped unit, the keys and a configuration."""
    return {
        f"etc/systemd/system/{UNIT}": (ROOT / "systemd" / UNIT).read_text(),
        f"etc/systemd/system/{UNIT}.d/quick.conf": QUICK,
        "etc/cdn-listener/credentials/access-key-id": KEY_ID + "\n",
        "etc/cdn-listener/credentials/access-key-secret": SECRET + "\n",
        CONFIGURATION[1:]: configuration,
    }


def _interpreter() -> tuple[str, list[str]]:
    """Return a Python that a service can see, and what is to be bound for it: homes are hidden from services."""
    base = Path(sys.base_prefix)
    name = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if not base.as_posix().startswith(("/root/", "/home/")):
        return str(base / name), []
    return f"/opt/python/{name}", [f"--bind-ro={base}:/opt/python"]


def _files(folder: Path, interpreter: str, more: Mapping[str, str]) -> None:
    """Lay out what the machine has next to its own file system."""
    texts = {
        "etc/systemd/system/cdn-listener-test.target": TARGET,
        "opt/cdn-listener/main.py": "import sys\n"
        "sys.path[:0] = ['/opt/cdn-listener/source', '/opt/cdn-listener/packages']\n"
        "from listener.cli import main\nsys.exit(main())\n",
        COMMAND[1:]: "#!/bin/sh\n"
        f'LD_LIBRARY_PATH={Path(interpreter).parents[1] / "lib"} exec {interpreter} /opt/cdn-listener/main.py "$@"\n',
        **more,
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if "/bin/" in name else 0o600 if "/credentials/" in name else 0o644)


@contextmanager
def a_machine(folder: Path, *, name: str, files: Mapping[str, str], binds: Mapping[Path, str]) -> Iterator[Machine]:
    """Boot; ``files`` are put below the root, ``binds`` shared with the test. Power off in the end."""
    interpreter, bound = _interpreter()
    _files(folder / "files", interpreter, files)
    (folder / "layer").mkdir()
    bound += [f"--bind-ro={ROOT / 'listener'}:/opt/cdn-listener/source/listener"]
    bound += [f"--bind-ro={ROOT / 'systemd'}:/opt/cdn-listener/source/systemd"]
    bound += [f"--bind-ro={sysconfig.get_paths()['purelib']}:/opt/cdn-listener/packages"]
    bound += [f"--bind={outside}:{inside}" for outside, inside in binds.items()]
    groups = [group / name for group in _control_groups()]
    script = SCRIPT.format(
        work=shlex.quote(str(folder / "layer")),
        files=shlex.quote(str(folder / "files")),
        name=name,
        groups=shlex.join(map(str, groups)),
        binds=shlex.join(bound),
    )
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
        )  # fmt: skip
        try:
            machine = Machine(_init_of(process, folder / "console"), interpreter)
            _until_up(machine)
            yield machine
        finally:
            _power_off(process)
            for group in groups:
                _remove(group)


def _control_groups() -> Iterator[Path]:
    """Yield this process's directory in each hierarchy of control groups that a systemd uses for its units."""
    mounted = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            yield mounted / "systemd" / path[1:]
        elif not controllers:
            yield (mounted / "unified" if (mounted / "unified").is_dir() else mounted) / path[1:]


def _remove(group: Path) -> None:
    for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        group.rmdir()


def _init_of(process: subprocess.Popen[bytes], console: Path) -> int:
    """Wait for the first process of the machine: the only child of systemd-nspawn, that of the shell it replaced."""
    ends = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < ends:
        assert process.poll() is None, console.read_text(errors="replace")
        for child in _children(process.pid):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        time.sleep(0.05)
    raise AssertionError(f"it did not boot: {console.read_text(errors='replace')}")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_children(int(child))]
    except OSError:
        pass
    return found


def _until_up(machine: Machine) -> None:
    ends = time.monotonic() + BOOT_SECONDS
    while (state := machine.run("systemctl", "is-system-running", check=False).strip()) not in ("running", "degraded"):
        assert time.monotonic() < ends, state
        time.sleep(0.1)


def _power_off(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; whatever is left of it after a while is killed, by its own process group."""
    children = _children(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        for pid in [*children, process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(20)
