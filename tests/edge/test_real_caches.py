"""Stale copies in real caches, alone and two in a row, are found, and no fresh one is called stale."""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from listener.clock import SystemClock
from listener.edge import prober as module
from listener.edge.prober import Probe, Prober
from listener.refresh import RefreshKind
from listener.settings.edge import Edge
from listener.targets.http_purge import HttpPurge
from tests.edge.versions import KINDS, Versions, versions
from tests.targets.http_purge.caches import HOST, Cache, cache

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]
SITE = f"http://{HOST}/"
ROWS = [
    ("varnish",), ("nginx",), ("squid",), ("trafficserver",),
    ("varnish", "nginx"), ("nginx", "varnish"), ("squid", "trafficserver"), ("trafficserver", "squid"),
]  # fmt: skip
"""The cache next to the origin first."""
OF_A_KIND = 8


@pytest.fixture(scope="module", params=ROWS, ids=["+".join(row) for row in ROWS])
def row(request: pytest.FixtureRequest, system_command: Callable[[str], str]) -> Iterator[tuple[Versions, list[Cache]]]:
    """Run an origin with caches in front of it, the cache next to it first."""
    with ExitStack() as running:
        behind = origin = running.enter_context(versions())
        caches: list[Cache] = []
        for kind in request.param:
            caches.append(running.enter_context(cache(kind, system_command, behind)))
            behind = caches[-1]  # type: ignore[assignment]
        yield origin, caches


def visited(one: Cache, paths: Sequence[str]) -> dict[str, set[bytes]]:
    """Request these paths as visitors do, each variant by compression; return the bodies, plain."""
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=30)
    found: dict[str, set[bytes]] = {path: set() for path in paths}
    for encodings in ("gzip, deflate, br, zstd", "identity"):
        for path in paths:
            connection.request("GET", path, headers={"Host": HOST, "Accept-Encoding": encodings})
            answer = connection.getresponse()
            body = answer.read()
            found[path].add(gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body)
    connection.close()
    return found


async def probed(origin: Versions, outer: Cache, paths: Sequence[str]) -> dict[str, Probe]:
    """Probe these paths at the cache next to the visitors."""
    here = Edge("127.0.0.1", outer.port)
    async with Prober(sites=[SITE], stated=[here], per_minute=60_000, clock=SystemClock()) as prober:
        return {path: await prober.probe(SITE + path[1:], origin.expected(path), edge=here) for path in paths}


async def test_planted_copies_are_found(
    row: tuple[Versions, list[Cache]], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Half of the objects change at the origin; nothing is purged. Then all is, from the inside out."""
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    origin, caches = row
    paths = [f"/{kind}/{number}.txt" for kind in KINDS for number in range(OF_A_KIND)]
    for _ in range(2):
        visited(caches[-1], paths)
    changed = {path for path in paths if int(path.rpartition("/")[2].partition(".")[0]) % 2}
    origin.change(*changed)
    planted = await compared(origin, caches[-1], paths)
    assert len(planted) >= (len(KINDS) - 1) * OF_A_KIND // 2, planted
    for kind, one in zip(request.node.callspec.params["row"], caches, strict=True):
        target = HttpPurge("edge", HttpPurge.Settings(servers=[one.address], preset=kind))
        try:
            for path in changed:
                await target.submit(RefreshKind.FILE, [SITE + path[1:]], force=True, token="0" * 32)
        finally:
            await target.close()
    assert len(await compared(origin, caches[-1], paths)) <= OF_A_KIND  # nginx purges one variant of several


async def compared(origin: Versions, outer: Cache, paths: Sequence[str]) -> set[str]:
    """Compare the verdicts with what visitors get; return what is stale."""
    probes = await probed(origin, outer, paths)
    bodies = visited(outer, paths)
    stale = {path for path in paths if bodies[path] != {origin.body(path)}}
    found = {path: (probe.verdict.state, path in stale, probe) for path, probe in probes.items()}
    assert not [one for one in found.values() if one[0] == "stale" and not one[1]]
    assert not [one for one in found.values() if one[0] == "fresh" and one[1]]
    undecided = {path: probe.verdict.reason for path, (state, _, probe) in found.items() if state == "unknown"}
    assert all(path.startswith(("/bare/", "/deleted/")) or path not in stale for path in undecided), undecided
    assert len(undecided) <= 2 * OF_A_KIND, undecided
    assert all(undecided.values())
    return stale
