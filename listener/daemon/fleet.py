"""The fleet in the status: who runs, who leads which account, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from listener.settings import Settings
from listener.store.copies import Difference
from listener.store.fleet import Instance, OldSnapshot
from listener.store.owner import Owner
from listener.text import counted

__all__ = ["MOST_DIFFERENT", "different_of", "held_of", "leaders_of", "lost_of", "plain_instances"]

DEAD_REMEDY = "start it again, or if it will never return: cdn-listener fleet forget {}"


LOST_REMEDY = "run the backfills that it names, if any; a synchronous standby avoids this: docs/fleet.md"


def leaders_of(
    instances: Sequence[Instance], accounts: Collection[str], settings: Settings, owner: Owner
) -> dict[str, str | None]:
    """Return which instance leads each account; None where none does. The owner of a state file leads all."""
    if instances:
        led = {account: one.name for one in instances if one.is_alive for account in one.leads}
        return {account: led.get(account) for account in sorted(accounts)}
    name = settings.instance.effective_name if owner.is_running else None
    return dict.fromkeys(sorted(accounts), name)


def silent_seconds(one: Instance, settings: Settings) -> float:
    """Return how long ago an instance renewed its heartbeat."""
    return max(0.0, settings.fleet.lease_seconds - one.left_seconds)


def plain_instances(instances: Sequence[Instance], settings: Settings, iso: Any) -> list[dict[str, Any]]:
    """Return the instances as plain data."""
    return [
        {
            "name": one.name,
            "alive": one.is_alive,
            "version": one.version,
            "since": iso(one.started_at),
            "heartbeat_seconds": round(silent_seconds(one, settings), 1),
            "leads": list(one.leads),
            "trouble": one.trouble,
        }
        for one in instances
    ]


def lost_of(
    instances: Sequence[Instance],
    leaders: Mapping[str, str | None],
    settings: Settings,
    *,
    unled: Sequence[str] = (),
) -> list[tuple[str, float | None, str]]:
    """
    Return what is wrong: instances that died, and accounts that nobody leads; with since when, and the remedy.

    ``unled`` are accounts, configured here or not, for which something was sent that nobody follows.
    """
    found: list[tuple[str, float | None, str]] = []
    for one in instances:
        if one.trouble:
            remedy = LOST_REMEDY if "commits" in one.trouble else "see docs/fleet.md"
            found.append((f"instance {one.name}: {one.trouble}", None, remedy))
        if not one.is_alive:
            words = f"instance {one.name}: no heartbeat; changes that only it sees are not detected"
            since = one.ends_at - settings.fleet.lease_seconds  # its last heartbeat
            found.append((words, since, DEAD_REMEDY.format(one.name)))
    if any(one.is_alive for one in instances):
        for account, leader in leaders.items():
            if leader is None:
                words = f"account {account}: no instance leads it, so that nothing is sent for it"
                found.append((words, None, "if it stays so for a minute, look at the logs of the instances"))
        for account in sorted(set(unled) - leaders.keys()):
            words = f"account {account}: requests are in flight, and no running instance is configured for it"
            remedy = f"configure its target on an instance again, or: cdn-listener fleet release {account}"
            found.append((words, None, remedy))
    return found


def held_of(snapshots: Sequence[OldSnapshot]) -> list[tuple[str, float | None, str]]:
    """Return who keeps old rows of the database, as problems."""
    words = "store: {} keeps old rows of the database, so that what changes often becomes slow"
    return [(words.format(one.holder), one.since, f"end it: {one.remedy}") for one in snapshots]


MOST_DIFFERENT = 100
"""Keys that are listed as different on instances."""


def different_of(different: Sequence[Difference]) -> list[tuple[str, float | None, str]]:
    """Return which sources have copies that stayed different, as problems; the keys with the oldest first."""
    found: list[tuple[str, float | None, str]] = []
    for name in dict.fromkeys(one.source for one in different):
        mine = [one for one in different if one.source == name]
        number = f"at least {len(mine)} files" if len(different) >= MOST_DIFFERENT else counted(len(mine), "file")
        example = f"{mine[0].key} on {', '.join(mine[0].instances)}"
        words = f"source {name}: different on instances: {number}, the oldest is {example}"
        found.append((words, mine[0].since, "compare the trees: a deploy may not have reached one of these hosts"))
    return found
