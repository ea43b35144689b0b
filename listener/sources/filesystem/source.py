"""The filesystem source: a tree of files, listened to and compared with the index."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import ClassVar

import structlog
from pydantic import BaseModel

from listener.contracts import Check, CheckState, Delivery, IndexView, SourceHealth, SourceState
from listener.errors import ConfigurationError, SourceUnavailable
from listener.sources.filesystem.access import access_hint
from listener.sources.filesystem.fanotify import refusal
from listener.sources.filesystem.ignored import ignored_paths
from listener.sources.filesystem.probes import choose_backend, probe
from listener.sources.filesystem.session import Session
from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.trouble import open_hint
from listener.sources.filesystem.watches import Watches

__all__ = ["FilesystemSource"]

_log = structlog.get_logger()


class FilesystemSource:
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are paths below ``path``."""

    Settings: ClassVar[type[BaseModel]] = FilesystemSettings

    def __init__(self, name: str, settings: FilesystemSettings) -> None:
        """Keep the settings; touch nothing."""
        self.name = name
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()
        self._settings = settings
        self._session: Session | None = None

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """
        Yield what differs from the index, then what changes; wait, degraded, while the path cannot be read.

        Raise :class:`~listener.errors.ConfigurationError` when the configured backend is refused at the start, and
        :class:`~listener.errors.SourceUnavailable` when it is refused for a path that came later.
        """
        refused_error = SourceUnavailable if await self._wait_for_path() else ConfigurationError
        backend, why = await asyncio.to_thread(choose_backend, self._settings)
        refused = await asyncio.to_thread(refusal, self._settings.path) if backend == "fanotify" else None
        if refused is not None:
            raise refused_error(f"sources.{self.name}.backend: {refused}", hint=refused.hint)
        _log.info("filesystem.backend_chosen", source=self.name, backend=backend, reason=why)
        self._session = Session(
            name=self.name, settings=self._settings, backend=backend, health=self.health, index=index
        )
        try:
            async with aclosing(self._session.run()) as found:
                async for delivery in found:
                    yield delivery
        except OSError as error:
            self.health.state, self.health.detail = SourceState.FAILED, str(error)
            raise SourceUnavailable(f"{self._key}: {error}", hint=open_hint(error)) from error
        except BaseException as error:
            self.health.state = SourceState.STOPPED if isinstance(error, _ENDS) else SourceState.FAILED
            raise
        finally:
            self.health.ready = False

    def watches(self) -> Watches | None:
        """Return what is watched at present, for tests and for telling; ``None`` while nothing is."""
        return self._session.watches if self._session else None

    @property
    def compares(self) -> bool:
        """Whether the first scan is over and recorded, so that what changes is compared with the index."""
        return self._session is not None and self._session.compares

    def unfinished(self) -> int:
        """Return how many files are held because they may still be written to."""
        return self._session.unfinished if self._session else 0

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Yield every path that is left out, with the pattern that leaves it out; blocking."""
        return ignored_paths(self._settings)

    def confirm_deletions(self) -> None:
        """Take what the deletion guard holds back for really deleted, once."""
        if self._session is not None:
            self._session.confirm_deletions()

    def rescan(self, reason: str) -> None:
        """Have the whole tree compared with the index soon; ``reason`` is what the log will say."""
        if self._session is not None:
            self._session.rescan(reason)

    async def check(self) -> Sequence[Check]:
        """Look whether the path can be read, which backend serves it, and whether the kernel's limits suffice."""
        try:
            await asyncio.to_thread(self._probe_path)
        except SourceUnavailable as error:
            return [Check(self._key, CheckState.FAILED, str(error).removeprefix(f"{self._key}: "), error.hint)]
        found = await asyncio.to_thread(lambda: list(probe(self._key, self._settings)))
        return [Check(self._key, CheckState.OK, f"{self._settings.path} can be read"), *found]

    @property
    def _key(self) -> str:
        return f"sources.{self.name}.path"

    async def _wait_for_path(self) -> bool:
        """Return once the path can be read; whether it had to be waited for. A mount or a first deploy may be late."""
        waited = False
        while True:
            self.health.progressed(time.monotonic())
            try:
                await asyncio.to_thread(self._probe_path)
            except SourceUnavailable as error:
                waited = True
                detail = f"{error}; {error.hint}"
                if detail != self.health.detail:
                    _log.warning("filesystem.degraded", source=self.name, detail=detail)
                self.health.state, self.health.ready, self.health.detail = SourceState.DEGRADED, False, detail
            else:
                self.health.detail = ""
                return waited
            await asyncio.sleep(self._settings.root_check_seconds)

    def _probe_path(self) -> None:
        """Raise :class:`~listener.errors.SourceUnavailable` while the path cannot be read. Blocking."""
        path = self._settings.path
        try:
            with os.scandir(path):
                pass
        except FileNotFoundError:
            raise self._wrong("does not exist", "create the directory, or correct the path") from None
        except NotADirectoryError:
            raise self._wrong("is not a directory", "name the directory that holds the files") from None
        except PermissionError:
            raise self._wrong("cannot be read", f"let {_reader()} read and enter it and what is below") from None
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror}", "look at the mount") from None
        if not os.access(path, os.X_OK):
            raise self._wrong("cannot be entered", f"give {_reader()} the right to enter it (x)")

    def _wrong(self, what: str, hint: str) -> SourceUnavailable:
        path = self._settings.path
        return SourceUnavailable(f"{self._key}: {path} {what}", hint=access_hint(path, hint))


def _reader() -> str:
    """Return who reads, for hints; the number of a dynamic user is another one at the next start."""
    user = os.geteuid()
    return "the user of the unit" if user in _DYNAMIC_USERS else f"user {user}"


_DYNAMIC_USERS = range(61184, 65520)
"""Of systemd's DynamicUser= (systemd.exec(5))."""
_ENDS = (asyncio.CancelledError, GeneratorExit)
