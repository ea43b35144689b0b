"""The API over HTTP: decodes calls, answers them, applies faults that break connections, and writes the journal."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from listener.clock import window_start
from listener.emulator.account import CallRates
from listener.emulator.actions import VERSIONS, Api, Call, Reply
from listener.emulator.faults import FaultBook
from listener.emulator.gate import ApiRequest, Gate
from listener.emulator.rejections import Rejection
from listener.emulator.tasks import TaskRecord
from listener.errors import ConfigurationError
from listener.files import make_private

__all__ = ["MAX_BODY_BYTES", "ApiServer", "Journal"]

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
        Answer with ``api`` the calls that pass ``gate`` and ``rates``.

        ``settled`` applies finished tasks, prefetches included, before each call. ``accepted`` is called with the
        accepted records and their request id before the response is sent.
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

    def _admit(self, request: ApiRequest) -> Call:
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


async def _decode(request: web.Request) -> ApiRequest:
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Rejection("RequestEntityTooLarge", limit_bytes=MAX_BODY_BYTES) from error
    query = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    is_form = request.content_type == FORM
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True) if is_form else []
    return ApiRequest(
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


class Journal:
    """
    An append-only file; without a path, nothing is written.

    A line holds ``at`` and ``window`` (seconds since the epoch: when, and the start of its quota day),
    ``action``, ``version``, ``kind``, ``force``, ``request_id``, ``task_ids`` and ``paths``. It has reached
    the operating system before the answer leaves, so it survives the death of the emulator and of
    its client, not that of the machine.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the file for appending. Raise :class:`ConfigurationError` when that is not possible."""
        self._file: TextIO | None = None
        if path is not None:
            try:
                make_private(path)
                self._file = path.open("a", encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(
                    f"The journal {str(path)!r} cannot be written: {error.strerror}.",
                    hint="Give --journal another file.",
                ) from error

    def accepted(self, call: Call, records: Sequence[TaskRecord], request_id: str) -> None:
        """Write one accepted request and flush it."""
        if self._file is not None:
            self._file.write(json.dumps(journal_line(call, records, request_id), separators=(",", ":")) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()


def journal_line(call: Call, records: Sequence[TaskRecord], request_id: str) -> dict[str, Any]:
    """Return the fields of one line."""
    return {
        "at": call.now,
        "window": window_start(call.now),
        "action": call.action,
        "version": call.version.name,
        "kind": records[0].kind.value,
        "force": records[0].force,
        "request_id": request_id,
        "task_ids": list(dict.fromkeys(record.task_id for record in records)),
        "paths": [record.path for record in records],
    }
