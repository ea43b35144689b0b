"""
Finds sources and targets by the name that the configuration gives as ``type``.

A plugin is a class behind an entry point of the group ``listener.sources`` or ``listener.targets``;
:mod:`listener.contracts` has the contract. Only plugins that the configuration names are imported, so a
plugin whose extra is not installed affects nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from pydantic import BaseModel

from listener.configuration import together
from listener.contracts import Source, Target
from listener.errors import ConfigurationError
from listener.router.routing import Sites
from listener.settings import Settings, effective, json_schema, nearest, validate_table

if TYPE_CHECKING:
    from listener.sources.listing import ListingSettings

__all__ = [
    "GROUPS",
    "Installed",
    "effective_settings",
    "foreign_distribution",
    "installed",
    "listing_settings",
    "load_sources",
    "load_targets",
    "plugin_class",
    "require_tables",
    "settings_schema",
    "sites_of",
]

GROUPS: Final = {"sources": "listener.sources", "targets": "listener.targets"}
"""Table of the configuration to entry-point group."""
LISTING: Final = "listing"
"""The table of an event source that names the storage, so that it can be listed."""


class Installed(NamedTuple):
    """One plugin that is installed."""

    group: str
    """``sources`` or ``targets``."""
    name: str
    """What a configuration gives as ``type``."""
    path: str
    """``package.module:Class``."""
    package: str
    version: str


def installed() -> list[Installed]:
    """Return every plugin that is installed, by group and name, without importing any."""
    return [
        Installed(group, entry.name, entry.value, *_distribution(entry))
        for group in GROUPS
        for entry in sorted(_entries()[group].values(), key=lambda entry: entry.name)
    ]


def foreign_distribution() -> str:
    """
    Return name and version of another distribution called ``listener``; empty where there is none.

    It has files of the same import name: whichever is installed or removed last takes files of the other away.
    """
    try:
        found = distribution("listener")
    except PackageNotFoundError:
        return ""
    return f"{found.name} {found.version}"


def plugin_class(group: str, name: str, *, key: str = "") -> type[Any]:
    """
    Return the class of a plugin; ``key`` is the setting that names it, for messages.

    Raises :class:`~listener.errors.ConfigurationError` where there is none of that name, or where it cannot be
    imported, with the command that installs what is missing.
    """
    entries = _entries()[group]
    subject = f"{key}: " if key else ""
    if name not in entries:
        hint = f"{nearest(name, entries)} Installed are: {', '.join(sorted(entries)) or 'none'}."
        raise ConfigurationError(f"{subject}there is no {group.removesuffix('s')} of type {name!r}", hint=hint)
    entry = entries[name]
    try:
        return cast("type[Any]", entry.load())
    except ImportError as error:
        missing = getattr(error, "name", None) or str(error)
        raise ConfigurationError(f"{subject}{name!r} needs {missing!r}", hint=_install_line(entry)) from error
    except AttributeError as error:
        package = _distribution(entry)[0]
        raise ConfigurationError(f"{subject}{entry.value} does not exist", hint=f"Reinstall {package}.") from error


def load_sources(settings: Settings) -> dict[str, Source]:
    """
    Return every configured source by name, each with the listing of its storage if one is configured.

    Raises like :func:`plugin_class`, and for a wrong key.
    """
    found = cast("dict[str, Source]", _load("sources", settings))
    return {name: _paired(source, listing_settings(settings, name)) for name, source in found.items()}


def listing_settings(settings: Settings, name: str) -> ListingSettings | None:
    """
    Return ``[sources.NAME.listing]``, or the source's own table if it is a listing; None without either.

    Raises :class:`~listener.errors.ConfigurationError` for a wrong key.
    """
    table, key = settings.sources[name], f"sources.{name}"
    if table["type"] != "listing" and LISTING not in table:
        return None
    from listener.sources.listing import ListingSettings  # noqa: PLC0415 - boto3 is heavy, and only for this

    if table["type"] == "listing":
        return cast("ListingSettings", _validated(ListingSettings, table, key, settings))
    if table["type"] == "filesystem" or not isinstance(table[LISTING], Mapping):
        raise ConfigurationError(
            f"{key}.{LISTING}: is not a table of an event source", hint="remove it: a tree is listed by its path"
        )
    return cast("ListingSettings", _validated(ListingSettings, table[LISTING], f"{key}.{LISTING}", settings))


def _paired(source: Source, listing: ListingSettings | None) -> Source:
    if listing is None:
        return source
    from listener.sources.listing import EventsWithReconcile, ListingSource  # noqa: PLC0415 - as above

    return source if isinstance(source, ListingSource) else EventsWithReconcile(source, listing)


def load_targets(settings: Settings) -> dict[str, Target]:
    """Return every configured target by name; raises like :func:`plugin_class`, and for a wrong key."""
    return cast("dict[str, Target]", _load("targets", settings))


def sites_of(settings: Settings, targets: Mapping[str, object] | None = None) -> Sites:
    """Return the sites, with the addresses that their targets keep; without ``targets`` by their classes."""
    known = _target_classes(settings) if targets is None else targets
    return Sites(settings.sites, time_zone=settings.planner.time_zone, targets=known)


def _target_classes(settings: Settings) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, table in settings.targets.items():
        with suppress(ConfigurationError):  # it is reported where the target is made
            found[name] = plugin_class("targets", table["type"])
    return found


def effective_settings(settings: Settings) -> dict[str, Any]:
    """Return every effective value, defaults of plugins included and secrets masked."""
    checked, wrong = {}, list[tuple[str, str]]()
    for group in GROUPS:
        try:
            checked[group] = _checked(group, settings)
        except ConfigurationError as error:
            wrong += error.parts or [(str(error), error.hint)]
    if wrong:
        raise together(wrong)
    return effective(settings, checked)


def require_tables(settings: Settings) -> None:
    """
    Raise :class:`~listener.errors.ConfigurationError` for a configuration without a source or a target.

    A file that is being written may be empty for a moment, and must not replace a running configuration.
    """
    for group in GROUPS:
        if not getattr(settings, group):
            what = f"{group}: {settings.origin.path or 'the environment'} has none"
            raise ConfigurationError(what, hint=f"add a [{group}.NAME] table, or run cdn-listener init")


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file with every plugin that can be imported."""
    models: dict[str, dict[str, type[BaseModel]]] = {group: {} for group in GROUPS}
    for plugin in installed():
        try:
            models[plugin.group][plugin.name] = plugin_class(plugin.group, plugin.name).Settings
        except ConfigurationError:
            continue
    return json_schema(models)


