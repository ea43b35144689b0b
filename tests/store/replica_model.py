"""
A model of copies of one file tree on several web servers: does the rule for ``replicas = "each"`` ever lose a refresh?

One key with the contents 0 (absent), 1 and 2. Each server has a tree, which a CDN may be sent to whether or not the
daemon there runs, a daemon, and an index row of its own. A write also changes attributes (ctime, inode) that only its
own server can compare. A need may become due at any time, so the rule does not depend on how long it waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

ABSENT = 0
CONTENTS = (ABSENT, 1, 2)
NOT_SCANNED, NEVER_SERVED = -1, -2
"""Index rows of a server that returned under a new name, and of a new one that serves nobody before its first scan."""
EMPTY = -1
"""The CDN has nothing cached."""


class Need(Enum):
    """State of the key's need."""

    NONE = 0
    WAITING = 1
    ATTEMPTED = 2


class Flight(Enum):
    """State of the request."""

    NONE = 0
    WRITTEN = 1
    PURGED = 2


class Rule(NamedTuple):
    """The rule, and what breaks it."""

    equal_elsewhere_suppresses: bool = False
    rearms_waiting_only: bool = False
    settles_whatever_came: bool = False
    first_scan_is_silent: bool = False
    ctime_is_compared: bool = True
    """With the time at which an absence began, where a server returned under a new name."""
    own_attributes_count: bool = True


class World(NamedTuple):
    """Everything that is at one moment."""

    tree: tuple[int, ...]
    is_up: tuple[bool, ...]
    is_reported: tuple[bool, ...]
    """An event was reported to the daemon, which has not read the tree yet."""
    is_fresh: tuple[bool, ...]
    """Written since the daemon read it last: its attributes differ from those in the index row."""
    row: tuple[int, ...]
    """Of the index."""
    absent_rows: frozenset[int]
    """Rows of names that are gone."""
    need: Need
    flight: Flight
    cdn: int

    def on(self, server: int, **values: object) -> World:
        """Return the world with other values of one server."""
        changed: dict[str, Any] = {}
        for field, value in values.items():
            old = getattr(self, field)
            changed[field] = (*old[:server], value, *old[server + 1 :])
        return self._replace(**changed)


def start() -> list[World]:
    """Return the worlds that a search begins with: two servers, and one server that another joins."""
    both = World((1, 1), (True, True), (False,) * 2, (False,) * 2, (1, 1), frozenset(), Need.NONE, Flight.NONE, 1)
    return [both, both.on(1, tree=2, is_up=False, is_fresh=True, row=NEVER_SERVED)]


class Model:
    """The steps of a world under a rule."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def recorded(self, world: World, server: int, seen: int) -> World:
        """Write a change of a server's own tree: its index row, and the need in the same transaction."""
        others = [one for other, one in enumerate(world.row) if other != server and one >= 0]
        suppressed = self.rule.equal_elsewhere_suppresses and seen in others
        lax = self.rule.rearms_waiting_only and world.need is Need.ATTEMPTED
        return world.on(server, row=seen)._replace(need=world.need if suppressed or lax else Need.WAITING)

    def scanned(self, world: World, server: int) -> World:
        """Start a daemon, which begins with a scan."""
        world = world.on(server, is_up=True)
        seen, is_fresh, row = world.tree[server], world.is_fresh[server], world.row[server]
        world = world.on(server, is_fresh=False)
        if row < 0:
            known = [one for other, one in enumerate(world.row) if other != server and one >= 0]
            known += world.absent_rows
            is_older = not is_fresh or row == NEVER_SERVED or not self.rule.ctime_is_compared
            is_silent = self.rule.first_scan_is_silent or (is_older and all(one == seen for one in known))
            return world.on(server, row=seen) if is_silent else self.recorded(world, server, seen)
        is_change = is_fresh if self.rule.own_attributes_count else row != seen
        return self.recorded(world, server, seen) if is_change else world

    def written(self, world: World, server: int, content: int) -> World:
        """Write the tree of a server."""
        reported = world.is_reported[server] or world.is_up[server]
        return world.on(server, tree=content, is_fresh=True, is_reported=reported)

    def read(self, world: World, server: int) -> World:
        """Let a daemon read what was reported to it."""
        return self.recorded(world.on(server, is_reported=False, is_fresh=False), server, world.tree[server])

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Yield what may happen next."""
        for server, tree in enumerate(world.tree):
            yield from ((f"write {one} on {server}", self.written(world, server, one)) for one in {*CONTENTS} - {tree})
            yield from self._steps_of_daemon(world, server)
            if world.cdn == EMPTY and world.row[server] != NEVER_SERVED:
                yield f"a visitor is sent to {server}", world._replace(cdn=tree)
        if (after := self._refresh(world)) is not world:
            yield "the refresh goes on", after

    def _steps_of_daemon(self, world: World, server: int) -> Iterator[tuple[str, World]]:
        row = world.row[server]
        if world.is_up[server]:
            if world.is_reported[server]:
                yield f"daemon {server} reads", self.read(world, server)
            yield f"daemon {server} ends", world.on(server, is_up=False, is_reported=False)
            return
        yield f"daemon {server} starts", self.scanned(world, server)
        if row >= 0:
            renamed = world.on(server, row=NOT_SCANNED)._replace(absent_rows=world.absent_rows | {row})
            yield f"daemon {server} starts under a new name", self.scanned(renamed, server)

    def _refresh(self, world: World) -> World:
        """Take the next step of the request, if there is one."""
        if world.flight is Flight.WRITTEN:
            return world._replace(flight=Flight.PURGED, cdn=EMPTY)
        if world.flight is Flight.PURGED:
            settled = world.need is Need.ATTEMPTED or self.rule.settles_whatever_came
            return world._replace(flight=Flight.NONE, need=Need.NONE if settled else world.need)
        if world.need is Need.WAITING:
            return world._replace(need=Need.ATTEMPTED, flight=Flight.WRITTEN)
        return world

    def loses(self, world: World, content: int) -> bool:
        """Let every server get the same content and everything come to rest: does the CDN hold something else?"""
        for server, tree in enumerate(world.tree):
            if tree != content:
                world = self.written(world, server, content)
        for server in range(len(world.tree)):
            if not world.is_up[server]:
                world = self.scanned(world, server)
            if world.is_reported[server]:
                world = self.read(world, server)
        while (after := self._refresh(world)) is not world:
            world = after
        return world.cdn not in (EMPTY, content)

    def loss(self, depth: int) -> list[str] | None:
        """Return the shortest way to a loss of at most so many steps, None where there is none."""
        ways: dict[World, tuple[World, str] | None] = dict.fromkeys(start())
        queue = deque((world, 0) for world in ways)
        while queue:
            world, length = queue.popleft()
            for content in CONTENTS:
                if self.loses(world, content):
                    return [*_way(ways, world), f"every server gets {content}"]
            if length == depth:
                continue
            for name, after in self.steps(world):
                if after not in ways:
                    ways[after] = world, name
                    queue.append((after, length + 1))
        return None


def _way(ways: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    names = []
    while (before := ways[world]) is not None:
        world, name = before
        names.append(name)
    return names[::-1]
