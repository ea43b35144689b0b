"""The pages of docs/howto: each configuration is whole, and each command runs with a daemon and an emulated CDN."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from listener.plugins import load_sources, load_targets
from listener.settings import parse_settings
from tests import ROOT
from tests.stand import fetch, free_port, until
from tests.targets.http_purge.caches import cache, origin

pytestmark = pytest.mark.slow
PAGES = sorted((ROOT / "docs/howto").glob("*.md"))
PROGRAM = Path(sys.executable).parent
TOKEN = "0123456789abcdef0123456789abcdef"
STAND_INS = {
    "hugo": 'mkdir -p "$2/posts/a" && echo two > "$2/index.html" && echo same > "$2/posts/a/index.html"',
    "wp": "echo two > {root}/srv/wordpress/wp-content/uploads/2026/a-300x200.jpg",
}
"""Programs that pages call and that tests do not need for real: name and script."""
CONTENT = {
    "static-site": (
        "srv/releases/42/index.html",
        "srv/releases/42/posts/a/index.html",
        "srv/build/index.html",
        "srv/build/posts/a/index.html",
    ),
    "wordpress": ("srv/wordpress/wp-content/uploads/2026/a.jpg",),
    "package-mirror": ("srv/upstream/debian/dists/stable/InRelease", "srv/mirror/debian/pool/b/bad.deb"),
    "varnish": ("srv/www/news.html",),
    "many-sites": ("srv/shop/a.html", "srv/blog/a.html", "srv/docs/a.html", "srv/docs-next/b.html"),
    "ci-deploys": ("srv/build/a.html", "srv/build/b/c.html", "srv/www/a.html"),
}
"""Files that a page takes for granted."""
REFRESHED = {
    "ci-deploys": ("/b/c.html",),
    "many-sites": ("docs.example.com/b.html",),
    "oss-alibaba-cdn": ("/news/a.html",),
    "package-mirror": ("/dists/stable/InRelease", "/pool/b/bad.deb"),
    "s3-cloudfront": ("/news/a.html",),
    "static-site": ("www.example.com/index.html", "www.example.com/"),
    "varnish": ("/news.html",),
    "wordpress": ("/2026/11/hello/", "www.example.com/feed/"),
}
"""What the CDN is requested to drop once the commands of a page have run, among other things."""
UNCHANGED = {"static-site": "/posts/a/", "many-sites": "blog.example.com"}
"""What it is never requested to drop."""
FAST = {
    "COALESCER__QUIET_SECONDS": "0.2",
    "VERIFIER__FIRST_SECONDS": "0.2",
    "VERIFIER__INTERVAL_SECONDS": "0.1",
}
OF_SOURCES = {"filesystem": {"STABLE_SECONDS": "0.2"}, "webhook": {"TOKEN": TOKEN}, "sqs": {}, "mns": {}}
"""What makes each type of source quick and usable here."""
KEYS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "rehearsal",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "rehearsal",
    "AWS_ACCESS_KEY_ID": "rehearsal",
    "AWS_SECRET_ACCESS_KEY": "rehearsal",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@dataclass
class Place:
    """A folder in which the commands of a page run as a reader would run them."""

    root: Path
    variables: dict[str, str]
    ports: Mapping[str, int]
    texts: dict[str, str]

    def here(self, text: str) -> str:
        """Return the text with the folders and ports of this test."""
        for old, new in self.texts.items():
            text = text.replace(old, new)
        return text

    def run(self, script: str) -> str:
        """Run a block to its end; every command must succeed."""
        command = ["sh", "-ec", self.here(script)]
        done = subprocess.run(
            command, cwd=self.root, env=self.variables, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def accepted(self) -> str:
        """What the CDN accepted so far."""
        journal = self.root / "journal"
        return journal.read_text() if journal.exists() else ""


@contextmanager
def started(arguments: list[str], place: Place, is_up: Callable[[], bool]) -> Iterator[None]:
    """Run a program for as long as the block lasts, from when it is up."""
    log = place.root / f"{arguments[0]}.log"
    with log.open("w") as out:
        program = [str(PROGRAM / "cdn-listener"), *arguments]
        process = subprocess.Popen(program, cwd=place.root, env=place.variables, stdout=out, stderr=out)
    try:
        until(lambda: is_up() or process.poll() is not None, what=f"{arguments[0]} is up")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        process.wait(60)


def prepared(page: Path, root: Path) -> Place:
    """Write the page's configuration, what it takes for granted, and what joins it to the emulator."""
    name, table = page.stem, tomllib.loads(blocks(page, "toml")[0])
    stand_ins = root / "bin"
    stand_ins.mkdir()
    for program, script in STAND_INS.items():
        (stand_ins / program).write_text(f"#!/bin/sh\n{script.format(root=root)}\n")
        (stand_ins / program).chmod(0o755)
    for file in CONTENT.get(name, ()):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("same\n")
    if name == "static-site":
        (root / "srv/current").symlink_to(root / "srv/releases/42")
    ports = {one: free_port() for one in ("api", "edge", "admin", "hook")}
    settings = {**FAST, "STORE__URL": f"sqlite:///{root}/state.db", "ADMIN__LISTEN": f"127.0.0.1:{ports['admin']}"}
    endpoint = "ENDPOINT_URL" if table["targets"]["cdn"]["type"] == "cloudfront" else "ENDPOINT"
    settings[f"TARGETS__CDN__{endpoint}"] = f"http://127.0.0.1:{ports['api']}"
    for source, one in table["sources"].items():
        settings |= {f"SOURCES__{source.upper()}__{key}": value for key, value in OF_SOURCES[one["type"]].items()}
    variables = {**os.environ, **KEYS, **{f"LISTENER_{key}": value for key, value in settings.items()}}
    variables |= {"PATH": f"{stand_ins}:{PROGRAM}:{os.environ['PATH']}", "LISTENER_CONFIG": str(root / "listener.toml")}
    texts = {"/srv/": f"{root}/srv/", ":9181": f":{ports['hook']}"}
    return Place(root, {**variables, "TOKEN": TOKEN}, ports, texts)


