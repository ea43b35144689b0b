"""Files that the package ships next to its modules: units, policies, examples, rules, dashboards."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_folder"]

_FOLDERS = {"units": "systemd", "config": "config"}
"""Folder within the installed package to the one in a source checkout; see pyproject.toml."""


def shipped_folder(name: str) -> Path:
    """Return a shipped folder, ``units`` or ``config``: of the installed package, or of a source checkout."""
    import listener

    package = Path(listener.__file__).parent
    return next(path for path in (package / name, package.parent / _FOLDERS[name]) if path.is_dir())