def _load(group: str, settings: Settings) -> dict[str, Any]:
    tables = _checked(group, settings)
    return {name: plugin_class(group, getattr(settings, group)[name]["type"])(name, tables[name]) for name in tables}


def _checked(group: str, settings: Settings) -> dict[str, BaseModel]:
    checked, wrong = {}, list[tuple[str, str]]()
    for name, table in getattr(settings, group).items():
        key = f"{group}.{name}"
        try:
            plugin = plugin_class(group, table["type"], key=f"{key}.type")
            checked[name] = _validated(plugin.Settings, table, key, settings)
        except ConfigurationError as error:
            wrong += error.parts or [(str(error), error.hint)]
    if wrong:
        raise together(wrong)
    return checked


def _validated(model: type[BaseModel], table: Mapping[str, Any], key: str, settings: Settings) -> BaseModel:
    pair = {LISTING} - set(model.model_fields)  # checked by itself
    own = {name: value for name, value in table.items() if name not in pair}
    if "type" not in model.model_fields:
        own.pop("type", None)
    origin = str(settings.origin.path or "the environment")
    return validate_table(model, own, key=key, origin=origin, variables=settings.origin.variables)


@functools.cache
def _entries() -> Mapping[str, Mapping[str, EntryPoint]]:
    """Return the plugins by table and name; the installed packages are read once for all tables."""
    every = entry_points()
    return {table: {entry.name: entry for entry in every.select(group=group)} for table, group in GROUPS.items()}


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")


def _install_line(entry: EntryPoint) -> str:
    package = _distribution(entry)[0]
    extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
    return f"Install it: pip install '{package}{extras}'"
