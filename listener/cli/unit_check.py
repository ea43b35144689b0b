"""
``check`` as the installed unit: with the user, groups, mounts, environment and credentials that the daemon will have.

A temporary copy of the unit as systemd knows it, drop-ins included, runs `check` once instead of the daemon.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from listener.contracts import Check, CheckState

__all__ = ["check_as_unit", "is_installed"]

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


def is_installed(unit: str) -> bool:
    """Return whether systemd runs this machine and knows the unit."""
    return RUNTIME_UNITS.is_dir() and bool(unit) and _call("show", "-P", "LoadState", unit) == "loaded"


def check_as_unit(unit: str) -> Sequence[Check]:
    """Return the checks as this unit; if it cannot run, one failed check that says why. Needs root."""
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
        return [_as_unit(unit), *_found(folder)] if _wrote(folder) else [_failed(unit, probe, folder)]
    finally:
        file.unlink(missing_ok=True)
        _call("reset-failed", probe)
        shutil.rmtree(folder, ignore_errors=True)


def _as_unit(unit: str) -> Check:
    return Check("unit", CheckState.OK, f"checked as {unit}: its user, groups, sandbox and credentials")


def _wrote(folder: Path) -> bool:
    return (folder / "out").exists() and bool((folder / "out").read_text("utf-8").strip())


def _found(folder: Path) -> list[Check]:
    rows: list[dict[str, Any]] = json.loads((folder / "out").read_text("utf-8"))
    return [Check(row["subject"], CheckState(row["state"]), row["message"], row["hint"]) for row in rows]


def _failed(unit: str, probe: str, folder: Path) -> Check:
    status = _call("show", "-P", "ExecMainStatus", probe)
    errors = (folder / "err").read_text("utf-8", "replace").split("\n") if (folder / "err").exists() else []
    what, hint = _REASONS.get(status, (f"it ended with status {status}", "see `journalctl -u {unit}`"))
    said = [line.partition(": ")[2] for line in errors if line.startswith(("error: ", "hint: "))]
    if said:
        what, hint = said[0], said[1] if len(said) > 1 else hint
    return Check("unit", CheckState.FAILED, f"{unit} would not start: {what}", hint.format(unit=unit))


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
