"""
A queue service of our own: SQS' JSON protocol, with everything that the real one does to its readers.

Messages are hidden for a while by a clock that tests move, come twice, in any order, from handles that no longer
count; batches fail in part, calls are throttled, keys expire, connections break. boto3 is held against it as a
client. What was deleted, and when, is reported to whoever asks (:attr:`FakeSqs.on_delete`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCOUNT = "123456789012"
REGION = "eu-central-1"
KEYS = {"AWS_ACCESS_KEY_ID": "testid", "AWS_SECRET_ACCESS_KEY": "testsecret"}
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d+/([^/]+)/sqs/aws4_request, SignedHeaders=(\S+), Sig"
)


class Refusal(Exception):
    """The service says no."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message or f"told to answer {code}", status


@dataclass(slots=True)
class Stored:
    """One message in a queue."""

    id: str
    body: str
    sent_at: float
    hidden_until: float = 0.0
    receives: int = 0


@dataclass(slots=True)
class Fault:
    """What is to happen to calls of one action."""

    action: str
    what: str
    """An error code, ``drop`` (the connection breaks), or ``after`` (it breaks once the work was done)."""
    left: int
    status: int = 400


@dataclass(slots=True)
class Queue:
    """One queue."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    messages: dict[str, Stored] = field(default_factory=dict)
    sent: int = 0


class FakeSqs:
    """``async with FakeSqs() as sqs``: queues at ``sqs.url``, on a port of the system's choice."""

    def __init__(self, *, seed: int = 0, check_signatures: bool = True) -> None:
        self.random = random.Random(seed)
        self.check_signatures = check_signatures
        self.queues: dict[str, Queue] = {}
        self.ahead = 0.0
        """How far the queue's clock is before the machine's: tests move it on."""
        self.expired: set[str] = set()
        """Access keys, or session tokens, that are no longer good."""
        self.faults: list[Fault] = []
        self.failing_entries: deque[tuple[str, bool]] = deque()
        """Entries of batches to fail: code, and whether that is the sender's fault."""
        self.doubled = 0.0
        """Share of received messages that are not hidden, so that they come again at once."""
        self.is_shuffled = False
        self.holds_requests = True
        """False: an empty reply comes at once, whatever the caller's wait."""
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        """Action and message id, in the order in which things happened."""
        self.on_delete: Callable[[Stored], None] = lambda _: None
        self.open_polls = 0
        self._sent = asyncio.Event()
        self._is_ending = False
        self._runner: web.AppRunner | None = None
        self.url = ""

    # -- for tests -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self._is_ending = True
        self._sent.set()
        await self._runner.cleanup()

    def now(self) -> float:
        """Return the queue's clock."""
        return time.time() + self.ahead

    def queue(self, name: str = "events", **attributes: str) -> str:
        """Make a queue; return its URL."""
        reported = {
            "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
            "VisibilityTimeout": "30",
            "MaximumMessageSize": "262144",
            "MessageRetentionPeriod": "345600",
            "DelaySeconds": "0",
        }
        self.queues[name] = Queue(name, reported | attributes)
        return f"{self.url}/{ACCOUNT}/{name}"

    def send(self, body: str | dict[str, Any], name: str = "events") -> str:
        """Put a message into a queue; return its id."""
        queue = self.queues[name]
        queue.sent += 1
        text = body if isinstance(body, str) else json.dumps(body)
        message = Stored(f"m{queue.sent:06d}-{self.random.getrandbits(32):08x}", text, self.now())
        queue.messages[message.id] = message
        self._sent.set()
        return message.id

    def order(self, action: str, what: str, times: int = 1_000_000, *, status: int = 400) -> Fault:
        """Let the next calls of this action go wrong, until ``fault.left`` is 0."""
        self.faults.append(Fault(action, what, times, status))
        return self.faults[-1]

    def waiting(self, name: str = "events") -> int:
        """Return how many messages can be received now."""
        return sum(one.hidden_until <= self.now() for one in self.queues[name].messages.values())

    def hidden(self, name: str = "events") -> int:
        """Return how many messages are with a reader."""
        return len(self.queues[name].messages) - self.waiting(name)

    # -- the protocol ----------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        action = request.headers.get("X-Amz-Target", "").removeprefix("AmazonSQS.")
        raw = await request.read()
        self.calls[action] += 1
        try:
            if self.check_signatures:
                self._check_signature(request, raw)
            fault = self._fault(action)
            if fault is not None and fault.what == "drop":
                return self._break(request)
            reported = json.loads(raw)
            answer = await getattr(self, f"_{action}")(self._named(reported["QueueUrl"]), reported)
        except Refusal as refusal:
            kind = f"com.amazonaws.sqs#{refusal.code.rpartition('.')[2]}"
            headers = {"x-amzn-query-error": f"{refusal.code};Sender"}
            return self._reply({"__type": kind, "message": refusal.message}, refusal.status, headers)
        return self._reply(answer, 200, {}) if fault is None else self._break(request)

    def _named(self, url: str) -> Queue:
        found = self.queues.get(url.rpartition("/")[2])
        if found is None:
            raise Refusal("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        return found

    @staticmethod
    def _reply(answer: dict[str, Any], status: int, headers: dict[str, str]) -> web.Response:
        body = json.dumps(answer).encode()
        return web.Response(body=body, status=status, headers=headers, content_type="application/x-amz-json-1.0")

    @staticmethod
    def _break(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    def _fault(self, action: str) -> Fault | None:
        for fault in self.faults:
            if fault.action in (action, "*") and fault.left:
                fault.left -= 1
                if fault.what not in ("drop", "after"):
                    raise Refusal(fault.what, status=fault.status)
                return fault
        return None

    def _check_signature(self, request: web.Request, raw: bytes) -> None:
        authorization = request.headers.get("Authorization", "")
        match = _AUTHORIZATION.match(authorization)
        if match is None:
            raise Refusal("MissingAuthenticationToken", status=403)
        key, region, names = match.groups()
        if key in self.expired or request.headers.get("X-Amz-Security-Token") in self.expired:
            raise Refusal("ExpiredToken", "The security token included in the request is expired", 403)
        headers = {name: request.headers[name] for name in names.rstrip(",").split(";")}
        copy = AWSRequest("POST", f"http://{request.headers['Host']}/", data=raw, headers=headers)
        copy.context["timestamp"] = request.headers["X-Amz-Date"]
        signer = SigV4Auth(Credentials(key, KEYS["AWS_SECRET_ACCESS_KEY"]), "sqs", region)
        wanted = signer.signature(signer.string_to_sign(copy, signer.canonical_request(copy)), copy)
        if not authorization.endswith(wanted):
            raise Refusal("InvalidSignatureException", "The request signature we calculated does not match", 403)

    async def _ReceiveMessage(self, queue: Queue, reported: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        most, wait = reported.get("MaxNumberOfMessages", 1), reported.get("WaitTimeSeconds", 0)
        if not 1 <= most <= 10 or not 0 <= wait <= 20:
            raise Refusal("InvalidParameterValue", "a value is out of range")
        ends = time.monotonic() + (wait if self.holds_requests else 0)
        self.open_polls += 1
        try:
            while not (found := self._take(queue, most, reported)) and time.monotonic() < ends and not self._is_ending:
                self._sent.clear()
                try:
                    # The clock may be moved meanwhile.
                    async with asyncio.timeout(min(0.05, ends - time.monotonic())):
                        await self._sent.wait()
                except TimeoutError:
                    pass
        finally:
            self.open_polls -= 1
        return {"Messages": found} if found else {}

    def _take(self, queue: Queue, most: int, reported: dict[str, Any]) -> list[dict[str, Any]]:
        now = self.now()
        visible = []
        for one in queue.messages.values():
            if one.hidden_until <= now:
                visible.append(one)
                if len(visible) >= most and not self.is_shuffled:
                    break
        if self.is_shuffled:
            self.random.shuffle(visible)
        taken = visible[:most]
        seconds = reported.get("VisibilityTimeout", int(queue.attributes["VisibilityTimeout"]))
        return [self._hand_out(one, seconds) for one in taken]

    def _hand_out(self, one: Stored, seconds: int) -> dict[str, Any]:
        one.receives += 1
        one.hidden_until = 0.0 if self.random.random() < self.doubled else self.now() + seconds
        self.log.append(("receive", one.id))
        return {
            "MessageId": one.id,
            "ReceiptHandle": f"{one.id}:{one.receives}",
            "Body": one.body,
            "MD5OfBody": hashlib.md5(one.body.encode()).hexdigest(),
            "Attributes": {"ApproximateReceiveCount": str(one.receives), "SentTimestamp": str(int(one.sent_at * 1000))},
        }

    async def _SendMessage(self, queue: Queue, reported: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        digest = hashlib.md5(reported["MessageBody"].encode()).hexdigest()
        return {"MessageId": self.send(reported["MessageBody"], queue.name), "MD5OfMessageBody": digest}

    async def _GetQueueAttributes(self, queue: Queue, _count_of_changes: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        counts = {
            "ApproximateNumberOfMessages": str(self.waiting(queue.name)),
            "ApproximateNumberOfMessagesNotVisible": str(self.hidden(queue.name)),
            "ApproximateNumberOfMessagesDelayed": "0",
        }
        return {"Attributes": queue.attributes | counts}

    async def _DeleteMessageBatch(self, queue: Queue, reported: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._batch(reported, lambda entry: self._delete(queue, entry["ReceiptHandle"]))

    async def _ChangeMessageVisibilityBatch(self, queue: Queue, reported: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._batch(
            reported, lambda entry: self._hide(queue, entry["ReceiptHandle"], entry["VisibilityTimeout"])
        )

    async def _DeleteMessage(self, queue: Queue, reported: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._delete(queue, reported["ReceiptHandle"])
        return {}

    async def _ChangeMessageVisibility(self, queue: Queue, reported: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._hide(queue, reported["ReceiptHandle"], reported["VisibilityTimeout"])
        return {}

    def _batch(self, reported: dict[str, Any], do: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        entries = reported["Entries"]
        if not 1 <= len(entries) <= 10 or len({entry["Id"] for entry in entries}) != len(entries):
            raise Refusal("AWS.SimpleQueueService.TooManyEntriesInBatchRequest")
        done, failed = [], []
        for entry in entries:
            try:
                if self.failing_entries:
                    code, is_senders = self.failing_entries.popleft()
                    failed.append({"Id": entry["Id"], "Code": code, "Message": "", "SenderFault": is_senders})
                    continue
                do(entry)
                done.append({"Id": entry["Id"]})
            except Refusal as refusal:
                failed.append({"Id": entry["Id"], "Code": refusal.code, "Message": "", "SenderFault": True})
        return {"Successful": done, "Failed": failed}

    def _delete(self, queue: Queue, handle: str) -> None:
        one = self._by(queue, handle)
        if one is not None:
            self.on_delete(one)
            self.log.append(("delete", one.id))
            del queue.messages[one.id]

    def _hide(self, queue: Queue, handle: str, seconds: int) -> None:
        one = self._by(queue, handle)
        if one is None or one.hidden_until <= self.now():
            raise Refusal("MessageNotInflight")
        one.hidden_until = self.now() + seconds
        self.log.append((f"hide {seconds}", one.id))
        self._sent.set()

    @staticmethod
    def _by(queue: Queue, handle: str) -> Stored | None:
        """Return the message of a handle; a standard queue takes an older one, and does nothing with it."""
        id_, separator, number = handle.partition(":")
        if not separator:
            raise Refusal("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        one = queue.messages.get(id_)
        return one if one is not None and int(number) == one.receives else None
