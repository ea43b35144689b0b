"""An emulator over a directory, its clock in the test's hand, and clients that talk to it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl
from alibabacloud_cdn20180510 import models
from alibabacloud_cdn20180510.client import Client
from alibabacloud_tea_openapi.models import Config

from listener.alibaba.signature import Credentials, sign_acs3, sign_v1
from listener.emulator import Emulator, EmulatorSettings

KEY_ID, SECRET = "testid", "testsecret"
NOON = 1_767_326_400.0
"""2026-01-02T04:00:00Z, which is noon at UTC+8."""


@dataclass
class Hand:
    """A clock that moves when instructed."""

    time: float = NOON

    def now(self) -> float:
        return self.time


@dataclass
class World:
    """An emulator with all that a test reaches for."""

    emulator: Emulator
    clock: Hand
    tree: Path
    http: aiohttp.ClientSession

    @property
    def host(self) -> str:
        return self.emulator.edge_url.removeprefix("http://")

    def url(self, path: str) -> str:
        return self.emulator.edge_url + path

    def write(self, name: str, content: str = "one", *, mtime: float = NOON - 1000) -> Path:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (mtime, mtime))
        return path

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[str, int, str]:
        """Return ``X-Cache``, status and body of the edge's answer."""
        target = yarl.URL(self.url(path), encoded=True)
        async with self.http.request(method, target, headers=headers, allow_redirects=False) as response:
            return response.headers.get("X-Cache", ""), response.status, await response.text()

    async def call(self, action: str, *, version: str = "2018-05-10", **parameters: str) -> tuple[int, dict[str, Any]]:
        """Sign with the newer signature, call, and return status and body."""
        query = {} if action == "RefreshObjectCaches" else parameters
        form = parameters if action == "RefreshObjectCaches" else {}
        body = str(yarl.URL.build(query=form).raw_query_string).encode() if form else b""
        headers = sign_acs3(
            method="POST",
            host=self.emulator.api_url.removeprefix("http://"),
            action=action,
            version=version,
            query=query,
            body=body,
            content_type="application/x-www-form-urlencoded" if form else None,
            credentials=Credentials(KEY_ID, SECRET),
            now=self.emulator.clock.now(),
            nonce=os.urandom(8).hex(),
        )
        skip = ["Content-Type"] if not form else []
        async with self.http.post(
            self.emulator.api_url + "/", params=query, data=body, headers=headers, skip_auto_headers=skip
        ) as response:
            return response.status, await response.json()

    async def call_v1(
        self, action: str, *, version: str = "2014-11-11", **parameters: str
    ) -> tuple[int, dict[str, Any]]:
        """Sign with the older signature, everything in the query of a GET, and return status and body."""
        query = sign_v1(
            method="GET",
            action=action,
            version=version,
            query=parameters,
            form={},
            credentials=Credentials(KEY_ID, SECRET),
            now=self.emulator.clock.now(),
            nonce=os.urandom(8).hex(),
        )
        async with self.http.get(self.emulator.api_url + "/", params=query) as response:
            return response.status, await response.json()

    async def refresh(self, *paths: str, kind: str = "File", force: bool = False) -> str:
        """Refresh paths of the edge and return the task id."""
        lines = "\n".join(self.url(path) if path.startswith("/") else path for path in paths)
        status, body = await self.call("RefreshObjectCaches", ObjectPath=lines, ObjectType=kind, Force=str(force))
        assert status == 200, body
        return str(body["RefreshTaskId"])

    async def done(self, *paths: str, kind: str = "File", force: bool = False) -> None:
        """Refresh paths and let the task's time pass."""
        await self.refresh(*paths, kind=kind, force=force)
        self.clock.time += 2

    async def control(self, path: str = "", *, method: str = "GET", **body: Any) -> dict[str, Any]:
        url = f"{self.emulator.api_url}/_emulator{path}"
        async with self.http.request(method, url, json=body if method == "POST" else None) as response:
            return dict(await response.json())

    def sdk(
        self, *, signature: str | None = None, secret: str = SECRET, key_id: str = KEY_ID, client: Any = Client
    ) -> Any:
        """Return the vendor's own client; ``v2`` names the older signature there."""
        return client(
            Config(
                access_key_id=key_id,
                access_key_secret=secret,
                signature_algorithm=signature,
                endpoint=self.emulator.api_url.removeprefix("http://"),
                protocol="http",
            )
        )


MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
async def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeWorld]:
    """Make emulators, with settings by name and faults as texts; all are closed at the end."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    opened: list[Any] = []

    async def make(*faults: str, now: float = NOON, emulate: type[Emulator] = Emulator, **settings: Any) -> World:
        tree = tmp_path / "origin"
        tree.mkdir(exist_ok=True)
        clock = Hand(now)
        defaults = EmulatorSettings(
            origin=str(tree),
            credentials=Credentials(KEY_ID, SECRET),
            api_port=0,
            edge_port=0,
            clock=clock,
            faults=tuple(map(emulate.table.parse, faults)),
        )
        emulator = emulate(replace(defaults, **settings))
        await emulator.__aenter__()
        http = aiohttp.ClientSession()
        opened.append((emulator, http))
        return World(emulator, clock, tree, http)

    yield make
    for emulator, http in opened:
        await http.close()
        await emulator.__aexit__(None, None, None)


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """An emulator with default settings and a clock at noon."""
    return await make_world()


__all__ = ["KEY_ID", "NOON", "SECRET", "MakeWorld", "World", "models"]
