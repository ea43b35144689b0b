"""
``cdn-listener systemd``: the units, with the path of this installation; and ``check`` as the installed unit.

That is with the user, groups, mounts, environment and credentials that the daemon will have: a temporary copy of the
unit as systemd knows it, drop-ins included, runs `check` once instead of the daemon.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from listener.cli.shipped import shipped_folder

if TYPE_CHECKING:
    from listener.contracts import Check

__all__ = ["DAEMON", "app", "check_as_unit", "is_installed", "reload_manager", "write_units"]

app = typer.Typer(no_args_is_help=True, help="List, show and install the systemd units.")

DAEMON: Final = "cdn-listener.service"
TEMPLATE: Final = "cdn-listener@.service"
SOCKET: Final = "cdn-listener.socket"
SHIPPED_COMMAND: Final = "/opt/cdn-listener/bin/cdn-listener"
_HIDDEN: Final = ("/root/", "/home/", "/tmp/", "/run/user/")  # noqa: S108 - nothing is written there
"""Places from which the hardened units cannot execute a program."""
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[UNIT]...", help="Names from `systemd list`. Default: the daemon's.")
]

UNIT_MODE = 0o644
"""As systemd expects: units contain no secret."""
RUNTIME_UNITS: Final = Path("/run/systemd/system")
"""Exists where systemd is the service manager (sd_booted(3)); units there end with the machine."""
CALL_SECONDS: Final = 30.0
CHECK_SECONDS: Final = 600.0
_REASONS: Final = {
    "203": (
        "its command cannot be executed",
        "install into /opt/cdn-listener, then `systemd install --force`",
    ),
    "216": ("a group of SupplementaryGroups= does not exist", "name an existing group"),
    "217": ("its user does not exist", "correct User= in the unit"),
    "226": ("its mounts cannot be set up", "check the paths in BindReadOnlyPaths= and similar settings"),
    "238": ("its state directory cannot be created", "see `journalctl -u {unit}`; move what is in its place"),
    "243": ("a file that LoadCredential= names cannot be read", "put the keys where the unit expects them"),
}
"""By exit status (systemd.exec(5)): what failed before the program ran, and what to do."""
_CHANGES: Final = """
[Unit]
OnFailure=
[Service]
Type=oneshot
ExecCondition=
ExecStartPre=
ExecStart=
ExecStart={command} check --here --json
ExecStartPost=
ExecReload=
ExecStop=
ExecStopPost=
Restart=no
Slice=system.slice
RuntimeDirectory=
Sockets=
SuccessExitStatus=1
TimeoutStartSec={seconds:.0f}
WatchdogSec=0
StandardOutput=file:{folder}/out
StandardError=file:{folder}/err
"""
"""
Turns a copy of the daemon's unit into one check. A runtime directory would be removed at its end, including the
daemon's own; a template unit has a slice of its own, which would remain.
"""


@app.command("list")
def list_units() -> None:
    """List the available units and drop-ins."""
    for name, path in _units().items():
        typer.echo(f"{name}  {path.read_text('utf-8').splitlines()[0].removeprefix('# ')}")


@app.command("show")
def show(names: NamesArgument = None) -> None:
    """Print units as `install` would write them."""
    for name in names or [DAEMON]:
        typer.echo(_text(name), nl=False)


@app.command("install")
def install(
    names: NamesArgument = None,
    directory: Annotated[Path, typer.Option("--directory", metavar="DIR", help="Where to write the units.")] = Path(
        "/etc/systemd/system"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite units that differ.")] = False,
) -> None:
    """Write units, and start nothing. An existing unit that differs is kept, unless --force is given."""
    daemons = [name for name in names or () if name in (DAEMON, TEMPLATE)] or [DAEMON]
    write_units(names or [DAEMON], daemons, directory, force=force)
    begin = f"enable {SOCKET} && systemctl restart" if SOCKET in (names or ()) else "enable --now"
    units = " ".join("cdn-listener@NAME" if name == TEMPLATE else "cdn-listener" for name in daemons)
    typer.echo(f"next: systemctl daemon-reload && systemctl {begin} {units}", err=True)


def write_units(names: Sequence[str], daemons: Sequence[str], directory: Path, *, force: bool) -> None:
    """
    Write these units and drop-ins, the latter to each of the daemons, and print their paths.

    Raises:
        ConfigurationError: one exists and differs.
        ListenerError: one cannot be written.
    """
    from listener.errors import ConfigurationError, ListenerError
    from listener.settings import expanded

    folder = expanded(directory)
    texts = {folder / place: _text(name) for name in names for place in _places(name, daemons)}
    for path, text in texts.items():
        if not force and path.exists() and path.read_text("utf-8") != text:
            raise ConfigurationError(
                f"{path}: exists and differs", hint="keep your changes in a drop-in (`systemctl edit`), or pass --force"
            )
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            path.chmod(UNIT_MODE)  # whatever the umask: root executes it
            typer.echo(str(path))
    except OSError as error:
        raise ListenerError(f"{error.filename}: {error.strerror}", hint="run as root, or name a --directory") from None
    if (command := _command()).startswith(_HIDDEN):
        typer.echo(f"warning: services cannot read {command}: install into /opt/cdn-listener", err=True)


def _units() -> dict[str, Path]:
    """Return every unit by name: from the installed package, or from a source checkout."""
    folder = shipped_folder("units")
    found = sorted(folder.glob("*.*")) + sorted(folder.glob("drop-ins/*.conf"))
    return {path.relative_to(folder).as_posix(): path for path in found}


def _places(name: str, daemons: Sequence[str]) -> list[str]:
    """Return where a unit is written: a drop-in goes to each daemon unit that is installed with it."""
    return [f"{daemon}.d/{Path(name).name}" for daemon in daemons] if name.endswith(".conf") else [name]


def _text(name: str) -> str:
    from listener.errors import ConfigurationError
    from listener.settings import nearest

    units = _units()
    if name not in units:
        raise ConfigurationError(f"there is no unit {name!r}", hint=nearest(name, units) or "see `systemd list`")
    return units[name].read_text("utf-8").replace(SHIPPED_COMMAND, _command())


def _command() -> str:
    """Return the path of this installation's command."""
    installed = Path(sys.executable).with_name("cdn-listener")
    return str(installed) if installed.exists() else shutil.which("cdn-listener") or SHIPPED_COMMAND


