"""The page that compares the targets says what they declare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from listener.contracts import Eviction, Target, UnknownOutcome, confirms
from listener.plugins import plugin_class
from listener.refresh import UNLIMITED, RefreshKind
from tests import ROOT
from tests.repository.full_example import SHOWN

FILE, DIRECTORY, IGNORE_PARAMS, PREFETCH = (
    RefreshKind.FILE,
    RefreshKind.DIRECTORY,
    RefreshKind.IGNORE_PARAMS,
    RefreshKind.PREFETCH,
)
CACHES = ("varnish", "nginx", "squid", "trafficserver")
SETTINGS: dict[str, dict[str, Any]] = {
    "`alibaba-cdn`": {},
    "`alibaba-dcdn`": {},
    "`alibaba-esa`": {"site": "example.com"},
    "`cloudfront`": {"distribution": "EDFDVBD6EXAMPLE"},
    "`cloudflare`": {},
    **{f"`http-purge`, `{preset}`": {"preset": preset, "servers": ["http://10.0.0.5"]} for preset in CACHES},
}
"""By the name of the row: what must be set."""
SOFT: Mapping[str, list[dict[str, Any]]] = {
    "`alibaba-cdn`": [{"force": False}],
    "`alibaba-dcdn`": [{"force": False}],
    "`alibaba-esa`": [{"force": False}],
    "`cloudflare`": [{"soft": True}],
    "`http-purge`, `varnish`": [{"soft": True}, {"soft": True, "subtree": "xkey"}],
}
"""The settings with which refreshes can be soft."""
SETTLED = {
    UnknownOutcome.TASKS: "is looked up in the list of tasks",
    UnknownOutcome.TOKEN: "is sent again with the same token, and charged once",
    UnknownOutcome.REPEAT: "is sent again",
    UnknownOutcome.SPENT: "counts as spent",
}


def tables() -> dict[str, dict[str, list[str]]]:
    """Return the rows of each table by the name of their target, by the heading before the table."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in (ROOT / "docs/targets/index.md").read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        if line.startswith("| `"):
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(heading, {})[name] = cells
    return found


TABLES = tables()
each_target = pytest.mark.parametrize("name", SETTINGS)


def made(name: str, **more: Any) -> Target:
    """Return the target of a row."""
    kind = plugin_class("targets", name.split("`")[1])
    target: Target = kind("cdn", kind.Settings.model_validate({**SETTINGS[name], **more}))
    return target


def test_each_target_is_in_each_table() -> None:
    """Also one that is added."""
    assert len(TABLES) == 4
    assert all(list(rows) == list(SETTINGS) for rows in TABLES.values())
    shipped = {name for name in SHOWN if _is_target(name)}
    assert {name.split("`")[1] for name in SETTINGS} == shipped


def _is_target(name: str) -> bool:
    from listener.plugins import installed

    return any(plugin.group == "targets" and plugin.name == name for plugin in installed())


@each_target
def test_what_can_be_refreshed(name: str) -> None:
    """Yes for each kind that the target has limits for, no for the others."""
    cells = TABLES["What can be refreshed"][name][:4]
    limits = made(name).limits
    kinds = (FILE, DIRECTORY, IGNORE_PARAMS, PREFETCH)
    assert [cell.split(",")[0] for cell in cells] == ["yes" if kind in limits else "no" for kind in kinds]


@each_target
def test_what_can_be_soft(name: str) -> None:
    """Files and directories that some setting makes soft."""
    cell = TABLES["What can be refreshed"][name][4]
    soft = {
        kind
        for settings in SOFT.get(name, [])
        for kind, limits in made(name, **settings).limits.items()
        if limits.eviction is not Eviction.HARD
    }
    said = {FILE, DIRECTORY, IGNORE_PARAMS} if cell.startswith("all,") else set()
    said |= {kind for kind, word in ((FILE, "files"), (DIRECTORY, "directories")) if word in cell}
    assert said == soft
    assert (cell == "no") == (not soft)
    assert all(f"`{key} = " in cell for settings in SOFT.get(name, [])[:1] for key in settings)


@each_target
def test_what_it_costs(name: str) -> None:
    """Every allowance by its name, its limit and its window; the free units and the price of the others."""
    text, price = TABLES["What it costs"][name]
    target = made(name)
    assert re.findall(r"`([\w-]+)`", text) == sorted(
        (one.name for one in target.allowances), key=lambda one: text.find(f"`{one}`")
    )
    assert (text == "none") == (not target.allowances)
    for one in target.allowances:
        assert one.window.words in text
        assert one.limit >= UNLIMITED or f"`{one.name}` {one.limit:,}" in text
        assert not one.is_paid or f"{one.free:,} free, then ${one.unit_dollars} each" in price
    assert any(one.is_paid for one in target.allowances) == (price != "free")


@each_target
def test_what_limits_a_request(name: str) -> None:
    """The URLs of one request of each kind."""
    files, directories, besides = TABLES["What limits a request"][name]
    limits = made(name).limits
    assert files == f"{limits[FILE].batch_urls:,}"
    assert directories == (f"{limits[DIRECTORY].batch_urls:,}" if DIRECTORY in limits else "no")
    places = limits[FILE].batch_places
    assert (f"{places} domains in a request" in besides) == (places > 1)


@each_target
def test_what_can_be_known(name: str) -> None:
    """Whether it is learned that copies are dropped, and how an unknown outcome is settled."""
    _, confirmed, lost = TABLES["What can be known"][name]
    target = made(name)
    assert confirmed == ("yes" if confirms(target) else "no")
    assert lost == SETTLED[target.unknown_outcome]
