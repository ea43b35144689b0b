"""The API over HTTP: decodes calls, lets gate and account answer, and plays the faults that break connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from listener.emulator.actions import VERSIONS, Api, Call, Reply
from listener.emulator.faults import FaultBook
from listener.emulator.gate import Gate, Request
from listener.emulator.limits import CallRates
from listener.emulator.rejections import Rejection
from listener.emulator.tasks import TaskRecord

__all__ = ["MAX_BODY_BYTES", "ApiServer"]

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""1,000 paths of 1,024 characters, each as three characters in a form, and room to spare."""
HANG_SECONDS: Final = 3600.0
FORM: Final = "application/x-www-form-urlencoded"
HOST_ID: Final = "cdn-listener-emulator"
HELP_PAGE: Final = "https://next.api.aliyun.com/document/Cdn/2018-05-10/errorCode"
log = structlog.get_logger()


class ApiServer:
    """Answers calls on ``/``."""

    def __init__(
        self,
        *,
        api: Api,
        gate: Gate,
        rates: CallRates,
        faults: FaultBook,
        now: Callable[[], float],
        settled: Callable[[], Awaitable[None]],
        accepted: Callable[[Call, Sequence[TaskRecord], str], None],
    ) -> None:
        """
        Answer with ``api`` what ``gate`` and ``rates`` let pass.

        ``settled`` brings tasks that have ended into effect, prefetches included, before each call;
        ``accepted`` is told of what was accepted, with its request id, before the answer leaves.
        """
        self._api = api
        self._gate = gate
        self._rates = rates
        self._faults = faults
        self._now = now
        self._settled = settled
        self._note = accepted

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        request_id = str(uuid.uuid4()).upper()
        try:
            call = self._admit(await _decode(request))
            await self._slow(call.action)
            if self._faults.take("reset", self._now(), action=call.action):
                return _reset(request)
            self._break(call.action)
            await self._settled()
            # Faults and prefetches may have taken time since the call was admitted.
            call = replace(call, now=self._now())
            reply = self._answer(call, request_id)
        except Rejection as rejection:
            return self._refusal(rejection, request_id)
        return await self._accepted(request, call, reply, request_id)

    def _admit(self, request: Request) -> Call:
        if request.method not in ("GET", "POST"):
            raise Rejection("UnsupportedHTTPMethod")
        action, version = request.action_and_version()
        for name, value in (("Action", action), ("Version", version)):
            if not value:
                raise Rejection("MissingParameter", name=name)
        if not self._api.knows(action, version):
            raise Rejection("InvalidAction.NotFound", action=action, version=version)
        self._gate.admit(request, self._now())
        self._rates.take(action, self._now())
        return Call(action=action, version=VERSIONS[version], parameters=request.parameters, now=self._now())

    async def _slow(self, action: str) -> None:
        seconds = self._faults.seconds("slow", self._now(), action=action)
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _break(self, action: str) -> None:
        now = self._now()
        if fault := self._faults.take("throttle", now, action=action):
            seconds = 1.0 if fault.seconds is None else fault.seconds
            raise Rejection("Throttling", retry_after_ms=int(seconds * 1000))
        if self._faults.take("error500", now, action=action):
            raise Rejection("InternalError")
        if fault := self._faults.take("error", now, action=action):
            raise Rejection(fault.text)

    def _answer(self, call: Call, request_id: str) -> Reply:
        reply = self._api.answer(call)
        if reply.accepted:
            self._note(call, reply.accepted, request_id)
        return reply

    async def _accepted(self, request: web.Request, call: Call, reply: Reply, request_id: str) -> web.StreamResponse:
        if self._faults.take("accept-then-reset", self._now(), action=call.action):
            return _reset(request)
        if self._faults.take("accept-then-timeout", self._now(), action=call.action):
            await asyncio.sleep(HANG_SECONDS)
        return self._json(200, {**reply.fields, "RequestId": request_id})

    def _refusal(self, rejection: Rejection, request_id: str) -> web.Response:
        log.info("emulator.rejected", code=rejection.code, status=rejection.status, request_id=request_id)
        headers = {} if rejection.retry_after_ms is None else {"x-acs-retry-after": str(rejection.retry_after_ms)}
        body = {
            "RequestId": request_id,
            "HostId": HOST_ID,
            "Code": rejection.code,
            "Message": rejection.message,
            "Recommend": f"{HELP_PAGE}?q={rejection.code}",
        }
        return self._json(rejection.status, body, headers)

    def _json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
        # The emulator's own clock, so that a client can measure how far off it is.
        dated = {"Date": formatdate(self._now(), usegmt=True), **(headers or {})}
        return web.json_response(body, status=status, headers=dated)


async def _decode(request: web.Request) -> Request:
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Rejection("RequestEntityTooLarge", limit_bytes=MAX_BODY_BYTES) from error
    query = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    is_form = request.content_type == FORM
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True) if is_form else []
    return Request(
        method=request.method,
        path=request.rel_url.raw_path,
        headers=[(name, value) for name, value in request.headers.items()],
        query=query,
        form=form,
        body=body,
    )


def _reset(request: web.Request) -> web.Response:
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Lingering for no time makes the kernel send RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)
