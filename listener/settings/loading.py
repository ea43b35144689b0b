r"""
Settings from one TOML file and the environment, and the defaults of an instance.

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

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from listener.errors import ConfigurationError
from listener.redaction import is_secret_name
from listener.settings.model import Settings, SettingsOrigin
from listener.settings.problems import PREFIX, SettingsProblem, nearest, refuse, validate_table
from listener.settings.sections import expanded

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_PATHS",
    "config_of",
    "defaults_of",
    "find_file",
    "instance_of",
    "load_settings",
    "parse_settings",
    "unit_of",
]

CONFIG_VARIABLE: Final = "LISTENER_CONFIG"
DEFAULT_PATHS: Final = (Path("listener.toml"), Path("/etc/cdn-listener/listener.toml"))
_FILE_ENDING: Final = "_file"
_SECRET_FILE_LIMIT_BYTES: Final = 64 * 1024

CONFIG_DIRECTORY: Final = Path("/etc/cdn-listener")
PLAIN: Final = "listener"
STATE_PARENT: Final = Path("/var/lib")
TEMPLATE: Final = "cdn-listener@.service"
_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\-]+")
"""What systemd accepts after @."""


class Override(NamedTuple):
    """One value from outside the file."""

    keys: tuple[str, ...]
    text: str
    variable: str
    """What set it, for messages."""


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """
    Return the settings of this file (or of the first that is found, see :func:`find_file`) and environment.

    Raises :class:`~listener.errors.ConfigurationError` for a file that is missing, unreadable or no
    TOML, and for any unknown or wrong key, with its full dotted name.
    """
    file = expanded(path) if path else find_file(environ)
    return parse_settings({} if file is None else _read_toml(file), environ, path=file)


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


def parse_settings(table: Mapping[str, Any], environ: Mapping[str, str], *, path: Path | None = None) -> Settings:
    """Return the settings of this parsed table and environment; ``path`` is for messages. Raises as above."""
    merged = _copy(table)
    for section, values in defaults_of(path, environ).items():
        if isinstance(place := merged.setdefault(section, {}), dict):
            place.update({key: value for key, value in values.items() if key not in place})
    overrides = [*_from_credentials(environ), *_from_variables(environ)]
    variables = {".".join(_apply(merged, override)): override.variable for override in overrides}
    origin = str(path) if path else "the environment"
    settings = validate_table(Settings, merged, key="", origin=origin, variables=variables)
    problems = [_named_only_by_a_variable(problem, table, variables) for problem in settings.problems()]
    refuse(problems, origin=origin, variables=variables)
    settings._origin = SettingsOrigin(path, variables)
    return settings


def _named_only_by_a_variable(
    problem: SettingsProblem, table: Mapping[str, Any], variables: Mapping[str, str]
) -> SettingsProblem:
    """Return the problem; of a source or target without a type that only variables name, with the first of them."""
    group, _, rest = problem.key.partition(".")
    name, _, key = rest.partition(".")
    setters = [variable for where, variable in variables.items() if where.startswith(f"{group}.{name}.")]
    if key != "type" or name in table.get(group, {}) or not setters:
        return problem
    what = f"is missing: there is no [{group}.{name}], but {setters[0]} is set"
    return SettingsProblem(problem.key, what, f"Unset {setters[0]}, or add [{group}.{name}] to the file.")


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
        raise ConfigurationError(f"{path}: is not valid TOML: {error}", hint="Correct that line.") from None


def _from_variables(environ: Mapping[str, str]) -> Iterator[Override]:
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        keys = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if keys[0] in Settings.model_fields:
            yield _override(keys, variable, environ[variable])
        elif len(keys) > 1:
            hint = nearest(keys[0], Settings.model_fields)
            raise ConfigurationError(f"{variable}: there is no section {keys[0]!r}", hint=hint)
        else:
            _reject_single_underscore(variable, keys[0])


def _override(keys: tuple[str, ...], variable: str, text: str) -> Override:
    plain = (*keys[:-1], keys[-1].removesuffix(_FILE_ENDING))
    if plain != keys and _may_be_in_a_file(plain):
        return Override(plain, _read_secret(expanded(Path(text)), variable), variable)
    return Override(keys, text, variable)


def _reject_single_underscore(variable: str, key: str) -> None:
    """Reject what was clearly meant to set a value; other names may be unrelated (Kubernetes sets LISTENER_PORT)."""
    for section, field in Settings.model_fields.items():
        name = key.removeprefix(f"{section}_")
        if name != key and isinstance(field.default, BaseModel) and name in type(field.default).model_fields:
            hint = f"Write {PREFIX}{section.upper()}__{name.upper()}, with two underscores."
            raise ConfigurationError(f"{variable}: sets nothing", hint=hint)


def _from_credentials(environ: Mapping[str, str]) -> Iterator[Override]:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    for path in _credentials(Path(directory)) if directory else ():
        keys = tuple(path.name.split("."))
        if keys[0] in Settings.model_fields and len(keys) > 1 and _may_be_in_a_file(keys):
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


def defaults_of(config: Path | None, environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return defaults by table that depend on the environment: an instance's paths, systemd's runtime directory."""
    found: dict[str, dict[str, Any]] = {}
    if instance := instance_of(config):
        found["store"] = {"url": f"sqlite:///{STATE_PARENT}/cdn-listener-{instance}/state.db"}
        found["admin"] = {"listen": ""}
    if directory := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        found.setdefault("admin", {})["socket"] = f"{directory}/admin.sock"
    return found


def _name_of(config: Path | None) -> str:
    if config is None or config.suffix != ".toml" or config.absolute().parent != CONFIG_DIRECTORY:
        return ""
    return config.stem if _NAME.fullmatch(config.stem) else ""
