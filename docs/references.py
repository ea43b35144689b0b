"""Writes the reference pages of commands, settings, metrics and tables from where they are declared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any, Final

import typer
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from listener.cli.app import app
from listener.daemon.freshness import BOUNDS_SECONDS
from listener.daemon.metrics import Gauges, exposition
from listener.plugins import installed, plugin_class
from listener.settings import Settings, Site
from listener.settings.meanings import describe
from listener.store.retention import BOUNDS
from listener.store.sqlite.migrations import schema

OWN = "cdn-listener"
_TIME: Final = "2026-11-30T16:00:00Z"
_COUNTS: Final = ("pending", "deferred", "in_flight", "failed", "parked", "unconfirmed", "dead_letters")
_STATUS: Final[dict[str, Any]] = {
    **dict.fromkeys((*_COUNTS, "oldest_unsettled_seconds", "ready"), 0),
    "waits_for": {who: {"needs": 0, "oldest_seconds": 0} for who in ("us", "cdn", "person")},
    "instance": "web-1",
    "instances": [{"name": "web-1", "alive": True, "trouble": ""}],
    "leader": {"main": "web-1"},
    "quota": {
        "cdn": {
            "file": {
                **dict.fromkeys(("limit", "spent", "held", "left", "others", "reserve"), 0),
                "resets_at": _TIME,
                "dollars": {"spent": 0, "limit": 0},
            }
        }
    },
    "spenders": {"main": [{"source": "www", "kind": "file", "units": 1, "left": 1}]},
    "sources": {
        "www": {
            **dict.fromkeys(("ready", "lost_events", "rescans"), 0),
            "state": "listening",
            "last_event_at": _TIME,
            "figures": {},
            "instances": {},
        }
    },
    "edge": {**dict.fromkeys(("fresh", "stale", "unknown", "repeated", "late_origins"), 0), "stale_urls": {"edge": 0}},
}
"""A status with one of everything that metrics are made of."""


def pages() -> dict[str, str]:
    """Return the generated pages by file name."""
    written = {"commands.md": _commands(), "settings.md": _settings(), "state.md": _state(), "metrics.md": _metrics()}
    return {name: "\n".join(lines) + "\n" for name, lines in written.items()}


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "Every command takes `--config FILE`; by default that is `$LISTENER_CONFIG`, then `listener.toml`, then"
    yield "`/etc/cdn-listener/listener.toml`. Exit status: 0 done, 1 failed, 2 usage or configuration, 3 done but"
    yield "something was deferred or parked, 130 interrupted. What people read goes to stdout, JSON with `--json`;"
    yield "errors and logs go to stderr."
    for path, command in walk(typer.main.get_command(app), ()):
        yield ""
        yield f"## cdn-listener {' '.join(path)}"
        yield ""
        yield " ".join((command.help or "").split())
        rows = [row for row in map(_option, command.params) if row]
        if rows:
            yield ""
            yield "| option | meaning |"
            yield "|---|---|"
            yield from rows


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something, with the words that call it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, one in (below or {}).items():
        yield from walk(one, (*path, name))


def _option(parameter: Any) -> str:
    if "--config" in parameter.opts or "--help" in parameter.opts:
        return ""
    said = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", r"\|")
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    default = parameter.default
    shown = (
        f" Default: `{default}`." if isinstance(default, str | int | float) and default not in (False, True, "") else ""
    )
    return f"| {names} | {said}{shown} |"


def _settings() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "One TOML file; unknown keys are refused with the nearest valid name. Every key can also be set by the"
    yield "environment: `LISTENER_COALESCER__QUIET_SECONDS=2`, `LISTENER_SOURCES__WWW__PATH=/srv/www`. Secrets come"
    yield "only from the environment, from a file that `…_FILE` names, or from a credential called like the key."
    describe(Settings)
    for name, field in Settings.model_fields.items():
        if name not in ("sources", "targets", "sites"):
            yield from _table(f"[{name}]", field.default, field.description or "")
    for plugin in installed():
        if plugin.package == OWN:
            model = plugin_class(plugin.group, plugin.name).Settings
            describe(model)
            yield from _table(f'[{plugin.group}.NAME] type = "{plugin.name}"', model, model.__doc__ or "")
    yield from _table("[[sites]]", Site, Site.__doc__ or "")


def _state() -> Iterator[str]:
    yield "# Tables of the state file"
    yield ""
    yield "Each table has a bound, or a time after which its rows are removed: once an hour, in slices of some"
    yield "milliseconds. An index has at most one entry for each row of its table."
    yield ""
    yield "| table | rows at most | a row is removed | indexes |"
    yield "|---|---|---|---|"
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema())
        for name, bound in BOUNDS.items():
            indexes = connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (name,)
            )
            named = ", ".join(f"`{index}`" for (index,) in indexes)
            yield f"| `{name}` | {bound.most} | {bound.removed} | {named} |"


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "`/metrics` of the admin port, in the text format of Prometheus. No label has a URL or a key, so that there"
    yield "are as many series as are configured. Counters start with the process."
    yield "[Operations](../operations.md#monitoring) says which of them matter; `config/prometheus` has alert rules"
    yield "for them, `config/grafana` a dashboard."
    yield ""
    yield "Each figure of a source (`sources.NAME.figures` of `status --json`) is also a gauge,"
    yield "`listener_source_<figure>`, with the label `source`."
    yield ""
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    gauges = Gauges(0.0, 0.0, 0, 0, {"main": True}, 1)
    freshness: Any = SimpleNamespace(
        outcomes={("cdn", "file", "complete"): 1},
        histograms=lambda: {("cdn", "file"): SimpleNamespace(buckets=[0] * (len(BOUNDS_SECONDS) + 1), sum_seconds=0.0)},
    )
    text = exposition(_STATUS, gauges, freshness).decode()
    for family in sorted(text_string_to_metric_families(text), key=lambda one: one.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "generation"}
        named = ", ".join(f"`{label}`" for label in sorted(labels))
        yield f"| `{name}` | {family.type} | {named} | {family.documentation} |"


def _table(head: str, model: type[BaseModel] | BaseModel, meaning: str) -> Iterator[str]:
    yield ""
    yield f"## `{head}`"
    yield ""
    yield " ".join(meaning.split())
    yield ""
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for name, field in (model if isinstance(model, type) else type(model)).model_fields.items():
        if name != "type":
            yield from _keys(field.alias or name, field)


def _keys(name: str, field: FieldInfo) -> Iterator[str]:
    default = field.get_default(call_default_factory=True)
    said = " ".join((field.description or "").split()).replace("|", r"\|").replace("``", "`")
    if isinstance(default, BaseModel):
        yield f"| `{name}` | | {said} |"
        for below, one in type(default).model_fields.items():
            yield from _keys(f"{name}.{below}", one)
    else:
        yield f"| `{name}` | {_shown(default, required=field.is_required())} | {said} |"


def _shown(default: Any, *, required: bool) -> str:
    if required:
        return "required"
    if default is None or default in ("", (), {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list | tuple):
        return f"`{list(default)}`".replace("'", '"')
    if isinstance(default, dict):
        return "`{ " + ", ".join(f"{key} = {value}" for key, value in default.items()) + " }`"
    return f"`{getattr(default, 'value', default)}`"
