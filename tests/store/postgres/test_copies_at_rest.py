"""Two real trees and the real store: whatever happens, a CDN holds nothing stale once everything is at rest."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, Fingerprint
from listener.clock import SystemClock
from listener.refresh import Attempt, NeedState
from listener.store import Store
from tests.store.databases import empty_schema
from tests.store.postgres.copies import Fleet, fleet, record, refresh, seed
from tests.store.steps import FakeClock

pytestmark = pytest.mark.looptime(False)
NAME = "x"
CONTENTS = (b"", b"1", b"22")
"""The first is an absent file."""
STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from((0, 1)), st.sampled_from(CONTENTS)),
    st.tuples(st.sampled_from(("read", "end", "start", "rename")), st.sampled_from((0, 1)), st.none()),
    st.tuples(st.sampled_from(("due", "request", "purge", "complete")), st.none(), st.none()),
    st.tuples(st.just("visit"), st.sampled_from((0, 1)), st.none()),
)


class Server:
    """A web server with its tree; its daemon, while it runs, has an index of it."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.file = path / NAME
        self.store: Store | None = None
        path.mkdir()

    def content(self) -> bytes:
        """Return what a visitor gets."""
        return self.file.read_bytes() if self.file.exists() else b""

    def write(self, content: bytes) -> None:
        """Replace the file, or remove it."""
        if not content:
            self.file.unlink(missing_ok=True)
            return
        new = self.file.with_suffix(".new")
        new.write_bytes(content)
        new.rename(self.file)

    def found(self) -> Change:
        """Return what the file is now."""
        if not self.file.exists():
            return Change("www", NAME, ChangeKind.DELETED)
        stat = self.file.stat()
        fingerprint = Fingerprint(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        return Change("www", NAME, ChangeKind.CONTENT, fingerprint)


class World:
    """Servers, a CDN, and the steps of one example."""

    def __init__(self, stand: Fleet, clock: FakeClock, path: Path) -> None:
        self.stand = stand
        self.clock = clock
        self.servers = [Server("a", path / "a"), Server("b", path / "b")]
        self.cached: bytes | None = b"1"
        self.made: list[Attempt] = []
        self.purged = False
        self._names = map("pod-{}".format, itertools.count())

    async def begin(self) -> None:
        """Let both serve the same, which is known and cached."""
        for server in self.servers:
            server.write(b"1")
            await self.start(server)

    async def start(self, server: Server) -> None:
        """Start a daemon, which compares its tree with its index."""
        if server.store is None:
            server.store = await self.stand.join(server.name, is_seeded=False)
            await self.read(server)

    async def read(self, server: Server) -> None:
        """Let a daemon record what differs from its index."""
        store = server.store
        if store is None:
            return
        found, known = server.found(), (await store.objects("www", [NAME])).get(NAME)
        if not await store.seeded("www"):
            await seed(store, *([found] if found.fingerprint else []))
        elif found.fingerprint != known:
            await record(store, found)

    async def end(self, server: Server) -> None:
        """End a daemon; what it was about to read is lost. Its upkeep ran just before."""
        if server.store is not None:
            await server.store.upkeep(keep_seconds=1e9)
            self.stand.end(server.name)
            server.store = None

    async def step(self, what: str, number: int | None, content: bytes | None) -> None:
        """Take a step, if it is possible now."""
        server = self.servers[number or 0]
        if what == "write":
            server.write(content or b"")
        elif what == "visit":
            self.cached = server.content() if self.cached is None else self.cached
        elif what == "rename" and server.store is None:
            server.name = next(self._names)
        elif what in ("read", "start", "end"):
            await getattr(self, what)(server)
        elif what in ("due", "request", "purge", "complete"):
            await self.refresh(what)

    async def refresh(self, what: str) -> None:
        """Take the next step of the refresh."""
        leader = next((server.store for server in self.servers if server.store is not None), None)
        if leader is None:
            return
        if what == "due":
            self.clock.advance(60.0)
            await leader.promote_due()
        elif what == "request" and not self.made and self.stand.needs().get(NAME) is NeedState.READY:
            self.made = await refresh(leader, NAME, until="accepted")
        elif what == "purge" and self.made:
            self.cached, self.purged = None, True
        elif what == "complete" and self.purged:
            await leader.complete(self.made)
            self.made, self.purged = [], False

    async def rest(self, content: bytes) -> bytes | None:
        """Give every server the same content and let everything end; return what the CDN holds."""
        for server in self.servers:
            if server.content() != content:
                server.write(content)
            await self.start(server)
            await self.read(server)
        for what in ("purge", "complete", "due", "request", "purge", "complete", "due", "request", "purge", "complete"):
            await self.refresh(what)
        assert not self.stand.needs()
        return self.cached


async def play(url: str, steps: list[tuple[str, int | None, bytes | None]], last: bytes) -> None:
    """Take the steps in a new world and let it come to rest."""
    empty_schema(url)
    clock = FakeClock()
    clock.time = SystemClock().now()
    with tempfile.TemporaryDirectory() as folder:
        async with fleet(url, clock) as stand:
            world = World(stand, clock, Path(folder))
            await world.begin()
            for step in steps:
                await world.step(*step)
            assert await world.rest(last) in (None, last)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=14), last=st.sampled_from(CONTENTS))
def test_the_cdn_holds_nothing_stale_at_rest(
    store_url: str, steps: list[tuple[str, int | None, bytes | None]], last: bytes
) -> None:
    """As in the model of the rule, whose worlds these are."""
    asyncio.run(play(store_url, steps, last))


@pytest.mark.parametrize(
    "steps",
    [
        [
            ("end", 0, None), ("write", 0, b"22"), ("rename", 0, None), ("end", 1, None), ("start", 0, None),
            ("rename", 1, None),
        ],
        [
            ("end", 0, None), ("write", 0, b""), ("rename", 0, None), ("end", 1, None), ("start", 0, None),
            ("rename", 1, None),
        ],
        [
            ("write", 0, b"22"), ("read", 0, None), ("due", None, None), ("request", None, None), ("purge", None, None),
            ("visit", 1, None), ("complete", None, None), ("write", 1, b"22"), ("read", 1, None),
        ],
        [
            ("write", 0, b""), ("read", 0, None), ("write", 0, b"1"), ("end", 0, None), ("due", None, None),
            ("request", None, None), ("purge", None, None), ("visit", 0, None), ("complete", None, None),
            ("write", 0, b""), ("rename", 0, None), ("start", 0, None),
        ],
    ],
)  # fmt: skip
@pytest.mark.parametrize("last", CONTENTS)
def test_the_ways_on_which_weaker_rules_lose(
    store_url: str, steps: list[tuple[str, int | None, bytes | None]], last: bytes
) -> None:
    """As the search of the model found them."""
    asyncio.run(play(store_url, steps, last))
