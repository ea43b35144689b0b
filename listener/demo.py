"""
The demo: a directory, a local CDN in front of it, and the listener between them, all in this process.

Each step changes the origin, checks that the edge still serves the old copy (otherwise the step would
prove nothing), and waits until the edge serves what the origin holds. Bodies and statuses are fetched
over HTTP and compared.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from listener.alibaba.signature import Credentials
from listener.contracts import Target
from listener.emulator import (
    CloudflareEmulator,
    CloudflareSettings,
    CloudFrontEmulator,
    CloudFrontSettings,
    DcdnEmulator,
    Emulator,
    EmulatorCore,
    EmulatorSettings,
    EsaEmulator,
    EsaSettings,
)
from listener.emulator.cloudfront import EXAMPLE, AccessKey
from listener.errors import ListenerError
from listener.extras import needing
from listener.pipeline import Pipeline, store_options
from listener.plugins import load_sources
from listener.refresh import RefreshKind
from listener.settings import Settings, parse_settings
from listener.store import Store, open_store
from listener.targets.alibaba_cdn import AlibabaCdn, AlibabaDcdn
from listener.targets.alibaba_esa import AlibabaEsa
from listener.targets.cloudflare import Cloudflare
from listener.targets.cloudfront import CloudFront

__all__ = ["run_demo"]

TASK_SECONDS = 0.3
FRESH_SECONDS = 10.0
"""The most that one step may take."""
MENDED_SECONDS = 30.0
"""The same for a stale point of presence, which is probed several times first."""
START_SECONDS = 60.0
"""The most that the start may take, on a slow or busy machine too; it usually takes less than a second."""
MISSING = (404, None)
Answer = tuple[int, str | None]
"""Status, and the body where the status is 200."""


class Step(NamedTuple):
    """One change at the origin."""

    what: str
    key: str
    """The key to print."""
    act: Callable[[], object]
    expected: Mapping[str, Answer]
    """What the edge must serve afterwards, by key; before, it serves something else."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The origin and a client of the edge."""

    origin: Path
    edge_url: str
    http: aiohttp.ClientSession

    def write(self, key: str, text: str) -> None:
        """Replace a file by a rename, as deployments do."""
        path = self.origin / key
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.part")
        draft.write_text(text, "utf-8")
        draft.replace(path)

    async def get(self, key: str) -> Answer:
        """Fetch a key from the edge."""
        url = URL(f"{self.edge_url}/{quote(key)}", encoded=True)
        async with self.http.get(url, allow_redirects=False) as response:
            return response.status, (await response.text() if response.status == 200 else None)

    async def served(self, expected: Mapping[str, Answer]) -> bool:
        """Return whether the edge serves exactly this."""
        return all([await self.get(key) == answer for key, answer in expected.items()])

    async def take(self, step: Step) -> float | None:
        """Take a step; return how many seconds the edge was stale, or None where it never was or stayed so."""
        if await self.served(step.expected):
            return None
        began = time.monotonic()
        await asyncio.to_thread(step.act)
        if any([await self.get(key) == answer for key, answer in step.expected.items()]):
            return None  # the edge was fresh without the listener
        while time.monotonic() - began < FRESH_SECONDS:
            if await self.served(step.expected):
                return time.monotonic() - began
            await asyncio.sleep(0.02)
        return None

    def steps(self) -> list[Step]:
        """Return the steps, in order."""
        return [
            Step("changed", "a.html", lambda: self.write("a.html", "a, second"), {"a.html": (200, "a, second")}),
            Step("created", "new.html", lambda: self.write("new.html", "new"), {"new.html": (200, "new")}),
            Step("deleted", "b.html", (self.origin / "b.html").unlink, {"b.html": MISSING}),
            Step(
                "renamed",
                "d.html",
                lambda: (self.origin / "c.html").rename(self.origin / "d.html"),
                {"c.html": MISSING, "d.html": (200, "c, first")},
            ),
            Step("changed", "日本.jpg", lambda: self.write("日本.jpg", "写真 2"), {"日本.jpg": (200, "写真 2")}),
        ]


class Cdn(NamedTuple):
    """A CDN of the demo."""

    emulator: EmulatorCore
    make_target: Callable[[], Target]
    """Called once the emulator has its address."""
    spent: Callable[[], Mapping[str, int]]
    """What was accepted, by what."""
    table: Callable[[str], dict[str, Any]] = lambda api_url: {"endpoint": api_url}
    """Its settings besides the type, given the address of the API."""


