"""An API over HTTP: what every CDN's calls go through, and where faults break their connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog
from aiohttp import web

from listener.emulator.faults import FaultBook, Refusal
from listener.emulator.tasks import TaskRecord

__all__ = ["MAX_BODY_BYTES", "Accepted", "ApiCall", "ApiReply", "ApiServer", "Surroundings"]

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""1,000 paths of 1,024 characters, each as three characters in a form, and room to spare."""
HANG_SECONDS: Final = 3600.0
log = structlog.get_logger()


class ApiCall(Protocol):
    """A call whose sender is known."""

    @property
    def action(self) -> str:
        """What faults name it by."""
        ...


CallT = TypeVar("CallT", bound=ApiCall)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A request that changes something, as it was accepted."""

    records: Sequence[TaskRecord]
    line: Mapping[str, Any]
    """For the journal."""


@dataclass(frozen=True, slots=True)
class ApiReply:
    """The body of an answer, and what was accepted."""

    body: Mapping[str, Any]
    accepted: Accepted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The emulator around an API."""

    faults: FaultBook
    now: Callable[[], float]
    settled: Callable[[], Awaitable[None]]
    """Applies finished tasks, prefetches included."""
    accepted: Callable[[Accepted], None]
    """Called before the answer is sent."""


class ApiServer(ABC, Generic[CallT]):
    """Answers calls; a CDN says how it knows their sender, what it answers, and what its refusals look like."""

    def __init__(self, around: Surroundings) -> None:
        """Keep what is around it."""
        self.faults = around.faults
        self.now = around.now
        self._around = around

    @abstractmethod
    async def admit(self, request: web.Request) -> CallT:
        """Return the call that a request makes. Raise :class:`Refusal`."""

    @abstractmethod
    def fail(self, call: CallT) -> None:
        """Raise :class:`Refusal` where a fault of this CDN demands it."""

    @abstractmethod
    def answer(self, call: CallT, request_id: str) -> ApiReply:
        """Execute the call. Raise :class:`Refusal`, having changed nothing."""

    @abstractmethod
    def refuse(self, refusal: Refusal, request_id: str) -> web.Response:
        """Return the answer that says so."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        request_id = str(uuid.uuid4()).upper()
        try:
            call = await self.admit(request)
            await self._slow(call.action)
            if self.faults.take("reset", self.now(), action=call.action):
                return _reset(request)
            self.fail(call)
            await self._around.settled()
            reply = self.answer(call, request_id)
        except Refusal as refusal:
            log.info("emulator.rejected", code=refusal.code, status=refusal.status, request_id=request_id)
            return self.refuse(refusal, request_id)
        if reply.accepted is not None:
            self._around.accepted(reply.accepted)
        return await self._answered(request, call, reply, request_id)

    def respond(self, reply: ApiReply, request_id: str) -> web.Response:  # noqa: ARG002 - some CDNs send it in the body
        """Return the answer to a call that was executed."""
        return self.json(200, reply.body)

    def json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
        """Return an answer with the emulator's own time, so that a client can measure how far off it is."""
        return web.json_response(body, status=status, headers=self._dated(headers))

    def xml(self, status: int, document: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
        """Return a document in the same way."""
        return web.Response(body=document, status=status, headers=self._dated(headers), content_type="text/xml")

    def _dated(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        return {"Date": formatdate(self.now(), usegmt=True), **(headers or {})}

    async def _slow(self, action: str) -> None:
        seconds = self.faults.seconds("slow", self.now(), action=action)
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _answered(
        self, request: web.Request, call: CallT, reply: ApiReply, request_id: str
    ) -> web.StreamResponse:
        if self.faults.take("accept-then-reset", self.now(), action=call.action):
            return _reset(request)
        if self.faults.take("accept-then-timeout", self.now(), action=call.action):
            await asyncio.sleep(HANG_SECONDS)
        return self.respond(reply, request_id)


def _reset(request: web.Request) -> web.Response:
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Lingering for no time makes the kernel send RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)
