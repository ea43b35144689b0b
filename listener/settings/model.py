"""
The whole configuration, and as output: effective values without secrets, the JSON Schema.

The tables of sources and targets are kept as written: the plugin named by their ``type`` checks them against its own
``Settings`` (see :mod:`listener.plugins`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomli_w
from pydantic import BaseModel, Field, PrivateAttr

from listener.configuration import SettingsProblem, is_postgres
from listener.redaction import mask_url, masked
from listener.settings.fleet import NAME_HINT, FleetSettings, InstanceSettings, replicas_of_trees
from listener.settings.meanings import described
from listener.settings.sections import (
    AdminSettings,
    CoalescerSettings,
    PlannerSettings,
    Section,
    StoreSettings,
    VerifierSettings,
)
from listener.settings.site import Site

__all__ = ["PluginTable", "Settings", "SettingsOrigin", "as_toml", "effective", "json_schema"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

PluginTable = dict[str, Any]
"""The table of one source or target as written; ``type`` names its plugin."""


@dataclass(frozen=True, slots=True)
class SettingsOrigin:
    """Where settings came from, for messages about them."""

    path: Path | None = None
    """The file that was read."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Dotted key to the environment variable (or file) that set it."""
    fingerprints: tuple[str, ...] = field(default=(), compare=False)
    """What identifies these settings; see :class:`listener.configuration.Configuration`."""


class Settings(Section):
    """All settings of one process."""

    store: StoreSettings = StoreSettings()
    """Where state is stored."""
    instance: InstanceSettings = InstanceSettings()
    """Which of several instances this one is."""
    fleet: FleetSettings = FleetSettings()
    """How instances share a PostgreSQL store."""
    coalescer: CoalescerSettings = CoalescerSettings()
    """How long changes are gathered before a refresh is planned."""
    planner: PlannerSettings = PlannerSettings()
    """How quota is spent."""
    verifier: VerifierSettings = VerifierSettings()
    """How tasks are followed until they finish."""
    admin: AdminSettings = AdminSettings()
    """The HTTP port for the status page, probes and metrics."""
    sources: dict[str, PluginTable] = Field(default_factory=dict)
    """Where changes come from, by name; ``type`` names the plugin, the other keys are the plugin's."""
    targets: dict[str, PluginTable] = Field(default_factory=dict)
    """The CDN accounts to refresh, by name; ``type`` names the plugin, the other keys are the plugin's."""
    sites: tuple[Site, ...] = ()
    """What is served where."""

    _origin: SettingsOrigin = PrivateAttr(default=SettingsOrigin())

    @property
    def origin(self) -> SettingsOrigin:
        """Where these settings came from."""
        return self._origin

    def problems(self) -> Iterable[SettingsProblem]:
        """Yield what is wrong across tables: unknown names, duplicate sites."""
        for group in ("sources", "targets"):
            yield from _plugin_problems(group, getattr(self, group))
        if self.sources and not self.sites:
            yield SettingsProblem(
                "sites", "there is none, so no change would lead to a refresh", "Add a [[sites]] table."
            )
        names = [site.name for site in self.sites if site.name]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1 or name.isdecimal()):
            yield SettingsProblem(
                "sites", f"name = {name!r} would be ambiguous", "Give each site its own name, no number."
            )
        yield from _guarantee_problems(self)
        yield from _fleet_problems(self)
        seen: dict[Hashable, int] = {}
        for number, site in enumerate(self.sites):
            yield from _site_problems(f"sites.{number}", site, self)
            for place in _places(site):
                first = seen.setdefault(place, number)
                if first != number:
                    yield SettingsProblem(f"sites.{number}", f"is the same as sites.{first}", "Remove one of the two.")
                    break


def _plugin_problems(group: str, tables: Mapping[str, PluginTable]) -> Iterable[SettingsProblem]:
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            hint = "Use letters, digits, - and _, at most 64 of them."
            yield SettingsProblem(f"{group}.{name}", "is not a valid name", hint)
        if not isinstance(table.get("type"), str):
            hint = 'Add type = "…"; `cdn-listener plugins` lists the types.'
            yield SettingsProblem(f"{group}.{name}.type", "is missing, or is not text", hint)


