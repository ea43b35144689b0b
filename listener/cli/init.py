"""``cdn-listener init``: a few questions, a configuration that works, and the commands that follow."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from listener.cli.common import log_at
from listener.cli.init_files import (
    CONTAINER_USER,
    Answers,
    compose,
    configuration,
    credential_files,
    drop_in,
    is_group,
    tables,
    write,
)
from listener.cli.init_questions import Asking, answers_to
from listener.cli.options import ConfigOption
from listener.configuration import (
    CONFIG_DIRECTORY,
    CONFIG_VARIABLE,
    PLAIN,
    credentials_directory,
    expanded,
    unit_of,
)
from listener.errors import ConfigurationError, ListenerError
from listener.files import PRIVATE

__all__ = ["init"]

UNIT_DIRECTORY: Final = Path("/etc/systemd/system")

SourceOption = Annotated[
    str, typer.Option("--source", metavar="PLACE", help="What is served: a folder, s3://BUCKET or oss://BUCKET.")
]
BaseUrlOption = Annotated[
    str, typer.Option("--base-url", metavar="URL", help="Where it is served, such as https://www.example.com/.")
]
CdnOption = Annotated[
    str, typer.Option("--cdn", metavar="TYPE", help="The CDN: a type of target from `cdn-listener plugins`.")
]
EndpointOption = Annotated[
    str,
    typer.Option(
        "--endpoint", metavar="URL", help="The CDN's API where it is not the usual one: an emulator, or caches."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting that would be asked for, such as plan=pro; repeatable."),
]


class _Shape(NamedTuple):
    """How the daemon is to run."""

    systemd: bool
    container: bool
    kubernetes: bool

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine with these paths."""
        return not (self.container or self.kubernetes)


def init(
    config: ConfigOption = None,
    source: SourceOption = "",
    base_url: BaseUrlOption = "",
    cdn: CdnOption = "",
    endpoint: EndpointOption = "",
    settings: SetOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take defaults for what is not given.")] = False,
    systemd: Annotated[bool, typer.Option("--systemd", help="Also install the systemd unit. Needs root.")] = False,
    group: Annotated[
        str,
        typer.Option("--group", metavar="NAME", help="With --systemd: whose members may hold, release and refresh."),
    ] = "",
    container: Annotated[bool, typer.Option("--container", help="Also write compose.yaml for a container.")] = False,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Also write a folder for `kubectl apply -k`.")
    ] = False,
) -> int:
    """
    Write a configuration, store the credentials, check both, and print what to do next.

    It prompts for what no option gives. Credentials are taken from the environment (`VARIABLE`, or `VARIABLE_FILE`), or
    asked for: never from an option, which every user of the machine could read. Nothing that exists is overwritten.
    """
    log_at("warning")
    shape = _Shape(systemd, container, kubernetes)
    if sum(shape) > 1 or (group and not systemd):
        raise ConfigurationError("init: give one of --systemd, --container and --kubernetes; --group needs --systemd")
    if group and not is_group(group):
        raise ConfigurationError(f"--group: {group!r} is not the name of a group")
    path = _config_path(config, shape)
    given = {"source": source, "base_url": base_url, "cdn": cdn}
    answers = answers_to(Asking(silent=yes), given, endpoint, settings or (), must_exist=not kubernetes)
    _require_outside(path, answers)
    wide = path.parent == CONFIG_DIRECTORY or not shape.is_local
    state = "" if wide else "sqlite:///state.db"
    if not shape.is_local:
        answers.admin = {"listen": "[::]:9180"}
    _validate(answers, path, state)
    files = _files(answers, path, state, shape, group)
    _write_all(files, shape)
    return _conclude(answers, path, shape)


def _config_path(config: Path | None, shape: _Shape) -> Path:
    """Return where the configuration is written. Raise ConfigurationError where there is one."""
    default = Path(os.environ.get(CONFIG_VARIABLE) or "listener.toml")
    if shape.systemd:
        default = CONFIG_DIRECTORY / f"{PLAIN}.toml"
    elif not shape.is_local:
        default = Path("cdn-listener/listener.toml")
    path = Path(os.path.abspath(expanded(config or default)))  # noqa: PTH100 - links are kept
    if path.exists():
        raise ConfigurationError(
            f"{path}: exists already, and init overwrites nothing",
            hint="name another file with --config, or move this one away; `cdn-listener check` tries it",
        )
    plain = CONFIG_DIRECTORY / f"{PLAIN}.toml"
    if shape.systemd and path != plain:
        hint = (
            "leave --config out; for an instance run init without --systemd, then systemd install cdn-listener@.service"
        )
        raise ConfigurationError(f"--systemd: the unit reads {plain}", hint=hint)
    return path


def _require_outside(path: Path, answers: Answers) -> None:
    if answers.scheme == "file" and path.is_relative_to(answers.source):
        raise ConfigurationError(
            f"{path}: would be served, and the credentials with it: it is below {answers.source}",
            hint="run init in another folder, or name a file elsewhere with --config",
        )


def _validate(answers: Answers, path: Path, state: str) -> None:
    """Raise ConfigurationError for an answer that a setting does not allow."""
    from listener.plugins import effective_settings
    from listener.settings import parse_settings

    effective_settings(parse_settings(tables(answers, state=state), {}, path=path))


class _File(NamedTuple):
    path: Path
    text: str
    mode: int = 0o644
    owner: int | None = None


