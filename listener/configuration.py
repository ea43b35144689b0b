r"""
The configuration as it is read, before anything is checked: one TOML file, the environment, and an instance's defaults.

A variable ``LISTENER_SECTION__KEY`` sets one value, also in a plugin's table
(``LISTENER_SOURCES__WWW__PATH``) and in a site (``LISTENER_SITES__0__PREFIX``); a text that is a JSON
list or object is parsed. A secret may be in a file instead: ``LISTENER_SOURCES__HOOK__SECRET_FILE`` names it, or a
systemd credential has the name of the key, ``sources.hook.secret``. The environment takes precedence over credentials,
and both over the file.

Several daemons on one machine: an instance is named like its configuration, ``/etc/cdn-listener/NAME.toml``.

=================== ==================================== ====================================
\                   the plain unit                       an instance
=================== ==================================== ====================================
unit                ``cdn-listener.service``             ``cdn-listener@NAME.service``
configuration       ``/etc/cdn-listener/listener.toml``  ``/etc/cdn-listener/NAME.toml``
state               ``/var/lib/cdn-listener/``           ``/var/lib/cdn-listener-NAME/``
run-time directory  ``/run/cdn-listener/``               ``/run/cdn-listener-NAME/``
admin port          ``127.0.0.1:9180`` and a socket      a socket
=================== ==================================== ====================================

Explicit settings take precedence. A file there belongs to an instance if systemd knows the template unit or created the
state directory; otherwise, as in a container, it is an ordinary configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, unquote, urlsplit

from listener import __version__
from listener.errors import ConfigurationError
from listener.redaction import is_secret_name, mask_url

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_PATHS",
    "DEFAULT_STORE",
    "GROUP_SOCKET_SUFFIX",
    "LEVELS",
    "LEVEL_VARIABLE",
    "PREFIX",
    "SECTIONS",
    "URL_HINT",
    "Configuration",
    "SettingsProblem",
    "admin_socket_of",
    "adopt_credentials",
    "command_socket_path",
    "config_of",
    "credentials_directory",
    "expanded",
    "find_file",
    "group_socket_path",
    "instance_of",
    "is_postgres",
    "level_of",
    "merged",
    "nearest",
    "read_configuration",
    "refuse",
    "seems_absolute",
    "sqlite_path",
    "state_directory",
    "together",
    "unit_of",
    "variable_of",
]

CONFIG_VARIABLE: Final = "LISTENER_CONFIG"
PREFIX: Final = "LISTENER_"
"""What the name of every variable begins with that sets a value."""
SECTIONS: Final = (
    "store", "instance", "fleet", "coalescer", "planner", "verifier", "admin", "sources", "targets", "sites",
)  # fmt: skip
"""The tables of the file; the fields of :class:`listener.settings.Settings`, whose import takes longer than reading."""
DEFAULT_PATHS: Final = (Path("listener.toml"), Path("/etc/cdn-listener/listener.toml"))
LEVEL_VARIABLE: Final = "LISTENER_LOG_LEVEL"
LEVELS: Final = ("debug", "info", "warning", "error")
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, LEVEL_VARIABLE, "LISTENER_DEBUG"})
DEFAULT_STORE: Final = "sqlite:////var/lib/cdn-listener/state.db"
_SQLITE: Final = "sqlite:///"
URL_HINT: Final = "write sqlite:////absolute/path.db, or sqlite:///relative/path.db"
_FILE_ENDING: Final = "_file"
_SECRET_FILE_LIMIT_BYTES: Final = 64 * 1024

AWS_PROFILES: Final = "aws"
"""The file of a directory of credentials that holds profiles of AWS."""
_AWS_VARIABLE: Final = "AWS_SHARED_CREDENTIALS_FILE"
_CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"

CONFIG_DIRECTORY: Final = Path("/etc/cdn-listener")
PLAIN: Final = "listener"
STATE_PARENT: Final = Path("/var/lib")
RUNTIME_PARENT: Final = Path("/run")
ADMIN_SOCKET: Final = "admin.sock"
GROUP_SOCKET_SUFFIX: Final = ".commands"
TEMPLATE: Final = "cdn-listener@.service"
_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\-]+")
"""What systemd accepts after @."""


class Configuration(NamedTuple):
    """What file, environment and credentials say together."""

    table: dict[str, Any]
    written: Mapping[str, Any]
    """The file alone."""
    path: Path | None
    """The file that was read."""
    variables: Mapping[str, str]
    """Dotted key to the environment variable (or credential) that set it."""
    sets_nothing: tuple[str, ...]
    """Variables with our prefix that name no table."""
    fingerprints: tuple[str, str, str]
    """
    Digests of everything that decides the settings; in the second, secrets from outside the file do not count; the
    third is of the file alone.
    """

    @property
    def asked_for(self) -> tuple[str, ...]:
        """
        The fingerprints of a daemon that a command with this configuration is meant for.

        A command for which the environment sets nothing means the daemon that runs with this file, whatever that
        one's environment sets besides.
        """
        full, public, of_file = self.fingerprints
        return (full, of_file) if public == of_file else (full,)


class Override(NamedTuple):
    """One value from outside the file."""

    keys: tuple[str, ...]
    text: str
    variable: str
    """What set it, for messages."""


def read_configuration(path: Path | None, environ: Mapping[str, str]) -> Configuration:
    """
    Read this file (or the first that is found, see :func:`find_file`) and the environment.

    Raises :class:`~listener.errors.ConfigurationError` for a file that is missing, unreadable or no TOML, and for a
    variable of an unknown table.
    """
    file = expanded(path) if path else find_file(environ)
    return merged({} if file is None else _read_toml(file), environ, path=file)


def merged(table: Mapping[str, Any], environ: Mapping[str, str], *, path: Path | None = None) -> Configuration:
    """Return this parsed table, which ``path`` holds, with what the environment sets. Raises as above."""
    overrides = [*_from_credentials(environ), *_from_variables(environ)]
    unused = tuple(sorted(name for name in environ if _sets_nothing(name)))
    plain = _with_defaults(table, path)
    public = _copy(plain)
    for override in overrides:
        if not is_secret_name(override.keys[-1]):
            _apply(public, override)
    variables = {".".join(_apply(plain, override)): override.variable for override in overrides}
    of_file = _fingerprint(_with_defaults(table, path), path, ())
    fingerprints = _fingerprint(plain, path, unused), _fingerprint(public, path, unused), of_file
    _complete(plain, runtime_defaults(environ))
    return Configuration(plain, table, path, variables, unused, fingerprints)


def _with_defaults(table: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Return a copy in which a relative state file begins at the configuration's directory, with instance defaults."""
    copy: dict[str, Any] = _copy(table)
    _complete(copy, instance_defaults(path))
    store = copy.get("store")
    if path is not None and isinstance(store, dict) and isinstance(store.get("url"), str):
        store["url"] = _beginning_at(store["url"], path)
    return copy


