"""What an operator may set: one TOML file, the environment, and nothing else."""

from __future__ import annotations

from listener.settings.loading import CONFIG_VARIABLE, DEFAULT_PATHS, find_file, load_settings, parse_settings
from listener.settings.model import Origin, PluginTable, Settings
from listener.settings.problems import Problem, nearest, refuse, validate_table
from listener.settings.sections import (
    Admin,
    Approval,
    Coalescer,
    FilePath,
    Planner,
    Section,
    Store,
    Verifier,
    expanded,
    is_loopback,
)
from listener.settings.showing import as_json, as_toml, effective, json_schema
from listener.settings.site import Hours, Share, Site

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_PATHS",
    "Admin",
    "Approval",
    "Coalescer",
    "FilePath",
    "Hours",
    "Origin",
    "Planner",
    "PluginTable",
    "Problem",
    "Section",
    "Settings",
    "Share",
    "Site",
    "Store",
    "Verifier",
    "as_json",
    "as_toml",
    "effective",
    "expanded",
    "find_file",
    "is_loopback",
    "json_schema",
    "load_settings",
    "nearest",
    "parse_settings",
    "refuse",
    "validate_table",
]
