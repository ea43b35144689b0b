"""``cdn-listener plugins``: which sources and targets are installed."""

from __future__ import annotations

from listener.cli.common import JsonOption, print_json, print_table

__all__ = ["plugins"]


def plugins(as_json: JsonOption = False) -> None:
    """The types of sources and targets that are installed."""
    from listener.plugins import installed

    found = installed()
    if as_json:
        print_json([plugin._asdict() for plugin in found])
    else:
        print_table(
            ("group", "type", "package", "version", "class"),
            [(p.group, p.name, p.package, p.version, p.path) for p in found],
        )