def is_installed(unit: str) -> bool:
    """Return whether systemd runs this machine and knows the unit."""
    return RUNTIME_UNITS.is_dir() and bool(unit) and _call("show", "-P", "LoadState", unit) == "loaded"


def reload_manager() -> None:
    """Let systemd read its units again, where it runs this machine."""
    if RUNTIME_UNITS.is_dir():
        _call("daemon-reload")


def check_as_unit(unit: str) -> Sequence[Check]:
    """Return the checks as this unit; if it cannot run, one failed check that says why. Needs root."""
    from listener.contracts import Check, CheckState

    command = re.findall(r"^ExecStart=[-@:+!]*(/\S+) run\b", text := _call("cat", unit), re.MULTILINE)
    if not command:
        return [Check("unit", CheckState.FAILED, f"{unit} does not start `cdn-listener run`", "see `systemctl cat`")]
    folder = Path(tempfile.mkdtemp(prefix="cdn-listener-check-", dir="/run"))
    instance = unit.partition("@")[2]
    name = f"{folder.name}{'@' if instance else ''}"
    file = RUNTIME_UNITS / f"{name}.service"
    probe = f"{name}{instance.removesuffix('.service')}.service"
    try:
        file.write_text(text + _CHANGES.format(command=command[-1], folder=folder, seconds=CHECK_SECONDS), "utf-8")
        _call("start", probe, seconds=CHECK_SECONDS + CALL_SECONDS)
        out = _written(folder / "out").strip()
        if not out:
            return [Check("unit", CheckState.FAILED, *_failure(unit, probe, _written(folder / "err")))]
        found = [
            Check(row["subject"], CheckState(row["state"]), row["message"], row["hint"]) for row in json.loads(out)
        ]
        return [
            Check("unit", CheckState.OK, f"checked as {unit}: its user, groups, sandbox and credentials"),
            *found,
        ]
    finally:
        file.unlink(missing_ok=True)
        _call("reset-failed", probe)
        shutil.rmtree(folder, ignore_errors=True)


def _written(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _failure(unit: str, probe: str, errors: str) -> tuple[str, str]:
    """Return why the unit cannot run a check, and what to do."""
    status = _call("show", "-P", "ExecMainStatus", probe)
    what, hint = _REASONS.get(status, (f"it ended with status {status}", "see `journalctl -u {unit}`"))
    said = [line.partition(": ")[2] for line in errors.split("\n") if line.startswith(("error: ", "hint: "))]
    if said:
        what, hint = said[0], said[1] if len(said) > 1 else hint
    return f"{unit} would not start: {what}", hint.format(unit=unit)


def _call(*arguments: str, seconds: float = CALL_SECONDS) -> str:
    """Return what systemctl printed; empty where it is absent, times out or fails."""
    command = ["systemctl", "--no-pager", "--no-ask-password", *arguments]
    environment = {**os.environ, "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - a system program, with our own arguments
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