def _files(answers: Answers, path: Path, state: str, shape: _Shape, group: str) -> list[_File]:
    """Return every file to write."""
    owner = CONTAINER_USER if shape.container and not os.geteuid() else None
    found = [_File(path, configuration(answers, state=state))]
    directory = credentials_directory(path)
    contents = credential_files(answers.secrets)
    if not shape.is_local:
        contents["admin.token"] = secrets.token_hex() + "\n"
    found += [
        _File(directory / name, text, PRIVATE, owner)
        for name, text in contents.items()
        if not (directory / name).exists()
    ]
    if shape.container:
        found.append(_File(path.parent / "compose.yaml", compose(answers, path.parent, is_podman=_is_podman())))
    if shape.systemd and (text := drop_in([*answers.secrets, *answers.missing], directory, group)):
        found.append(_File(UNIT_DIRECTORY / f"{unit_of(path)}.d" / "init.conf", text))
    if shape.kubernetes:
        found += _kubernetes(answers, path, found[0].text)
    return found


def _is_podman() -> bool:
    return shutil.which("docker") is None


def _kubernetes(answers: Answers, path: Path, text: str) -> list[_File]:
    """Return the shipped folder for this kind of source, with the configuration in it."""
    from listener.cli.shipped import shipped_folder

    folder = shipped_folder("config") / "kubernetes" / ("sidecar" if answers.scheme == "file" else "base")
    names = sorted(one for one in folder.glob("*.yaml"))
    made = path.parent / "kubernetes"
    return [
        _File(made / "listener.toml", text),
        *(_File(made / one.name, _at_place(one.read_text("utf-8"), answers)) for one in names),
    ]


def _at_place(text: str, answers: Answers) -> str:
    return text.replace("/srv/www", answers.source) if answers.scheme == "file" else text


def _write_all(files: Sequence[_File], shape: _Shape) -> None:
    if taken := [one.path for one in files if one.path.exists()]:
        raise ConfigurationError(f"{taken[0]}: exists already, and init overwrites nothing", hint="move it away")
    try:
        if shape.systemd:
            _install_unit()
        for one in files:
            write(one.path, one.text, mode=one.mode, owner=one.owner)
            typer.echo(f"wrote {one.path}{' (private)' if one.mode == PRIVATE else ''}")
        if shape.container:
            state = files[0].path.parent / "state"
            state.mkdir(exist_ok=True)
            if files[-1].owner is not None or not os.geteuid():
                os.chown(state, CONTAINER_USER, CONTAINER_USER)
    except OSError as error:
        raise ListenerError(
            f"{error.filename}: cannot be written: {error.strerror}", hint="run as root, or name another --config"
        ) from None


def _install_unit() -> None:
    from listener.cli.systemd import DAEMON, reload_manager, write_units

    write_units([DAEMON], [DAEMON], UNIT_DIRECTORY, force=False)
    reload_manager()


def _conclude(answers: Answers, path: Path, shape: _Shape) -> int:
    """Check what was written, print what to do next, and return the exit status."""
    failed = False
    if shape.is_local:
        failed = _check(path)
    if answers.missing:
        variables = " and ".join(one.variable for one in answers.missing)
        typer.echo(f"missing: {variables}: put each into its file below {credentials_directory(path)}:")
        for one in answers.missing:
            typer.echo(f"  {credentials_directory(path) / one.file}")
    typer.echo("next:")
    for line in _next(answers, path, shape, failed=failed):
        typer.echo(f"  {line}")
    return 1 if failed or answers.missing else 0


def _check(path: Path) -> bool:
    """Run ``check``; return whether something failed."""
    from listener.cli.config import checks, show_checks
    from listener.contracts import CheckState

    found = checks(path, here=False)
    show_checks(found)
    return any(one.state is CheckState.FAILED for one in found)


def _command() -> str:
    return "cdn-listener" if shutil.which("cdn-listener") else sys.argv[0]


def _next(answers: Answers, path: Path, shape: _Shape, *, failed: bool) -> list[str]:
    """Return the next three commands."""
    command = _command()
    folder = path.parent
    if shape.container:
        engine = "podman" if _is_podman() else "docker"
        return [
            f"{engine} build -f config/container/Containerfile -t cdn-listener .   # in the clone",
            f"{engine} compose -f {folder / 'compose.yaml'} up --detach",
            f"{engine} compose -f {folder / 'compose.yaml'} exec cdn-listener cdn-listener check",
        ]
    if shape.kubernetes:
        files = " ".join(
            f"--from-file={one.systemd_name}={credentials_directory(path) / one.file}"
            for one in {one.file: one for one in (*answers.secrets, *answers.missing)}.values()
        )
        token = f"--from-file=admin.token={credentials_directory(path) / 'admin.token'}"
        namespace = "" if answers.scheme == "file" else " --namespace cdn-listener"
        return [
            f"kubectl create secret generic cdn-listener{namespace} {token} {files}".rstrip(),
            f"kubectl apply -k {folder / 'kubernetes'}   # set the image in kustomization.yaml first",
            "kubectl get pods --watch",
        ]
    option = "" if path in (Path.cwd() / "listener.toml", CONFIG_DIRECTORY / f"{PLAIN}.toml") else f" --config {path}"
    check = [f"{command} check{option}"] if failed else []
    if shape.systemd:
        return [*check, "systemctl enable --now cdn-listener", f"{command} status", f"{command} wait"][:3]
    return [*check, f"{command} run{option}", f"{command} status{option}", f"{command} backfill --dry-run{option}"][:3]
