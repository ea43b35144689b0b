"""The sources and targets of this package pass the suites that third parties' plugins must pass."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from listener.alibaba.signature import Credentials
from listener.contracts import Target
from listener.emulator import (
    DcdnEmulator,
    Emulator,
    EmulatorCore,
    EmulatorSettings,
    EsaEmulator,
    EsaSettings,
    parse_site,
)
from listener.errors import BatchRejected, Misconfigured, OutcomeUnknown, QuotaExhausted
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.targets.alibaba_cdn import AlibabaCdn, AlibabaDcdn
from listener.targets.alibaba_esa import AlibabaEsa
from listener.testing import SourceConformance, TargetConformance

KEY_ID, SECRET = "testid", "testsecret-that-nobody-may-see"
KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": KEY_ID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": SECRET}


class TestFilesystemSource(SourceConformance):
    """A file tree."""

    def make_source(self, folder: Path) -> FilesystemSource:
        (folder / "www").mkdir(exist_ok=True)
        return FilesystemSource("www", FilesystemSettings(path=folder / "www", backend="inotify", stable_seconds=0.1))

    def make_broken_source(self, folder: Path) -> FilesystemSource:
        return FilesystemSource("www", FilesystemSettings(path=folder / "absent", backend="inotify"))

    async def change(self, folder: Path, key: str) -> None:
        path = folder / "www" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.read_text() + "more" if path.exists() else "one")

    async def delete(self, folder: Path, key: str) -> bool:
        path = folder / "www" / key
        if key.endswith("/"):
            shutil.rmtree(path)
        else:
            path.unlink()
        return True


class Cdn:
    """The emulator, as a service of the suite."""

    def __init__(self, emulator: EmulatorCore, make_target: Callable[[str], Target]) -> None:
        self._emulator = emulator
        self._make_target = make_target

    def make_target(self) -> Target:
        return self._make_target(self._emulator.api_url)

    def refreshed(self) -> list[str]:
        return [record.path for record in self._emulator.tasks.all()]

    def fail(self, failure: str) -> None:
        self._emulator.faults.order(self._emulator.table.parse(failure), self._emulator.clock.now())


class TestAlibabaCdn(TargetConformance):
    """Alibaba Cloud CDN, with the emulator behind it."""

    emulator: ClassVar[type[Emulator]] = Emulator
    target: ClassVar[type[AlibabaCdn]] = AlibabaCdn
    secrets = (SECRET,)
    lost_answer = "accept-then-reset:1"
    refused = "malformed:refused"
    failures: ClassVar = {
        "accept-then-reset": OutcomeUnknown,
        "domain-not-found:www.example.com": BatchRejected,
        "error:Forbidden.RAM": Misconfigured,
        "malformed:section": BatchRejected,
        "quota": QuotaExhausted,
    }

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Cdn]:
        settings = EmulatorSettings(
            origin=".",
            credentials=Credentials(KEY_ID, SECRET),
            api_port=0,
            edge_port=0,
            domains=("www.example.com",),
            task_seconds=0.1,
        )
        async with self.emulator(settings) as emulator:
            yield Cdn(emulator, self.make_target)

    def make_target(self, endpoint: str) -> AlibabaCdn:
        """Return a target that talks to this endpoint."""
        settings: Any = self.target.Settings.model_validate({"endpoint": endpoint})
        return self.target("cdn", settings, environment=KEYS)

    def make_unreachable_target(self) -> AlibabaCdn:
        return self.make_target("http://127.0.0.1:1")


class TestAlibabaDcdn(TestAlibabaCdn):
    """Alibaba Cloud DCDN, with its emulator behind it."""

    emulator = DcdnEmulator
    target = AlibabaDcdn


class TestAlibabaEsa(TargetConformance):
    """Alibaba Cloud ESA, with its emulator behind it."""

    secrets = (SECRET,)
    lost_answer = "accept-then-reset:1,action=PurgeCaches"
    refused = "malformed:refused"
    failures: ClassVar = {
        "accept-then-reset,action=PurgeCaches": OutcomeUnknown,
        "domain-not-found:www.example.com": BatchRejected,
        "error:Forbidden.RAM": Misconfigured,
        "error:SiteNotFound": Misconfigured,
        "malformed:section": BatchRejected,
        "quota": QuotaExhausted,
    }

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Cdn]:
        settings = EsaSettings(
            origin=".",
            credentials=Credentials(KEY_ID, SECRET),
            api_port=0,
            edge_port=0,
            sites=(parse_site("example.com"),),
            task_seconds=0.1,
        )
        async with EsaEmulator(settings) as emulator:
            yield Cdn(emulator, self.make_target)

    def make_target(self, endpoint: str) -> AlibabaEsa:
        """Return a target that talks to this endpoint."""
        settings = AlibabaEsa.Settings.model_validate({"endpoint": endpoint, "site": "example.com"})
        return AlibabaEsa("esa", settings, environment=KEYS)  # type: ignore[arg-type]

    def make_unreachable_target(self) -> AlibabaEsa:
        return self.make_target("http://127.0.0.1:1")
