"""What an operator may set: one TOML file, the environment, and nothing else."""

from __future__ import annotations

from listener.configuration import (
    CONFIG_VARIABLE,
    DEFAULT_PATHS,
    SettingsProblem,
    expanded,
    find_file,
    nearest,
    refuse,
    variable_of,
)
from listener.settings.fleet import FleetSettings, InstanceSettings, replicas_of_trees
from listener.settings.loading import load_settings, parse_settings
from listener.settings.model import PluginTable, Settings, SettingsOrigin, as_toml, effective, json_schema
from listener.settings.problems import validate_table
from listener.settings.sections import (
    AdminSettings,
    Approval,
    CoalescerSettings,
    EdgeSettings,
    FilePath,
    Listed,
    PlannerSettings,
    Section,
    StoreSettings,
    VerifierSettings,
    host_and_port,
    is_loopback,
)
from listener.settings.site import Hours, Site, SiteShare

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_PATHS",
    "AdminSettings",
    "Approval",
    "CoalescerSettings",
    "EdgeSettings",
    "FilePath",
    "FleetSettings",
    "Hours",
    "InstanceSettings",
    "Listed",
    "PlannerSettings",
    "PluginTable",
    "Section",
    "Settings",
    "SettingsOrigin",
    "SettingsProblem",
    "Site",
    "SiteShare",
    "StoreSettings",
    "VerifierSettings",
    "as_toml",
    "effective",
    "expanded",
    "find_file",
    "host_and_port",
    "is_loopback",
    "json_schema",
    "load_settings",
    "nearest",
    "parse_settings",
    "refuse",
    "replicas_of_trees",
    "validate_table",
    "variable_of",
]
