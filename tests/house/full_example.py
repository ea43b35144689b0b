"""
Writes ``config/examples/full.toml`` from where the keys are declared: every key, its meaning, its default.

Run by ``make examples``; a test compares the file with what this prints.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from listener.plugins import installed, plugin_class
from listener.settings import Settings, Site

HEAD = """\
# Every key of cdn-listener, commented out at its default; what stands without # must be set.
# The smallest useful file is smallest.toml. `cdn-listener check` tries what is set.
# Written by `make examples` from where the keys are declared.
"""
WIDTH = 110
EXAMPLES: dict[str, dict[str, Any]] = {
    "filesystem": {"path": "/srv/www"},
    "sqs": {"queue_url": "https://sqs.eu-central-1.amazonaws.com/111122223333/site-events"},
    "mns": {"endpoint": "https://1000000000000001.mns.cn-hangzhou.aliyuncs.com", "queue": "cdn-events"},
    "listing": {"url": "s3://site"},
    "sites": {"source": "filesystem", "target": "alibaba-cdn", "base_urls": ["https://www.example.com/"]},
}
"""Values of keys that have no default, by type of plugin, and for the site."""
SHOWN = {"filesystem", "listing", "mns", "sqs", "webhook", "alibaba-cdn"}
"""Plugins that come with the product; a third party's do not belong into its example."""


def full_example() -> str:
    """Return the file's text."""
    lines = [HEAD.rstrip()]
    for name, field in Settings.model_fields.items():
        if name not in ("sources", "targets", "sites"):
            lines += _table(f"[{name}]", field.default, {}, field.description or "")
    for plugin in installed():
        if plugin.name in SHOWN:
            model = plugin_class(plugin.group, plugin.name).Settings
            head = f'[{plugin.group}.{plugin.name}]\ntype = "{plugin.name}"'
            lines += _table(head, model, EXAMPLES.get(plugin.name, {}), model.__doc__ or "")
    lines += _table("[[sites]]", Site, EXAMPLES["sites"], Site.__doc__ or "")
    return "\n".join(lines) + "\n"


def _table(head: str, model: type[BaseModel] | BaseModel, examples: dict[str, Any], meaning: str) -> Iterator[str]:
    yield ""
    yield from _comment(meaning)
    yield head
    fields = model if isinstance(model, type) else type(model)
    for name, field in fields.model_fields.items():
        if name != "type":
            yield from _key(field.alias or name, field, examples)


def _key(name: str, field: FieldInfo, examples: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield from _comment(field.description or "")
    if isinstance(field.default, BaseModel):
        yield from _inline_meanings(type(field.default))
    if name in examples:
        yield _toml(name, examples[name])
    elif field.default is None:
        yield f"# {name} ="
    else:
        yield f"# {_toml(name, field.default)}"


def _inline_meanings(model: type[BaseModel]) -> Iterator[str]:
    if not model.__doc__:
        return
    for name, field in model.model_fields.items():
        yield from _comment(f"{field.alias or name}: {field.description or ''}", indent="    ")


def _toml(name: str, value: Any) -> str:
    """Return ``name = value`` on one line, tables inline."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, dict):
        inner = ", ".join(_toml(key, item) for key, item in value.items())
        return f"{name} = {{ {inner} }}" if inner else f"{name} = {{}}"
    if isinstance(value, list | tuple):
        return f"{name} = [{', '.join(_toml('', item).removeprefix(' = ') for item in value)}]"
    return f"{name} = {tomli_w.dumps({'v': value}).strip().removeprefix('v = ')}"


def _comment(text: str, indent: str = "") -> Iterator[str]:
    plain = " ".join(text.replace("``", "").split())
    yield from textwrap.wrap(plain, WIDTH, initial_indent=f"# {indent}", subsequent_indent=f"# {indent}")


if __name__ == "__main__":
    print(full_example(), end="")
