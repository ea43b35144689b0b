"""A source: a log to which a publishing system appends one JSON object for each change."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from listener.change import Change, ChangeKind
from listener.contracts import Check, CheckState, Delivery, IndexView, SourceBase, SourceState, Unreadable
from listener.errors import SourceUnavailable
from listener.settings import Section

READ_BYTES = 1024 * 1024
"""Read at once; a longer line cannot be parsed."""


class Position(NamedTuple):
    """How far the log was read."""

    inode: int = 0
    offset_bytes: int = 0


class JsonLog(SourceBase):
    """Lines such as ``{"key": "news/1.html"}`` and ``{"key": "news/2.html", "deleted": true}``."""

    class Settings(Section):
        """``[sources.NAME]`` with ``type = "json-log"``."""

        path: str
        """The log. How far it was read is kept next to it, in a file whose name ends with ``.position``."""
        poll_seconds: Annotated[float, Field(ge=0.01, le=60)] = 1.0
        """How often the log is read."""

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """Yield what is appended, for ever."""
        loop = asyncio.get_running_loop()
        try:
            position = await asyncio.to_thread(self._load_position)
            while True:
                data, position = await asyncio.to_thread(self._read, position)
                self.health.state, self.health.ready = SourceState.LISTENING, True
                self.health.progressed(loop.time())
                if data:
                    changes, unreadable = self._parse(data)
                    yield Delivery(changes, partial(self._acknowledge, position), unreadable=unreadable)
                else:
                    await asyncio.sleep(self.settings.poll_seconds)
        finally:
            self.health.state, self.health.ready = SourceState.STOPPED, False

    async def _acknowledge(self, position: Position) -> None:
        """The changes are durable: after a restart, read on from here."""
        await asyncio.to_thread(self._save_position, position)

    def _read(self, position: Position) -> tuple[bytes, Position]:
        """Return the next whole lines, and the position after them."""
        try:
            with open(self.settings.path, "rb") as log:
                status = os.fstat(log.fileno())
                if status.st_ino != position.inode or status.st_size < position.offset_bytes:
                    position = Position(status.st_ino, 0)  # another log, from its beginning
                log.seek(position.offset_bytes)
                data = log.read(READ_BYTES)
        except OSError as error:
            raise SourceUnavailable(
                f"sources.{self.name}.path: cannot read {self.settings.path}: {error.strerror}",
                hint="create the file, or allow this user to read it",
            ) from error
        if len(data) < READ_BYTES or b"\n" in data:
            data = data[: data.rfind(b"\n") + 1]  # the last line may still be written
        return data, position._replace(offset_bytes=position.offset_bytes + len(data))

    def _parse(self, data: bytes) -> tuple[list[Change], list[Unreadable]]:
        changes: list[Change] = []
        unreadable: list[Unreadable] = []
        for line in filter(None, data.split(b"\n")):
            try:
                entry = json.loads(line)
                key, deleted = entry["key"], entry.get("deleted", False)
                if not isinstance(key, str) or not key:
                    raise ValueError("key is no text")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                subject = hashlib.sha256(line).hexdigest().encode()
                unreadable.append(Unreadable(subject, line, f"no change: {type(error).__name__} {error}"))
            else:
                kind = ChangeKind.DELETED if deleted else ChangeKind.CONTENT
                changes.append(Change(self.name, key, kind))
        return changes, unreadable

    def _load_position(self) -> Position:
        try:
            return Position(*json.loads(self._position_file.read_text()))
        except (OSError, ValueError, TypeError):
            return Position()  # from the beginning: a change that was seen before costs a refresh, a lost one staleness

    def _save_position(self, position: Position) -> None:
        temporary = self._position_file.with_suffix(".new")
        temporary.write_text(json.dumps(position))
        temporary.replace(self._position_file)

    @property
    def _position_file(self) -> Path:
        return Path(f"{self.settings.path}.position")

    async def check(self) -> Sequence[Check]:
        """Read the log."""
        subject = f"sources.{self.name}.path"
        try:
            await asyncio.to_thread(self._read, Position())
        except SourceUnavailable as error:
            return [Check(subject, CheckState.FAILED, str(error), error.hint)]
        if not os.access(Path(self.settings.path).parent, os.W_OK):
            hint = "allow this user to write the .position file, or every line is read again after a restart"
            return [Check(subject, CheckState.WARNING, "the log's directory is not writable", hint)]
        return [Check(subject, CheckState.OK, f"{self.settings.path} can be read")]