def _alibaba(
    origin: Path, *, points: int, emulate: type[Emulator] = Emulator, target: type[AlibabaCdn] = AlibabaCdn
) -> Cdn:
    credentials = Credentials("demo", secrets.token_hex(16))
    emulator = emulate(
        EmulatorSettings(
            origin=str(origin),
            credentials=credentials,
            api_port=0,
            edge_port=0,
            points=points,
            task_seconds=TASK_SECONDS,
        )
    )

    def make_target() -> Target:
        settings = target.Settings.model_validate({"endpoint": emulator.api_url})
        return target("cdn", settings, environment=_variables(credentials))  # type: ignore[arg-type]

    def spent() -> Mapping[str, int]:
        now, ledger = emulator.clock.now(), emulator.account.ledger
        return {"files": ledger.spent(RefreshKind.FILE, now), "directories": ledger.spent(RefreshKind.DIRECTORY, now)}

    return Cdn(emulator, make_target, spent)


def _esa(origin: Path, *, points: int) -> Cdn:
    credentials = Credentials("demo", secrets.token_hex(16))
    emulator = EsaEmulator(
        EsaSettings(
            origin=str(origin),
            credentials=credentials,
            api_port=0,
            edge_port=0,
            points=points,
            task_seconds=TASK_SECONDS,
        )
    )
    (site,) = emulator.sites

    def make_target() -> Any:
        settings = AlibabaEsa.Settings.model_validate({"endpoint": emulator.api_url, "site": site.site.name})
        return AlibabaEsa("cdn", settings, environment=_variables(credentials))  # type: ignore[arg-type]

    def spent() -> Mapping[str, int]:
        now = emulator.clock.now()
        kinds = {"files": RefreshKind.FILE, "directories": RefreshKind.DIRECTORY}
        return {name: site.ledger.spent(kind, now) for name, kind in kinds.items()}

    return Cdn(emulator, make_target, spent)


def _variables(credentials: Credentials) -> Mapping[str, str]:
    return {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": credentials.access_key_id,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": credentials.access_key_secret,
    }


def _cloudflare(origin: Path, *, points: int) -> Cdn:
    token = secrets.token_hex(16)
    emulator = CloudflareEmulator(
        CloudflareSettings(origin=str(origin), token=token, api_port=0, edge_port=0, points=points)
    )

    def make_target() -> Any:
        given = {"endpoint": emulator.api_url, "settles_after_seconds": TASK_SECONDS}
        settings = Cloudflare.Settings.model_validate(given)
        return Cloudflare("cdn", settings, environment={"CLOUDFLARE_API_TOKEN": token})  # type: ignore[arg-type]

    return Cdn(emulator, make_target, lambda: {name: emulator.purged[name] for name in ("files", "prefixes")})


def _cloudfront(origin: Path, *, points: int) -> Cdn:
    with needing("aws", what="the demo of CloudFront"):
        from botocore.credentials import ReadOnlyCredentials  # noqa: PLC0415

    key = AccessKey("AKIDEXAMPLE", secrets.token_hex(16))
    options = CloudFrontSettings(
        origin=str(origin), key=key, api_port=0, edge_port=0, points=points, task_seconds=TASK_SECONDS
    )
    emulator = CloudFrontEmulator(options)

    def make_target() -> Any:
        settings = CloudFront.Settings.model_validate(_cloudfront_table(emulator.api_url))
        return CloudFront("cdn", settings, key=ReadOnlyCredentials(*key, None))  # type: ignore[arg-type]

    def spent() -> Mapping[str, int]:
        return {"paths": emulator.account.months.total()}

    return Cdn(emulator, make_target, spent, _cloudfront_table)


def _cloudfront_table(api_url: str) -> dict[str, Any]:
    return {"distribution": EXAMPLE.id, "endpoint_url": api_url}


CDNS: Mapping[str, Callable[..., Cdn]] = {
    "alibaba-cdn": _alibaba,
    "alibaba-dcdn": partial(_alibaba, emulate=DcdnEmulator, target=AlibabaDcdn),
    "alibaba-esa": _esa,
    "cloudflare": _cloudflare,
    "cloudfront": _cloudfront,
}
"""By the ``type`` of the target."""