@contextmanager
def installed(page: Path, root: Path, texts: Mapping[str, str] = MappingProxyType({})) -> Iterator[Place]:
    """Run an emulator of the page's CDN, and the daemon with the page's configuration."""
    place = prepared(page, root)
    place.texts |= texts
    text = blocks(page, "toml")[0]
    (root / "listener.toml").write_text(place.here(text))
    table = tomllib.loads(text)
    (root / "srv").mkdir(exist_ok=True)
    api, edge, admin = (f"127.0.0.1:{place.ports[one]}" for one in ("api", "edge", "admin"))
    emulate = ["emulate", "--cdn", table["targets"]["cdn"]["type"], "--origin", "srv", "--api", api, "--edge", edge]
    emulate += ["--task-seconds", "0.2", "--journal", "journal"]
    has_queue = any(one["type"] in ("sqs", "mns") for one in table["sources"].values())
    probe = "livez" if has_queue else "readyz"  # no queue is emulated here: its source is degraded
    with (
        started(emulate, place, lambda: fetch(f"http://{api}/_emulator")[0] == 200),
        started(["run"], place, lambda: fetch(f"http://{admin}/{probe}")[0] == 200),
    ):
        yield place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_configuration_is_whole(page: Path) -> None:
    """Accepted as it stands, with every plugin made; each page has one, the costs, and what to watch."""
    (text,) = blocks(page, "toml")
    secrets = {"LISTENER_SOURCES__HOOK__TOKEN": TOKEN} if "sources.hook" in text else {}
    settings = parse_settings(tomllib.loads(text), secrets)
    assert load_sources(settings)
    assert load_targets(settings)
    headings = re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE)
    assert [one for one in headings if one in ("What it costs", "What to watch")] == ["What it costs", "What to watch"]


@pytest.mark.parametrize("page", [one for one in PAGES if one.stem != "varnish"], ids=lambda page: page.stem)
def test_each_command_runs(page: Path, tmp_path: Path) -> None:
    """In the order of the page, while a daemon runs with its configuration; the CDN gets refreshes of them."""
    scripts = blocks(page, "sh")
    assert scripts
    with installed(page, tmp_path) as place:
        for script in scripts:
            place.run(script)
        until(lambda: all(one in place.accepted for one in REFRESHED[page.stem]), what=f"{REFRESHED[page.stem]}")
        assert page.stem not in UNCHANGED or UNCHANGED[page.stem] not in place.accepted


def test_each_command_runs_with_layers(tmp_path: Path, system_command: Callable[[str], str]) -> None:
    """A real Varnish drops its copy, and the CDN after it."""
    (page,) = (one for one in PAGES if one.stem == "varnish")
    with origin() as behind, cache("varnish", system_command, behind) as varnish:
        assert varnish.version("/news.html") == 1
        behind.version = 2
        with installed(page, tmp_path, {":6081": f":{varnish.port}"}) as place:
            for script in blocks(page, "sh"):
                place.run(script)
            assert REFRESHED[page.stem][0] in place.accepted
        assert varnish.version("/news.html") == 2
