"""
A queue service that speaks MNS: visibility by a clock that can be moved, handles that change, faults by order.

Written from the vendor's pages and held against the official SDK as a client (``test_sdk``). It checks
signatures by steps of its own, so that ours are not checked by themselves.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import random
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, Self
from xml.sax.saxutils import escape

from aiohttp import web

XMLNS = "http://mns.aliyuncs.com/doc/v1/"
HEAD = '<?xml version="1.0" encoding="utf-8"?>'
CLOCK_TOLERANCE_SECONDS = 15 * 60


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        """Keep status, code and words."""
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or f"told by the fake: {code}"


@dataclass(slots=True)
class Stored:
    """A message in the queue."""

    id: str
    body: str
    enqueued_at: float
    visible_at: float
    handle: str = ""
    dequeues: int = 0
    first_dequeue_at: float = 0.0


@dataclass
class Fault:
    """Something that goes wrong, so many times, with calls of one action (``""``: any)."""

    action: str
    status: int
    code: str
    times: int
    message: str = ""


@dataclass
class FakeQueue:
    """One queue, and everything that can be ordered of it."""

    name: str = "events"
    visibility_seconds: int = 30
    retention_seconds: int = 345_600
    max_message_bytes: int = 65_536
    delay_seconds: int = 0
    polling_wait_seconds: int = 0
    messages: dict[str, Stored] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    """Ids, in the order in which they were deleted."""
    handles: dict[str, str] = field(default_factory=dict)
    """Which message a handle is of."""


class FakeMns:
    """The service: one account, its queues, its clock."""

    def __init__(self, *, keys: dict[str, str] | None = None, seed: int = 1) -> None:
        """Start with one empty queue ``events`` and the key testid."""
        self.keys = {"testid": "testsecret"} if keys is None else keys
        self.token: str | None = None
        """The security token that every request must bring, if any."""
        self.denied: set[str] = set()
        """Actions that this key may not do."""
        self.queues = {"events": FakeQueue()}
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.open_polls = 0
        self.ahead = 0.0
        """How far the service's clock is moved on."""
        self.duplicate_share = 0.0
        """This share of the messages stays visible although it was received."""
        self.failing_deletions = 0
        """So many single deletions within batches fail with InternalError."""
        self.holds_requests = True
        """False: an empty answer comes at once, whatever the caller wants to wait."""
        self.deletes = asyncio.Event()
        """Cleared: deletions wait before anything is done."""
        self.deletes.set()
        self.raw_answer: bytes | None = None
        """Given instead of messages."""
        self.received_again = 0
        """How often a message was given that had been given before."""
        self.on_delete: Callable[[str], None] = lambda _id: None
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.url = ""

    @property
    def queue(self) -> FakeQueue:
        """The queue that tests use."""
        return self.queues["events"]

    def now(self) -> float:
        """Return the service's time, in seconds since the epoch."""
        return time.time() + self.ahead

    async def advance(self, seconds: float) -> None:
        """Move the service's clock on."""
        self.ahead += seconds
        await self._notify()

    async def send(self, *bodies: bytes | str) -> list[str]:
        """Put messages into the queue as they are; return their ids."""
        ids = [self._put(self.queue, body if isinstance(body, str) else body.decode()).id for body in bodies]
        await self._notify()
        return ids

    def order(self, code: str, *, status: int = 500, action: str = "", times: int = 1, message: str = "") -> Fault:
        """Order a fault: an error code, ``drop`` (the connection breaks), or ``after`` (it breaks after the work)."""
        self.faults.append(Fault(action, status, code, times, message))
        return self.faults[-1]

    def redeliver(self, name: str) -> None:
        """Make a message visible at once, whoever is reading it."""
        self.queue.messages[name].visible_at = self.now()

    @property
    def in_flight(self) -> list[str]:
        """Ids of what is hidden from everybody."""
        return [name for name, stored in self.queue.messages.items() if stored.visible_at > self.now()]

    # -- serving -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=4 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        action = _action(request, body)
        self.calls[action] += 1
        broken = ""
        try:
            broken = self._fault(action)
            if broken != "drop":
                self._check(request, body, action)
                status, answer = await self._do(action, request, body)
        except Refused as refused:
            status, answer = refused.status, _error(refused)
        if broken:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        headers = {
            "x-mns-request-id": "5F0",
            "x-mns-version": "2015-06-06",
            "Date": formatdate(self.now(), usegmt=True),
        }
        if action == "CreateQueue":
            headers["Location"] = f"{self.url}{request.path}"
        if answer:
            headers["Content-Type"] = "text/xml;charset=UTF-8"
        return web.Response(status=status, body=answer or None, headers=headers)

    def _fault(self, action: str) -> str:
        """Return ``drop`` or ``after`` where the connection is to break before or after the work."""
        for fault in self.faults:
            if fault.times > 0 and fault.action in ("", action):
                fault.times -= 1
                if fault.code in ("drop", "after"):
                    return fault.code
                raise Refused(fault.status, fault.code, fault.message)
        return ""

    def _check(self, request: web.Request, body: bytes, action: str) -> None:
        self._check_signature(request, body)
        if action in self.denied:
            raise Refused(403, "AccessDenied", "The OwnerId that your Access Key Id associated to is forbidden.")

    def _check_signature(self, request: web.Request, body: bytes) -> None:
        date = request.headers.get("Date", "")
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        name, _, signature = rest.partition(":")
        if scheme != "MNS" or not date or not signature:
            raise Refused(400, "AuthorizationHeaderIsInvalid")
        if name not in self.keys:
            raise Refused(403, "InvalidAccessKeyId")
        if self.token is not None and request.headers.get("security-token") != self.token:
            raise Refused(403, "InvalidSecurityToken")
        if abs(parsedate_to_datetime(date).timestamp() - self.now()) > CLOCK_TOLERANCE_SECONDS:
            raise Refused(408, "TimeExpired")
        md5 = request.headers.get("Content-MD5", "")
        if body and md5 != base64.b64encode(hashlib.md5(body).hexdigest().encode()).decode():
            raise Refused(400, "InvalidDegist")
        own = sorted((key.lower(), value) for key, value in request.headers.items() if key.lower().startswith("x-mns-"))
        text = "\n".join([request.method, md5, request.headers.get("Content-Type", ""), date])
        text += "\n" + "".join(f"{key}:{value}\n" for key, value in own) + request.raw_path
        expected = base64.b64encode(hmac.new(self.keys[name].encode(), text.encode(), hashlib.sha1).digest()).decode()
        if not hmac.compare_digest(expected, signature):
            raise Refused(403, "SignatureDoesNotMatch", f"ServerStringToSign: {text}")

    async def _do(self, action: str, request: web.Request, body: bytes) -> tuple[int, bytes]:
        parts = request.path.strip("/").split("/")
        if action == "CreateQueue":
            return self._create(parts[1], body)
        queue = self.queues.get(parts[1]) if len(parts) > 1 else None
        if queue is None:
            raise Refused(404, "QueueNotExist", "The queue you provided is not exist.")
        # As the SDK sends handles: what is no escape stands for itself, a plus sign too.
        query = dict(pair.partition("=")[::2] for pair in request.raw_path.partition("?")[2].split("&"))
        batch = action.startswith("Batch")
        match action.removeprefix("Batch"):
            case "ReceiveMessage":
                return await self._receive(queue, query, batch=batch)
            case "SendMessage":
                return await self._send(queue, body, batch=batch)
            case "DeleteMessage":
                await self.deletes.wait()
                return self._delete_batch(queue, body) if batch else self._delete_one(queue, query)
        if action.endswith("PeekMessage"):
            return self._peek(queue, query, batch=batch)
        return self._change(queue, query) if action == "ChangeMessageVisibility" else self._attributes(queue)

    # -- actions -----------------------------------------------------------------------------------

    def _create(self, name: str, body: bytes) -> tuple[int, bytes]:
        known = name in self.queues
        fields = {_plain(node.tag): node.text or "" for node in ET.fromstring(body)}
        queue = self.queues.setdefault(name, FakeQueue(name))
        queue.visibility_seconds = int(fields.get("VisibilityTimeout", queue.visibility_seconds))
        queue.retention_seconds = int(fields.get("MessageRetentionPeriod", queue.retention_seconds))
        queue.max_message_bytes = int(fields.get("MaximumMessageSize", queue.max_message_bytes))
        queue.delay_seconds = int(fields.get("DelaySeconds", queue.delay_seconds))
        return (204 if known else 201), b""

    def _attributes(self, queue: FakeQueue) -> tuple[int, bytes]:
        hidden = [stored for stored in queue.messages.values() if stored.visible_at > self.now()]
        delayed = [stored for stored in hidden if not stored.dequeues]
        fields = {
            "ActiveMessages": len(queue.messages) - len(hidden),
            "InactiveMessages": len(hidden) - len(delayed),
            "DelayMessages": len(delayed),
            "CreateTime": 1767323045,
            "LastModifyTime": 1767323045,
            "DelaySeconds": queue.delay_seconds,
            "MaximumMessageSize": queue.max_message_bytes,
            "MessageRetentionPeriod": queue.retention_seconds,
            "QueueName": queue.name,
            "VisibilityTimeout": queue.visibility_seconds,
            "PollingWaitSeconds": queue.polling_wait_seconds,
            "LoggingEnabled": "False",
        }
        return 200, _document("Queue", _fields(fields))

    def _put(self, queue: FakeQueue, body: str, delay_seconds: float = 0) -> Stored:
        now = self.now()
        name = f"{next(self._numbers):08X}-{self._random.getrandbits(64):016X}"
        stored = Stored(name, body, now, now + (delay_seconds or queue.delay_seconds))
        queue.messages[name] = stored
        return stored

    async def _send(self, queue: FakeQueue, body: bytes, *, batch: bool) -> tuple[int, bytes]:
        root = ET.fromstring(body)
        answers = []
        for node in list(root) if batch else [root]:
            fields = {_plain(child.tag): child.text or "" for child in node}
            stored = self._put(queue, fields.get("MessageBody", ""), float(fields.get("DelaySeconds", 0)))
            answers.append(_fields({"MessageId": stored.id, "MessageBodyMD5": _md5(stored.body)}))
        await self._notify()
        if batch:
            return 201, _document("Messages", "".join(f"<Message>{answer}</Message>" for answer in answers))
        return 201, _document("Message", answers[0])

    async def _receive(self, queue: FakeQueue, query: dict[str, str], *, batch: bool) -> tuple[int, bytes]:
        count = int(query.get("numOfMessages", "1"))
        wait = int(query.get("waitseconds", queue.polling_wait_seconds))
        if not 1 <= count <= 16 or not 0 <= wait <= 30:
            raise Refused(400, "InvalidArgument")
        if self.raw_answer is not None:
            return 200, self.raw_answer
        taken = await self._wait_for(queue, count, wait if self.holds_requests else 0)
        if not taken:
            raise Refused(404, "MessageNotExist", "Message not exist.")
        for stored in taken:
            self._hide(queue, stored)
        rows = [self._row(stored) for stored in taken]
        if batch:
            return 200, _document("Messages", "".join(f"<Message>{row}</Message>" for row in rows))
        return 200, _document("Message", rows[0])

    async def _wait_for(self, queue: FakeQueue, count: int, wait: float) -> list[Stored]:
        until = time.monotonic() + wait
        self.open_polls += 1
        try:
            async with self._changed:
                while not (found := self._visible(queue, count)) and (left := until - time.monotonic()) > 0:
                    try:
                        await asyncio.wait_for(self._changed.wait(), min(left, self._next_visible(queue)))
                    except TimeoutError:
                        continue
                return found
        finally:
            self.open_polls -= 1

    def _visible(self, queue: FakeQueue, count: int) -> list[Stored]:
        now = self.now()
        oldest = now - queue.retention_seconds
        visible = (s for s in queue.messages.values() if s.visible_at <= now and s.enqueued_at > oldest)
        return list(itertools.islice(visible, count))

    def _next_visible(self, queue: FakeQueue) -> float:
        return max(0.001, min((s.visible_at - self.now() for s in queue.messages.values()), default=3600.0))

    def _hide(self, queue: FakeQueue, stored: Stored) -> None:
        stored.dequeues += 1
        self.received_again += stored.dequeues > 1
        stored.first_dequeue_at = stored.first_dequeue_at or self.now()
        self._give_handle(queue, stored)
        if self._random.random() >= self.duplicate_share:
            stored.visible_at = self.now() + queue.visibility_seconds
        # Nobody promises an order.
        queue.messages[stored.id] = queue.messages.pop(stored.id)

    def _give_handle(self, queue: FakeQueue, stored: Stored) -> None:
        raw = f"{stored.id}/{next(self._numbers)}/{self._random.getrandbits(64)}"
        queue.handles.pop(stored.handle, None)
        stored.handle = f"1-{base64.b64encode(raw.encode()).decode()}"
        queue.handles[stored.handle] = stored.id

    def _row(self, stored: Stored) -> str:
        return _fields(
            {
                "MessageId": stored.id,
                "ReceiptHandle": stored.handle,
                "MessageBodyMD5": _md5(stored.body),
                "MessageBody": stored.body,
                "EnqueueTime": round(stored.enqueued_at * 1000),
                "NextVisibleTime": round(stored.visible_at * 1000),
                "FirstDequeueTime": round(stored.first_dequeue_at * 1000),
                "DequeueCount": stored.dequeues,
                "Priority": 8,
            }
        )

    def _peek(self, queue: FakeQueue, query: dict[str, str], *, batch: bool) -> tuple[int, bytes]:
        found = self._visible(queue, int(query.get("numOfMessages", "1")))
        if not found:
            raise Refused(404, "MessageNotExist", "Message not exist.")
        rows = [self._row(stored) for stored in found]
        if batch:
            return 200, _document("Messages", "".join(f"<Message>{row}</Message>" for row in rows))
        return 200, _document("Message", rows[0])

    def _held(self, queue: FakeQueue, handle: str) -> Stored:
        stored = queue.messages.get(queue.handles.get(handle, ""))
        if stored is not None and stored.handle == handle and stored.visible_at > self.now() - self.duplicate_share:
            return stored
        raise Refused(400, "ReceiptHandleError", "The receipt handle you provided is not valid.")

    def _delete(self, queue: FakeQueue, handle: str) -> None:
        stored = self._held(queue, handle)
        self.on_delete(stored.id)
        del queue.messages[stored.id], queue.handles[handle]
        queue.deleted.append(stored.id)

    def _delete_one(self, queue: FakeQueue, query: dict[str, str]) -> tuple[int, bytes]:
        self._delete(queue, query["ReceiptHandle"])
        return 204, b""

    def _delete_batch(self, queue: FakeQueue, body: bytes) -> tuple[int, bytes]:
        handles = [node.text or "" for node in ET.fromstring(body)]
        if not 1 <= len(handles) <= 16:
            raise Refused(400, "InvalidArgument")
        errors = []
        for handle in handles:
            try:
                self._fail_one()
                self._delete(queue, handle)
            except Refused as refused:
                fields = {"ErrorCode": refused.code, "ErrorMessage": refused.message, "ReceiptHandle": handle}
                errors.append(f"<Error>{_fields(fields)}</Error>")
        return (404, _document("Errors", "".join(errors))) if errors else (204, b"")

    def _fail_one(self) -> None:
        if self.failing_deletions:
            self.failing_deletions -= 1
            raise Refused(500, "InternalError")

    def _change(self, queue: FakeQueue, query: dict[str, str]) -> tuple[int, bytes]:
        seconds = int(query["VisibilityTimeout"])
        if not 1 <= seconds <= 43_200:
            raise Refused(400, "InvalidArgument")
        stored = self._held(queue, query["ReceiptHandle"])
        self._give_handle(queue, stored)
        stored.visible_at = self.now() + seconds
        fields = {"ReceiptHandle": stored.handle, "NextVisibleTime": round(stored.visible_at * 1000)}
        return 200, _document("ChangeVisibility", _fields(fields))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _action(request: web.Request, body: bytes) -> str:
    """Return the name of what is asked for, as the vendor's pages call it."""
    depth = request.path.strip("/").count("/")
    if depth == 1:
        return {"PUT": "CreateQueue", "GET": "GetQueueAttributes"}.get(request.method, "")
    batch = "Batch" if "numOfMessages" in request.query or b"<Messages" in body or b"<ReceiptHandles" in body else ""
    peek = "PeekMessage" if request.query.get("peekonly") == "true" else "ReceiveMessage"
    names = {"GET": peek, "POST": "SendMessage", "DELETE": "DeleteMessage"}
    return batch + names[request.method] if request.method in names else "ChangeMessageVisibility"


def _error(refused: Refused) -> bytes:
    fields = {"Code": refused.code, "Message": refused.message, "RequestId": "5F0", "HostId": "http://fake"}
    return _document("Error", _fields(fields))


def _document(name: str, inner: str) -> bytes:
    return f'{HEAD}\n<{name} xmlns="{XMLNS}">\n{inner}\n</{name}>'.encode()


def _fields(fields: dict[str, Any]) -> str:
    return "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in fields.items())


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2]


def _md5(body: str) -> str:
    return hashlib.md5(body.encode()).hexdigest().upper()
