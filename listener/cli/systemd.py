"""``cdn-listener systemd``: the units, with the path of this installation."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = ["app"]

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
    from listener.errors import ConfigurationError, ListenerError
    from listener.settings import expanded

    daemons = [name for name in names or () if name in (DAEMON, TEMPLATE)] or [DAEMON]
    folder = expanded(directory)
    texts = {folder / place: _text(name) for name in names or [DAEMON] for place in _places(name, daemons)}
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
    begin = f"enable {SOCKET} && systemctl restart" if SOCKET in (names or ()) else "enable --now"
    units = " ".join("cdn-listener@NAME" if name == TEMPLATE else "cdn-listener" for name in daemons)
    typer.echo(f"next: systemctl daemon-reload && systemctl {begin} {units}", err=True)


UNIT_MODE = 0o644
"""As systemd expects: units contain no secret."""


def _units() -> dict[str, Path]:
    """Return every unit by name: from the installed package, or from a source checkout."""
    import listener

    package = Path(listener.__file__).parent
    folder = next(path for path in (package / "units", package.parent / "systemd") if path.is_dir())
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