async def run_demo(report: Callable[[str], object], cdn: str = "alibaba-cdn", *, has_probes: bool = False) -> bool:
    """
    Run the demo with a CDN of :data:`CDNS` and report a line for each step; return whether every step turned fresh.

    With ``has_probes`` there is a second point of presence that ignores a refresh: that is found, and mended.

    Raise :class:`~listener.errors.ListenerError` when the listener is not ready within ``START_SECONDS``.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="cdn-listener-demo-"))
    try:
        return await _run(folder, report, cdn, points=2 if has_probes else 1)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _run(folder: Path, report: Callable[[str], object], name: str, *, points: int) -> bool:
    origin = folder / "origin"
    origin.mkdir()
    cdn = CDNS[name](origin, points=points)
    async with cdn.emulator as emulator, aiohttp.ClientSession() as http:
        demo = Demo(origin, emulator.edge_url, http)
        for key in ("a", "b", "c"):
            demo.write(f"{key}.html", f"{key}, first")
        demo.write("日本.jpg", "写真 1")
        async with _listening(_settings(folder, origin, name, cdn), cdn.make_target()) as store:
            steps = demo.steps()
            for key in {key for step in steps for key in step.expected} | {"a.html"}:
                await demo.get(key)  # the edge now caches each of them, and each 404
            fresh = True
            for step in steps:
                seconds = await demo.take(step)
                fresh &= seconds is not None
                result, took = ("stale", "") if seconds is None else ("fresh", f"  {seconds:.2f} s")
                report(f"{result}  {step.what}  {step.key}{took}")
            if points > 1:
                fresh &= await _mended(demo, cdn.emulator, report)
            report(await _spent(store, cdn))
            return fresh


async def _mended(demo: Demo, emulator: EmulatorCore, report: Callable[[str], object]) -> bool:
    """Let the last point of presence ignore one refresh; return whether it serves the change in the end."""
    *_, last = emulator.edge_urls
    host = {"Host": demo.edge_url.removeprefix("http://")}

    async def served() -> str:
        async with demo.http.get(f"{last}/a.html", headers=host) as response:
            return await response.text()

    await served()  # this point caches it, too
    emulator.faults.order(emulator.table.parse("edge-ignores:pop2,count=1"), emulator.clock.now())
    began = time.monotonic()
    await asyncio.to_thread(demo.write, "a.html", "a, third edition")
    while time.monotonic() - began < MENDED_SECONDS:
        if await demo.get("a.html") == (200, "a, third edition"):
            break
        await asyncio.sleep(0.02)
    if await served() == "a, third edition":
        report("stale  no point of presence ignored the refresh, so this step proves nothing")
        return False
    report("stale  a.html at pop2, which ignored the refresh")
    while time.monotonic() - began < MENDED_SECONDS:
        if await served() == "a, third edition":
            report(f"fresh  mended   a.html at pop2  {time.monotonic() - began:.2f} s")
            return True
        await asyncio.sleep(0.02)
    return False


def _settings(folder: Path, origin: Path, name: str, cdn: Cdn) -> Settings:
    emulator = cdn.emulator
    edges = [url.removeprefix("http://") for url in emulator.edge_urls]
    mode = "all" if len(edges) > 1 else "off"
    return parse_settings(
        {
            "store": {"url": f"sqlite:///{folder}/state.db"},
            "coalescer": {"quiet_seconds": 0.5},
            "verifier": {
                "first_seconds": TASK_SECONDS,
                "interval_seconds": 0.1,
                "edge": {"mode": mode, "after_seconds": 0.2, "per_minute": 6000, "edges": edges},
            },
            "sources": {"www": {"type": "filesystem", "path": str(origin)}},
            "targets": {"cdn": {"type": name, **cdn.table(emulator.api_url)}},
            "sites": [{"source": "www", "target": "cdn", "base_urls": [emulator.edge_url + "/"]}],
        },
        {},
    )


@asynccontextmanager
async def _listening(settings: Settings, target: Target) -> AsyncIterator[Store]:
    """Run the daemon's pipeline until the demo ends; start the demo once every source listens."""
    targets = {"cdn": target}
    options = store_options(settings, targets)
    async with open_store(settings.store.url, options=options, owner=True) as store:
        pipeline = Pipeline(settings, store, make_sources=lambda: load_sources(settings), targets=targets)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pipeline.run(), name="pipeline")
                try:
                    await _until_ready(pipeline)
                    yield store
                finally:
                    pipeline.stop()
        finally:
            await target.close()


async def _until_ready(pipeline: Pipeline) -> None:
    end = time.monotonic() + START_SECONDS
    while not pipeline.ready:
        if time.monotonic() > end:
            why = "; ".join(pipeline.troubles) or "still starting"
            hint = "run it again when the machine is less busy"
            raise ListenerError(f"the listener was not ready within {START_SECONDS:.0f} s: {why}", hint=hint)
        await asyncio.sleep(0.01)


async def _spent(store: Store, cdn: Cdn) -> str:
    """Return what the demo cost: requests as the store counts them, units as the emulator does."""
    calls = len({(attempt["kind"], attempt["sent_at"]) for attempt in await store.history(limit=1000)})
    return "  ".join([f"spent  {calls} calls", *(f"{units} {name}" for name, units in cdn.spent().items())])
