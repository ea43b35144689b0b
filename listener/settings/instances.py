r"""
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

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["config_of", "defaults_of", "instance_of", "unit_of"]

CONFIG_DIRECTORY: Final = Path("/etc/cdn-listener")
PLAIN: Final = "listener"
STATE_PARENT: Final = Path("/var/lib")
UNIT_DIRECTORIES: Final = tuple(Path(path, "systemd/system") for path in ("/etc", "/run", "/usr/lib"))
TEMPLATE: Final = "cdn-listener@.service"
_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\-]+")
"""What systemd accepts after @."""


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
