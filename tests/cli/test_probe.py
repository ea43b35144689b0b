"""``cdn-listener probe``: one URL in every place, the verdict, and what to do."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from listener.edge import prober
from tests.stand import Stand, fetch

pytestmark = pytest.mark.looptime(False)
Command = Callable[..., tuple[int, str, str]]
LONG_AGO = 1_700_000_000


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shortly before a stale URL is requested again."""
    monkeypatch.setattr(prober, "AGAIN_SECONDS", 0.01)


def write(stand: Stand, key: str, text: str, at: int = LONG_AGO) -> None:
    """Write a file of this time."""
    stand.write(key, text)
    os.utime(stand.tree / key, (at, at))


@contextmanager
def a_server(body: bytes, at: int, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Serve one body for every path, last modified then; yield its address, and the hosts that were requested."""
    hosts: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", formatdate(at, usegmt=True))
            self.send_header("X-Cache", "HIT from pop\x7f1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", hosts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def probed(command: Command, *arguments: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Return the exit status, the first URL, and its places by name."""
    status, out, _ = command("probe", *arguments, "--json")
    (first, *_) = json.loads(out)["urls"]
    return status, first, {one["place"]: one for one in first["places"]}


def test_a_fresh_url(stand: Stand, command: Command) -> None:
    """By its key, its path or its URL; each place has what it holds."""
    write(stand, "d/a b.html", "one")
    assert fetch(stand.url("d/a b.html"))[0] == 200
    for what in ("d/a b.html", str(stand.tree / "d/a b.html"), stand.url("d/a b.html")):
        status, found, places = probed(command, what)
        assert (status, found["state"], found["remedy"]) == (0, "fresh", "")
        assert (found["key"], found["url"]) == ("d/a b.html", stand.url("d/a b.html"))
    assert list(places) == ["storage", "index", "edge"]
    assert (places["storage"]["size_bytes"], places["storage"]["modified_at"]) == (3, LONG_AGO)
    assert places["index"]["reason"] == "no state file"
    assert (places["edge"]["status"], places["edge"]["state"]) == (200, "fresh")
    assert {"name": "x-cache", "value": "HIT"} in places["edge"]["evidence"]
    assert stand.paths() == []


def test_a_stale_url(stand: Stand, command: Command) -> None:
    """What the edge serves, and how to refresh it."""
    write(stand, "a.html", "one")
    assert fetch(stand.url("a.html"))[1] == "one"
    write(stand, "a.html", "three", LONG_AGO + 60)
    status, out, _ = command("probe", "a.html")
    assert status == 3
    assert f"{stand.url('a.html')}: stale" in out
    assert "3 bytes, and the storage has 5" in out
    assert f"refresh it: cdn-listener refresh {stand.url('a.html')}" in out


def test_a_change_that_was_missed(stand: Stand, command: Command) -> None:
    """The index holds the old state: a repair is what helps."""
    write(stand, "a.html", "one")
    assert command("backfill", "--mode", "seed", "--yes")[0] == 0
    assert fetch(stand.url("a.html"))[1] == "one"
    assert probed(command, "a.html")[2]["index"]["size_bytes"] == 3
    write(stand, "a.html", "three", LONG_AGO + 60)
    status, found, _ = probed(command, "a.html")
    assert status == 3
    assert "--mode repair" in found["remedy"]


def test_a_deleted_file(stand: Stand, command: Command) -> None:
    """Its copy is stale, and once the edge answers 404 it is fresh."""
    write(stand, "a.txt", "one")
    assert fetch(stand.url("a.txt"))[0] == 200
    assert command("backfill", "--mode", "seed", "--yes")[0] == 0
    (stand.tree / "a.txt").unlink()
    status, found, places = probed(command, "a.txt")
    assert (status, found["state"]) == (3, "stale")
    assert places["edge"]["reason"] == "still serves what was deleted"
    assert places["storage"]["reason"] == "it is not there"
    status, found, _ = probed(command, "never.txt")
    assert (status, found["state"]) == (0, "fresh")


def test_each_edge_and_the_origin(stand: Stand, command: Command) -> None:
    """With the host of the site; one that is stale decides."""
    write(stand, "a.html", "three", LONG_AGO + 60)
    with a_server(b"one", LONG_AGO) as (old, hosts), a_server(b"three", LONG_AGO + 60) as (new, _):
        status, found, places = probed(command, "a.html", "--edge", new, "--edge", old)
        assert (status, found["state"]) == (3, "stale")
        assert [places[name]["state"] for name in ("edge", f"edge {new}", f"edge {old}")] == ["fresh", "fresh", "stale"]
        assert set(hosts) == {stand.edge.removeprefix("http://")}
        assert {"name": "x-cache", "value": "HIT from pop\\x7f1"} in places[f"edge {old}"]["evidence"]
        stand.configure(f'[verifier.edge]\nedges = ["{new}"]\n', site=f'origin_url = "http://{old}/"')
        status, found, places = probed(command, "a.html")
        assert list(places) == ["storage", "index", "origin", "edge", f"edge {new}"]
        assert (status, places["origin"]["state"]) == (0, "stale")
        status, found, _ = probed(command, "a.html", "--edge", old)
        assert (status, found["state"]) == (3, "stale")
        assert "the origin serves the old copy" in found["remedy"]
        assert set(hosts) == {stand.edge.removeprefix("http://")}


def test_each_url_of_a_key(stand: Stand, command: Command) -> None:
    """A folder's page has two."""
    write(stand, "d/index.html", "one")
    out = json.loads(command("probe", "d/index.html", "--json")[1])
    assert [one["url"] for one in out["urls"]] == [stand.url("d/index.html"), stand.url("d/")]


def test_what_is_undecided_is_not_fresh(stand: Stand, command: Command) -> None:
    """An error of one edge, with its reason."""
    write(stand, "a.html", "one")
    with a_server(b"", LONG_AGO, 503) as (broken, _):
        status, found, places = probed(command, "a.html", "--edge", broken)
    assert (status, found["state"], places[f"edge {broken}"]["reason"]) == (3, "unknown", "answers 503")


def test_the_key_that_a_url_stands_for(stand: Stand, command: Command) -> None:
    """Of several the one that is there."""
    stand.configure(site='strip_suffixes = [".html"]')
    write(stand, "about.html", "one")
    assert probed(command, stand.url("about"))[1]["key"] == "about.html"


def test_no_edge_answers(stand: Stand, command: Command) -> None:
    """Exit status 1, with the reason; what is undecided is 3, never 0."""
    write(stand, "a.html", "one")
    stand.put(stand.config.read_text().replace(stand.edge, "http://127.0.0.1:9"))
    status, out, _ = command("probe", "a.html")
    assert status == 1
    assert "cannot be decided" in out
    assert "no answer" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("https://elsewhere.example/a",), "is not below any site's base URL"),
        (("a.html", "--edge", "pop.example.com"), "write an IP address"),
        (("x.map",), "no site serves it"),
    ],
)
def test_what_cannot_be_probed(stand: Stand, command: Command, arguments: tuple[str, ...], message: str) -> None:
    """Nothing is requested."""
    stand.configure(site='exclude = ["**/*.map"]')
    status, _, err = command("probe", *arguments)
    assert status == 2
    assert message in err


def test_settings_of_the_edge_are_checked(stand: Stand, command: Command, tmp_path: Path) -> None:
    """An address that is none, and an origin that is no URL."""
    stand.configure('[verifier.edge]\nedges = ["pop.example.com"]\n')
    assert "write an IP address" in command("probe", "a.html")[2]
    stand.configure(site='origin_url = "origin"')
    assert "origin_url" in command("probe", "a.html")[2]
