"""A server that keeps every request as it came and answers, or fails, as instructed."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import parse_qsl, urlsplit

NOW = 1767323045.0  # 2026-01-02T03:04:05Z


@dataclass
class Received:
    """A request as it came in."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded query, blank values kept."""
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def form(self) -> list[tuple[str, str]]:
        """The decoded form."""
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    @property
    def params(self) -> dict[str, str]:
        """Query and form together."""
        return dict([*self.query, *self.form])

    def header(self, name: str) -> str | None:
        """Return the value of a header that came at most once."""
        (value,) = [value for key, value in self.headers if key.lower() == name] or [None]
        return value

    @property
    def action(self) -> str:
        """What was asked for, wherever the signature puts it."""
        return dict(self.query).get("Action") or self.header("x-acs-action") or ""


@dataclass
class Answer:
    """What to do with a request; ``fault`` is ``reset``, ``close``, ``hang``, or empty for an answer."""

    status: int = 200
    fields: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    fault: str = ""


def refused(code: str, status: int = 400, message: str = "words", **headers: str) -> Answer:
    """Return a refusal as the API makes it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Code": code, "Message": message, "RequestId": "R-1", "HostId": "h"}, names)


ACCEPTED = Answer(fields={"RefreshTaskId": "17", "RequestId": "R-0"})


class Api:
    """The server; ``answers`` are used up in turn, then ``default`` is given for ever."""

    def __init__(self) -> None:
        """Listen nowhere yet."""
        self.received: list[Received] = []
        self.times: list[float] = []
        self.answers: list[Answer] = []
        self.default: Answer | Callable[[Received], Answer] = ACCEPTED
        self.address = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:] if line)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        request = Received(method, target, headers, await reader.readexactly(length))
        self.received.append(request)
        self.times.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if self.answers else self.default
        return await self._act(answer if isinstance(answer, Answer) else answer(request), writer)

    async def _act(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        if answer.fault == "reset":
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        if answer.fault == "hang":
            await asyncio.Event().wait()
        if answer.fault:
            return False
        body = json.dumps(answer.fields).encode() if answer.raw is None else answer.raw
        date = format_datetime(datetime.fromtimestamp(NOW, UTC), usegmt=True)
        headers = {"Content-Type": "application/json", "Date": date, "Content-Length": str(len(body)), **answer.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {answer.status} X\r\n{lines}\r\n".encode() + body)
        await writer.drain()
        return True


class StandingClock:
    """A wall clock that stands where it is put."""

    def __init__(self, now: float = NOW) -> None:
        """Put it to a time."""
        self.time = now

    def now(self) -> float:
        """Return where it stands."""
        return self.time
