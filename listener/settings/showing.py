"""Settings as output: effective values without secrets, and the JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w
from pydantic import BaseModel

from listener.redaction import mask_url, masked
from listener.settings.model import Settings

__all__ = ["as_toml", "effective", "json_schema"]


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
    schema = Settings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "cdn-listener"
    for group, models in plugins.items():
        choices = [_plugin_schema(name, model, schema) for name, model in sorted(models.items())]
        if choices:
            schema["properties"][group]["additionalProperties"] = {"oneOf": choices}
    return schema


def _plugin_schema(name: str, model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    own = model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
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
