"""Settings from a configuration that was read (:mod:`listener.configuration`), checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from listener.configuration import PREFIX, Configuration, SettingsProblem, merged, read_configuration, refuse
from listener.errors import ConfigurationError
from listener.settings.model import Settings, SettingsOrigin
from listener.settings.problems import validate_table

__all__ = ["load_settings", "parse_settings", "settings_of"]


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """
    Return the settings of this file (or of the first that is found) and environment.

    Raises :class:`~listener.errors.ConfigurationError` for a file that is missing, unreadable or no
    TOML, and for any unknown or wrong key, with its full dotted name.
    """
    return settings_of(read_configuration(path, environ))


def parse_settings(table: Mapping[str, Any], environ: Mapping[str, str], *, path: Path | None = None) -> Settings:
    """Return the settings of this parsed table and environment; ``path`` is for messages. Raises as above."""
    return settings_of(merged(table, environ, path=path))


def settings_of(read: Configuration) -> Settings:
    """Return the settings in a configuration. Raises :class:`~listener.errors.ConfigurationError` as above."""
    for variable in read.sets_nothing:
        _reject_single_underscore(variable)
    origin = str(read.path) if read.path else "the environment"
    settings = validate_table(Settings, read.table, key="", origin=origin, variables=read.variables)
    problems = [_named_only_by_a_variable(problem, read) for problem in settings.problems()]
    refuse(problems, origin=origin, variables=read.variables)
    settings._origin = SettingsOrigin(read.path, read.variables, read.fingerprints)
    return settings


def _named_only_by_a_variable(problem: SettingsProblem, read: Configuration) -> SettingsProblem:
    """Return the problem; of a source or target without a type that only variables name, with the first of them."""
    group, _, rest = problem.key.partition(".")
    name, _, key = rest.partition(".")
    setters = [variable for where, variable in read.variables.items() if where.startswith(f"{group}.{name}.")]
    if key != "type" or name in read.written.get(group, {}) or not setters:
        return problem
    what = f"is missing: there is no [{group}.{name}], but {setters[0]} is set"
    return SettingsProblem(problem.key, what, f"Unset {setters[0]}, or add [{group}.{name}] to the file.")


def _reject_single_underscore(variable: str) -> None:
    """Reject what was clearly meant to set a value; other names may be unrelated (Kubernetes sets LISTENER_PORT)."""
    key = variable.removeprefix(PREFIX).lower()
    for section, field in Settings.model_fields.items():
        name = key.removeprefix(f"{section}_")
        if name != key and isinstance(field.default, BaseModel) and name in type(field.default).model_fields:
            hint = f"Write {PREFIX}{section.upper()}__{name.upper()}, with two underscores."
            raise ConfigurationError(f"{variable}: sets nothing", hint=hint)
