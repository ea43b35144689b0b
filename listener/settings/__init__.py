"""What an operator may set: one TOML file, the environment, and nothing else."""

from __future__ import annotations

from listener.settings.loading import CONFIG_VARIABLE, DEFAULT_PATHS, find_file, load_settings, parse_settings
from listener.settings.model import PluginTable, Settings, SettingsOrigin, as_toml, effective, json_schema
from listener.settings.problems import SettingsProblem, nearest, refuse, validate_table, variable_of
from listener.settings.sections import (
    AdminSettings,
    Approval,
    CoalescerSettings,
    FilePath,
    Listed,
    PlannerSettings,
    Section,
    StoreSettings,
    VerifierSettings,
    expanded,
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
    "FilePath",
    "Hours",
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
    "validate_table",
    "variable_of",
]