def _beginning_at(url: str, path: Path) -> str:
    """Return the URL of a state file; a relative one, as written in the file ``path``, begins where that is."""
    relative = url.removeprefix(_SQLITE)
    directory = path.absolute().parent
    if not url.startswith(_SQLITE) or not relative or relative.startswith(("/", "~")) or directory == Path.cwd():
        return url
    return f"{_SQLITE}{quote(str(directory))}/{relative}"


def _complete(table: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """Set what the table leaves open."""
    for section, values in defaults.items():
        if isinstance(place := table.setdefault(section, {}), dict):
            place.update({key: value for key, value in values.items() if key not in place})


def _fingerprint(table: Mapping[str, Any], path: Path | None, unused: Sequence[str]) -> str:
    text = json.dumps([__version__, str(path.absolute() if path else ""), table, unused], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _sets_nothing(variable: str) -> bool:
    """Return whether a variable with our prefix names no table; those that other modules read do not count."""
    keys = variable.removeprefix(PREFIX).lower().split("__")
    return variable.startswith(PREFIX) and keys[0] not in SECTIONS and variable not in _OTHER_VARIABLES


def find_file(environ: Mapping[str, str]) -> Path | None:
    """
    Return ``$LISTENER_CONFIG``, else the first of :data:`DEFAULT_PATHS` that exists.

    None where there is no file and the environment itself names sources, targets or sites.
    """
    if environ.get(CONFIG_VARIABLE):
        return expanded(Path(environ[CONFIG_VARIABLE]))
    found = next((path for path in DEFAULT_PATHS if path.exists()), None)
    whole = tuple(f"{PREFIX}{section}" for section in ("SOURCES", "TARGETS", "SITES"))
    if found is None and not any(name.startswith(whole) for name in environ):
        places = ", ".join(map(str, DEFAULT_PATHS))
        hint = f"Name one with --config or ${CONFIG_VARIABLE}; the README has the smallest useful file."
        raise ConfigurationError(f"there is no configuration file; looked for {places}", hint=hint)
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"{path}: cannot be read: {reason}", hint="Check the path and its permissions."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text (byte {error.start})", hint="Save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}", hint="Correct the file.") from None


def _from_variables(environ: Mapping[str, str]) -> Iterator[Override]:
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        keys = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if keys[0] in SECTIONS:
            yield _override(keys, variable, environ[variable])
        elif len(keys) > 1:
            raise ConfigurationError(f"{variable}: there is no section {keys[0]!r}", hint=nearest(keys[0], SECTIONS))


def _override(keys: tuple[str, ...], variable: str, text: str) -> Override:
    plain = (*keys[:-1], keys[-1].removesuffix(_FILE_ENDING))
    if plain != keys and _may_be_in_a_file(plain):
        return Override(plain, _read_secret(expanded(Path(text)), variable), variable)
    return Override(keys, text, variable)


def _from_credentials(environ: Mapping[str, str]) -> Iterator[Override]:
    directory = environ.get(_CREDENTIALS_VARIABLE)
    for path in _credentials(Path(directory)) if directory else ():
        keys = tuple(path.name.split("."))
        if keys[0] in SECTIONS and len(keys) > 1 and _may_be_in_a_file(keys):
            yield Override(keys, _read_secret(path, f"credential {path.name}"), f"credential {path.name}")


def _credentials(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir()) if directory.is_dir() else []
    except OSError as error:
        raise ConfigurationError(
            f"$CREDENTIALS_DIRECTORY: {directory} cannot be read: {error.strerror}",
            hint="Before systemd 255 an ExecReload= sees credentials only when its command begins with +.",
        ) from None


def _may_be_in_a_file(keys: tuple[str, ...]) -> bool:
    return is_secret_name(keys[-1]) or keys == ("store", "url")


def _read_secret(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_SECRET_FILE_LIMIT_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"{variable}: {path} cannot be read: {reason}", hint="Check the path.") from None


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _apply(table: dict[str, Any], override: Override) -> tuple[str, ...]:
    """Set the value in the table; return its keys there."""
    place: Any = table
    path: list[str] = []
    for key in override.keys[:-1]:
        name = _name_in(place, key)
        if isinstance(place, list):
            place = place[_position(place, name, override)]
        else:
            place = place.setdefault(name, [] if name == "sites" and not path else {})
        path.append(name)
        if not isinstance(place, dict | list):
            _reject_override(override, path, "is not a table")
    name = _name_in(place, override.keys[-1])
    if isinstance(place, list):
        place[_position(place, name, override)] = _value(override.text)
    else:
        place[name] = _value(override.text)
    return (*path, name)


def _name_in(place: Any, key: str) -> str:
    """Return the table's name for a variable's key: variables have neither case nor ``-``."""
    same = (name for name in place if isinstance(name, str) and _as_variable(name) == _as_variable(key))
    return next(same, key) if isinstance(place, dict) else key


def _as_variable(name: str) -> str:
    return re.sub(r"-", "_", name.lower())


def _position(items: list[Any], key: str, override: Override) -> int:
    if not (key.isascii() and key.isdecimal() and int(key) <= len(items)):
        _reject_override(override, list(override.keys), f"must be a number from 0 to {len(items)}")
    if int(key) == len(items):
        items.append({})
    return int(key)


def _reject_override(override: Override, path: list[str], what: str) -> None:
    refuse([SettingsProblem(".".join(path), what)], origin=override.variable, variables={})


def _value(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


UNIT_DIRECTORIES: Final = tuple(Path(path, "systemd/system") for path in ("/etc", "/run", "/usr/lib"))


def config_of(instance: str) -> Path | None:
    """Return the path of an instance's configuration; None if the text cannot name an instance."""
    return CONFIG_DIRECTORY / f"{instance}.toml" if _NAME.fullmatch(instance) and instance != PLAIN else None


def instance_of(config: Path | None) -> str:
    """Return the instance that this configuration belongs to; empty if none."""
    name = _name_of(config)
    if name in ("", PLAIN):
        return ""
    known = [STATE_PARENT / f"cdn-listener-{name}", *(directory / TEMPLATE for directory in UNIT_DIRECTORIES)]
    # As any user: what systemd keeps in a closed directory is a link there.
    return name if any(os.path.lexists(path) for path in known) else ""


def unit_of(config: Path | None) -> str:
    """Return the name of the unit that uses this configuration; empty if none."""
    if _name_of(config) == PLAIN:
        return "cdn-listener.service"
    instance = instance_of(config)
    return f"cdn-listener@{instance}.service" if instance else ""


def instance_defaults(config: Path | None) -> dict[str, dict[str, Any]]:
    """Return the defaults by table that follow from an instance's name."""
    if instance := instance_of(config):
        url = f"sqlite:///{STATE_PARENT}/cdn-listener-{instance}/state.db"
        return {"store": {"url": url}, "admin": {"listen": ""}}
    return {}


def runtime_defaults(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the defaults by table that follow from systemd's runtime directory."""
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return {"admin": {"socket": f"{directory}/{ADMIN_SOCKET}"}} if directory else {}


def adopt_credentials(config: Path | None, environ: MutableMapping[str, str]) -> None:
    """
    Let ``$CREDENTIALS_DIRECTORY`` be the configuration's own directory of credentials, where it is not set.

    That is ``credentials`` next to the file, of an instance ``credentials/NAME``: where the units and
    ``cdn-listener init`` keep them. It is used only by those who may read all of it. Its file ``aws`` is one of
    profiles, for Amazon's own chain of credentials.
    """
    try:
        path = expanded(config) if config else find_file(environ)
    except ConfigurationError:
        return  # reading the configuration reports it
    if path is not None and not environ.get(_CREDENTIALS_VARIABLE):
        directory = credentials_directory(path)
        if _is_readable(directory):
            environ[_CREDENTIALS_VARIABLE] = str(directory)
    profiles = Path(environ.get(_CREDENTIALS_VARIABLE) or "/nonexistent", AWS_PROFILES)
    if _AWS_VARIABLE not in environ and profiles.exists():
        environ[_AWS_VARIABLE] = str(profiles)


def credentials_directory(config: Path) -> Path:
    """Return where the credentials of this configuration are."""
    return config.absolute().parent / "credentials" / instance_of(config)


def _is_readable(directory: Path) -> bool:
    try:
        files = [path for path in directory.iterdir() if path.is_file()]
    except OSError:
        return False
    return all(os.access(path, os.R_OK) for path in files)


def state_directory(environ: Mapping[str, str], config: Path | None) -> Path:
    """Return where a daemon keeps what is not in the store: systemd's state directory, or the default state file's."""
    if directory := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(directory)
    return sqlite_path(instance_defaults(config).get("store", {}).get("url", DEFAULT_STORE)).parent


def _name_of(config: Path | None) -> str:
    if config is None or config.suffix != ".toml" or config.absolute().parent != CONFIG_DIRECTORY:
        return ""
    return config.stem if _NAME.fullmatch(config.stem) else ""


class SettingsProblem(NamedTuple):
    """One error: the full dotted key, what is wrong, and what to do."""

    key: str
    what: str
    hint: str = ""

    @classmethod
    def of_unknown_name(cls, key: str, kind: str, name: str, known: Iterable[str]) -> Self:
        """Return the problem of an unknown name."""
        return cls(key, f"there is no {kind} named {name!r}", nearest(name, known))


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a hint with the most similar known name, or with all of them."""
    import difflib  # noqa: PLC0415 - only for an error

    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {prefix}{close[0]}?"
    return f"Known are: {', '.join(names)}." if names else "None is configured."


def variable_of(key: str) -> str:
    """Return the environment variable that sets a dotted key."""
    return PREFIX + key.upper().replace("-", "_").replace(".", "__")


def refuse(problems: Sequence[SettingsProblem], *, origin: str, variables: Mapping[str, str]) -> None:
    """Raise :class:`~listener.errors.ConfigurationError` naming all these problems, if there are any."""
    if not problems:
        return
    lines = [f"{problem.key}{_set_by(problem.key, variables)}: {problem.what}" for problem in problems]
    raise together([(f"{origin}: {line}", problem.hint) for line, problem in zip(lines, problems, strict=True)])


def together(parts: Sequence[tuple[str, str]]) -> ConfigurationError:
    """Return several messages with their hints as one error; what they begin with in common stands once."""
    origin = "{}: ".format(parts[0][0].partition(": ")[0])
    origin = origin if all(message.startswith(origin) for message, _ in parts) else ""
    message = origin + "; ".join(message.removeprefix(origin) for message, _ in parts)
    error = ConfigurationError(message, hint=" ".join(dict.fromkeys(hint for _, hint in parts if hint)))
    error.parts = parts if len(parts) > 1 else ()
    return error


def _set_by(key: str, variables: Mapping[str, str]) -> str:
    while key and key not in variables:
        key = key.rpartition(".")[0]
    return f" (set by {variables[key]})" if key else ""


def expanded(path: Path) -> Path:
    """Return the path with a leading ``~`` or ``~user`` expanded; unchanged if that home directory is unknown."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_postgres(url: str) -> bool:
    """Return whether a store's URL names a PostgreSQL database; libpq knows both schemes."""
    return url.startswith(("postgresql://", "postgres://"))


def sqlite_path(url: str) -> Path:
    """
    Return the file that a ``sqlite:///`` URL names (three slashes: relative, four: absolute).

    Raises:
        ConfigurationError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(f"store.url: {mask_url(url)!r} is no URL", hint=URL_HINT) from None
    if is_postgres(url):
        raise ConfigurationError("store.url: names a PostgreSQL store, and this needs a state file", hint=URL_HINT)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise ConfigurationError(
            f"store.url: {parts.scheme or mask_url(url)!r} is not a store that this version knows", hint=URL_HINT
        )
    return expanded(Path(unquote(parts.path[1:])))


def seems_absolute(url: str) -> str:
    """
    Return the URL that was probably meant where three slashes begin a path of the machine; empty for any other.

    ``sqlite:///tmp/x`` is ``tmp/x`` below the configuration's directory, and not ``/tmp/x``.
    """
    relative = url.removeprefix(_SQLITE)
    first = relative.partition("/")[0]
    if relative == url or "/" not in relative or first in ("", "~", ".", "..") or not Path("/", first).is_dir():
        return ""
    return "" if Path(first).is_dir() else f"{_SQLITE}/{relative}"


def command_socket_path(state: Path) -> Path:
    """Return the socket through which commands send requests to the daemon that owns this state file."""
    return Path(f"{state}.sock")


def group_socket_path(admin_socket: str) -> Path:
    """Return the socket for commands of the daemon's group: it is next to the admin socket, with the same access."""
    return Path(f"{admin_socket}{GROUP_SOCKET_SUFFIX}")


def admin_socket_of(table: Mapping[str, Any], config: Path | None) -> str:
    """Return the admin socket of the daemon with this configuration: the one that is set, or its unit's; or empty."""
    admin = table.get("admin", {})
    given = admin.get("socket") if isinstance(admin, Mapping) else None
    if isinstance(given, str) and given:
        return given
    unit = unit_of(config)
    name = unit.removesuffix(".service").replace("@", "-", 1)
    return f"{RUNTIME_PARENT}/{name}/{ADMIN_SOCKET}" if unit else ""


def level_of(environ: Mapping[str, str], default: str) -> str:
    """Return the level in ``$LISTENER_LOG_LEVEL``, or the default; raise ConfigurationError for an unknown one."""
    level = environ.get(LEVEL_VARIABLE, "").lower() or default
    if level not in LEVELS:
        raise ConfigurationError(f"{LEVEL_VARIABLE}: {level!r} is not a level", hint=f"use one of {', '.join(LEVELS)}")
    return level