def _fleet_problems(settings: Settings) -> Iterable[SettingsProblem]:
    """Yield settings of a PostgreSQL store that a state file ignores, and a host name that cannot name an instance."""
    if is_postgres(settings.store.url):
        if not settings.instance.is_valid:
            what = f"is not set, and the host name {settings.instance.effective_name!r} cannot name an instance"
            yield SettingsProblem("instance.name", what, NAME_HINT)
        return
    hint = "Remove it, or set store.url to the PostgreSQL database that the instances share."
    for key, is_set in (("fleet", settings.fleet != FleetSettings()), ("store.prepared", not settings.store.prepared)):
        if is_set:
            yield SettingsProblem(key, "has no effect on a state file", hint)
    for name, replicas in replicas_of_trees(settings.sources).items():
        if replicas == "each":
            yield SettingsProblem(f"sources.{name}.replicas", "has no effect on a state file", hint)


def _guarantee_problems(settings: Settings) -> Iterable[SettingsProblem]:
    for target in settings.targets:
        sites = [site for site in settings.sites if target in site.targets]
        for kind in ("file", "directory"):
            total = sum(getattr(site.guaranteed, kind) for site in sites)
            if total > 1.0 + 1e-9:
                words = f"guaranteed.{kind} of the sites of target {target} adds up to {total:.2f} days' quotas"
                yield SettingsProblem("sites", words, "Let the parts add up to at most 1.")


def _site_problems(key: str, site: Site, settings: Settings) -> Iterable[SettingsProblem]:
    if site.source not in settings.sources:
        yield SettingsProblem.of_unknown_name(f"{key}.source", "source", site.source, settings.sources)
    for target in site.targets:
        if target not in settings.targets:
            yield SettingsProblem.of_unknown_name(f"{key}.target", "target", target, settings.targets)


def _places(site: Site) -> Iterable[Hashable]:
    for target in site.targets:
        for base in site.base_urls:
            yield site.source, site.prefix, target, base, site.include, site.exclude


def effective(settings: Settings, plugins: Mapping[str, Mapping[str, BaseModel]] | None = None) -> dict[str, Any]:
    """
    Return every effective value as plain data, secrets masked.

    ``plugins`` holds the checked tables by group (``sources``, ``targets``) and name, so that
    defaults of plugins are included; without it their tables are returned as written.
    """
    table = settings.model_dump(mode="json")
    for group, models in (plugins or {}).items():
        for name, model in models.items():
            table[group][name] = {"type": table[group][name]["type"], **model.model_dump(mode="json", by_alias=True)}
    table["store"]["url"] = mask_url(table["store"]["url"])
    shown: dict[str, Any] = masked(table)
    return shown


def as_toml(table: Mapping[str, Any]) -> str:
    """Return plain data as TOML, without values that are None."""
    return tomli_w.dumps(_without_none(table))


def json_schema(plugins: Mapping[str, Mapping[str, type[BaseModel]]]) -> dict[str, Any]:
    """Return the JSON Schema of the file, with the tables of these plugins by group and type name."""
    schema = described(Settings).model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "cdn-listener"
    for group, models in plugins.items():
        choices = [_plugin_schema(name, model, schema) for name, model in sorted(models.items())]
        if choices:
            schema["properties"][group]["additionalProperties"] = {"oneOf": choices}
    return schema


def _plugin_schema(name: str, model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    own = described(model).model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    for title, definition in own.pop("$defs", {}).items():
        schema.setdefault("$defs", {})[f"{name}.{title}"] = definition
    own["title"] = name
    own.setdefault("properties", {})["type"] = {"const": name}
    own["required"] = ["type", *own.get("required", [])]
    return own


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value if item is not None] if isinstance(value, list | tuple) else value
