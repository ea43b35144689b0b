"""A probe requests what a visitor gets, reaches nothing else, and carries no secret."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from listener.change import Fingerprint
from listener.edge import prober as module
from listener.edge.prober import NoAnswer, Prober
from listener.edge.reach import GuardedResolver, is_public
from listener.edge.verdict import Expected
from listener.settings.edge import Edge, edge_of
from tests.edge.scripted import a_prober, an_edge
from tests.sources.webhook.hooks import write_tls

pytestmark = pytest.mark.looptime(False)
NEW, OLD = "0" * 32, "1" * 32
HELD = Expected(Fingerprint(3, etag=NEW))
HERE = Edge("127.0.0.1")


def with_tag(tag: str, **headers: str) -> web.Response:
    """Return the object with a tag."""
    return web.Response(body=b"one", headers={"ETag": f'"{tag}"', **headers})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shortly before a stale URL is requested again."""
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)


async def test_an_equal_copy_costs_no_body() -> None:
    """A GET of the first byte with the tag; the answer 304 is proof."""

    async def script(request: web.BaseRequest) -> web.Response:
        return web.Response(status=304) if request.headers["If-None-Match"] == f'"{NEW}"' else with_tag(OLD)

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        probe = await prober.probe(f"{edge.url}a%20b?x=%2F", HELD)
        ((method, path, headers),) = edge.requests
    assert (probe.verdict.state, probe.verdict.reason) == ("fresh", "the tags are equal")
    assert (method, path, headers["range"]) == ("GET", "/a%20b?x=%2F", "bytes=0-0")
    assert headers["host"] == f"127.0.0.1:{edge.port}"


async def test_only_what_any_visitor_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cookie that was set, no password that the machine has for the host."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    async def script(_: web.BaseRequest) -> web.Response:
        return with_tag(NEW, **{"Set-Cookie": "session=1"})

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        for _ in range(2):
            assert (await prober.probe(f"{edge.url}a", HELD)).verdict.state == "fresh"
    for _, _, headers in edge.requests:
        assert headers.keys() == {"host", "user-agent", "accept", "accept-encoding", "range", "if-none-match"}


async def test_a_redirect_is_not_followed() -> None:
    """It is unknown, and named; nothing else is requested."""

    async def script(request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": "/b"})

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        probe = await prober.probe(f"{edge.url}a", HELD)
    assert (probe.verdict.state, edge.paths) == ("unknown", ["/a"])
    assert "redirect to /b" in probe.verdict.reason


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that accepts and does not answer is unknown."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)

    async def script(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        began = time.monotonic()
        probe = await prober.probe(f"{edge.url}a", HELD)
    assert time.monotonic() - began < 30
    assert (probe.verdict.state, probe.answer) == ("unknown", None)
    assert probe.verdict.reason.startswith("no answer")


async def test_a_body_that_does_not_end_is_left() -> None:
    """Of a server that ignores the range; the connection is closed."""
    written, ended = 0, asyncio.Event()

    async def script(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"ETag": f'"{NEW}"'})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
                written += 65536
        finally:
            ended.set()

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        assert (await prober.probe(f"{edge.url}a", HELD)).verdict.state == "fresh"
        await asyncio.wait_for(ended.wait(), 60)
    assert written < 50_000_000


async def test_an_empty_object_is_requested_whole() -> None:
    """No byte of it can be served."""

    async def script(request: web.BaseRequest) -> web.Response:
        if "Range" in request.headers:
            return web.Response(status=416, headers={"Content-Range": "bytes */0"})
        return web.Response(headers={"Last-Modified": formatdate(1000, usegmt=True)})

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        probe = await prober.probe(f"{edge.url}a", Expected(Fingerprint(0, 1000 * 10**9)))
    assert (probe.verdict.state, len(edge.requests)) == ("fresh", 2)


@pytest.mark.parametrize("is_stale_compressed", [True, False])
async def test_each_variant_by_compression(is_stale_compressed: bool) -> None:
    """One of the two is stale: the compressed one, which most visitors get, or the plain one."""

    async def script(request: web.BaseRequest) -> web.Response:
        is_compressed = "gzip" in request.headers["Accept-Encoding"]
        return with_tag(OLD if is_compressed is is_stale_compressed else NEW, Vary="Accept-Encoding")

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        assert (await prober.probe(f"{edge.url}a", HELD)).verdict.state == "stale"


async def test_a_soft_purge_serves_the_old_copy_once_more() -> None:
    """What the second request gets counts; what is stale then, too, is stale."""

    async def softly(_: web.BaseRequest) -> web.Response:
        return with_tag(OLD if len(edge.requests) == 1 else NEW)

    async def stale(_: web.BaseRequest) -> web.Response:
        return with_tag(OLD)

    async with an_edge(softly) as edge, a_prober(edge.url) as prober:
        probe = await prober.probe(f"{edge.url}a", HELD)
    assert probe.verdict.state == "fresh"
    assert "soft purge" in probe.verdict.reason
    async with an_edge(stale) as edge, a_prober(edge.url) as prober:
        assert (await prober.probe(f"{edge.url}a", HELD)).verdict == ("stale", "the tags differ")
        assert len(edge.requests) == 2


@pytest.mark.parametrize(("answers_all", "state"), [(True, "unknown"), (False, "stale")])
async def test_whether_a_site_answers_every_url(answers_all: bool, state: str) -> None:
    """A deleted page that is answered with a page: a name that never was decides."""

    async def script(request: web.BaseRequest) -> web.Response:
        is_there = answers_all or request.path == "/d/a.html"
        return web.Response(status=200 if is_there else 404, body=b"page", content_type="text/html")

    async with an_edge(script) as edge, a_prober(edge.url) as prober:
        probe = await prober.probe(f"{edge.url}d/a.html", Expected(is_deleted=True))
    assert probe.verdict.state == state
    name = edge.paths[1]
    assert name.startswith("/d/cdn-listener-")
    assert name.endswith(".html")


async def test_a_stated_address_is_asked_with_the_host_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Host and in TLS, at the port of the URL."""
    certificate, key = write_tls(tmp_path, name="www.example.com")
    names: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)

    async def script(_: web.BaseRequest) -> web.Response:
        return with_tag(NEW)

    async with an_edge(script, tls=tls) as edge:
        site = f"https://www.example.com:{edge.port}/"
        async with a_prober(site, stated=[HERE]) as prober:
            probe = await prober.probe(f"{site}a", HELD, edge=HERE)
    assert probe.verdict.state == "fresh", probe
    assert names == ["www.example.com"]
    assert edge.requests[0][2]["host"] == f"www.example.com:{edge.port}"


async def test_a_stated_address_may_have_a_port() -> None:
    """Which is that of the edge, not of the site."""

    async def script(_: web.BaseRequest) -> web.Response:
        return with_tag(NEW)

    async with an_edge(script) as edge, a_prober("http://www.example.com/", stated=[HERE]) as prober:
        probe = await prober.probe("http://www.example.com/a", HELD, edge=Edge("127.0.0.1", edge.port))
    assert probe.verdict.state == "fresh"
    assert edge.requests[0][2]["host"] == "www.example.com"


async def test_nothing_else_is_reached() -> None:
    """No URL of another host or port, no address that was not stated, no private address behind a site's name."""

    async def script(_: web.BaseRequest) -> web.Response:
        return with_tag(NEW)

    async with an_edge(script) as edge:
        named = f"http://localhost:{edge.port}/"
        async with a_prober(named, "http://www.example.com/") as prober:
            for url, where in [
                (f"{edge.url}a", Edge()),
                ("http://www.example.com:81/a", Edge()),
                ("http://www.example.com/a", Edge("127.0.0.1", edge.port)),
            ]:
                with pytest.raises(NoAnswer, match="not a"):
                    await prober.ask(url, edge=where)
            with pytest.raises(NoAnswer, match=r"leads to .*, a private address; state it"):
                await prober.ask(f"{named}a")
        assert edge.requests == []
        async with a_prober(named, stated=[HERE]) as prober:
            assert (await prober.ask(f"{named}a")).tag == NEW
        async with a_prober("http://www.example.com/", origins=[named]) as prober:
            assert (await prober.ask(f"{named}a", host="www.example.com")).tag == NEW
        assert edge.requests[-1][2]["host"] == "www.example.com"


async def test_probes_use_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and at an address; the proxy itself may be anywhere."""

    async def script(_: web.BaseRequest) -> web.Response:
        return with_tag(NEW)

    async with an_edge(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://localhost:{proxy.port}")
        address = Edge("203.0.113.7")
        async with a_prober("http://www.example.com/", stated=[address]) as prober:
            await prober.ask("http://www.example.com/a")
            await prober.ask("http://www.example.com/a", edge=address)
    assert proxy.paths == ["http://www.example.com/a", "http://203.0.113.7/a"]
    assert {headers["host"] for _, _, headers in proxy.requests} == {"www.example.com"}


async def test_a_wrong_proxy_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each probe; nothing ends by it."""
    monkeypatch.setenv("http_proxy", "socks5://proxy.example.com")
    async with a_prober("http://www.example.com/") as prober:
        probe = await prober.probe("http://www.example.com/a", HELD)
    assert (probe.verdict.state, probe.answer) == ("unknown", None)
    assert "http_proxy: is not the URL of an HTTP proxy" in probe.verdict.reason


async def test_some_private_addresses_behind_a_name_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are used."""
    resolver = GuardedResolver(stated=["10.0.0.9"], trusted_names=())
    leads_to = ["10.0.0.8", "10.0.0.9", "203.0.113.7", "93.184.216.34", "169.254.169.254", "::1"]

    async def resolve(*_: object) -> list[dict[str, str]]:
        return [{"host": one} for one in leads_to]

    monkeypatch.setattr(resolver._inner, "resolve", resolve)
    assert [one["host"] for one in await resolver.resolve("a")] == ["10.0.0.9", "93.184.216.34"]
    await resolver.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("10.0.0.1", False), ("127.0.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:10.0.0.1", False), ("::ffff:93.184.216.34", True),
        ("64:ff9b::a00:1", False), ("64:ff9b::5db8:d822", True), ("2002:a00:1::", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    """Also those that are written within another."""
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("text", "edge"),
    [
        ("203.0.113.7", Edge("203.0.113.7")), ("203.0.113.7:8443", Edge("203.0.113.7", 8443)),
        ("2001:db8::1", Edge("2001:db8::1")), ("[2001:db8::1]", Edge("2001:db8::1")),
        ("[2001:db8::1]:8443", Edge("2001:db8::1", 8443)),
    ],
)  # fmt: skip
def test_addresses_of_edges(text: str, edge: Edge) -> None:
    """With and without a port."""
    assert edge_of(text) == edge
    assert edge_of(str(edge)) == edge


@pytest.mark.parametrize(
    "text", ["", "edge.example.com", "203.0.113.7:0", "203.0.113.7:x", "203.0.113.7:99999", "::1:"]
)
def test_what_is_no_address(text: str) -> None:
    """A name is none: where it leads is not stated."""
    with pytest.raises(ValueError, match="write an IP address"):
        edge_of(text)


@pytest.mark.looptime(True)
async def test_the_limit_holds() -> None:
    """In virtual time: so many a minute, whoever waits."""
    prober = Prober(sites=(), per_minute=60, clock=None)  # type: ignore[arg-type]
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(prober._turn() for _ in range(121)))
    assert asyncio.get_running_loop().time() - began == pytest.approx(120)
