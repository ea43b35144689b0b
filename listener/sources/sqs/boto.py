"""
Calls to SQS by boto3, in threads of a pool of their own, and error codes by what can be done about them.

The event loop's default pool also resolves host names and reads files; long polls would use up its threads. A client
is thread-safe. It is made in a thread, because loading boto3's models takes 0.3 s of CPU.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Final, TypeVar

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from listener.egress import connection_advice
from listener.redaction import mask_text
from listener.sources.bounded_boto import bound_answers
from listener.sources.queue.transport import EntryFailure, Message, QueueError, Remedy
from listener.sources.sqs.settings import SqsSettings
from listener.text import whole_number

__all__ = ["SqsTransport", "failures_in", "make_client", "messages_in", "refused", "translated", "unreachable"]

log = structlog.get_logger()
T = TypeVar("T")

BATCH: Final = 10
"""Messages in one request, by the service's limit."""
CONNECT_SECONDS: Final = 5
REPLY_SECONDS: Final = 10
"""In addition to the long poll."""
SPARE_THREADS: Final = 4
"""For deletions and other calls, so that they never wait for a poll."""
LARGEST_REPLY_BYTES: Final = 16 * 1024 * 1024
"""Ten messages of a mebibyte, escaped as JSON."""
_ID: Final = re.compile(r"[!-~]{1,4096}")
_NO_KEY: Final = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
_NOT_SQS: Final = "check endpoint_url: the server there does not reply as SQS does"
_METRICS: Final = {
    "queue_messages": "ApproximateNumberOfMessages",
    "queue_hidden_messages": "ApproximateNumberOfMessagesNotVisible",
    "queue_delayed_messages": "ApproximateNumberOfMessagesDelayed",
}

LONGEST_MESSAGE: Final = 300
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_UNKNOWN_KEY: Final = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NoCredentials",
        "NotAuthorized",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""The key is wrong; it is reloaded each time, because keys are rotated by replacing files."""
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "OptInRequired", "UnauthorizedOperation"})
_MISSING: Final = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NonExistentQueue", "InvalidAddress"}
)
_WAIT: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "KmsThrottled",
        "LimitExceededException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_HINTS: Final = {
    **dict.fromkeys(_EXPIRED, "the key is reloaded from where AWS's chain found it; renew it there"),
    **dict.fromkeys(
        _UNKNOWN_KEY, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the role, and the clock"
    ),
    **dict.fromkeys(
        _DENIED, "allow this key sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility: "
        "`cdn-listener check --print-setup SOURCE` prints the policy",
    ),
    **dict.fromkeys(_MISSING, "check queue_url and region; a deleted queue cannot be created again within a minute"),
    "OverLimit": "120,000 messages were received and not deleted: check the other readers of this queue",
}  # fmt: skip
_TOO_OLD: Final = ("signature expired", "signature not yet current", "request timestamp")


def make_client(settings: SqsSettings, service: str = "sqs", *, connections: int = 10) -> Any:
    """Return a client with a session of its own, which reads the key again. Blocking. Raise QueueError."""
    address = settings.address
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=settings.wait_seconds + REPLY_SECONDS,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": 1},  # the reader retries, with back-off and a log line
        tcp_keepalive=True,
        parameter_validation=False,
        user_agent_extra="cdn-listener",
    )
    try:
        session = boto3.session.Session(profile_name=settings.profile or None)
        endpoint = None if address.is_aws and service != "sqs" else address.endpoint
        client = session.client(service, region_name=address.region, endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise translated(error) from None
    seconds = settings.wait_seconds + REPLY_SECONDS
    bound_answers(client, most_bytes=LARGEST_REPLY_BYTES, seconds=seconds, json=service == "sqs")
    return client


def translated(error: Exception, url: str = "") -> QueueError:
    """Return the error for an exception of boto3; ``url`` is the endpoint that was called."""
    if isinstance(error, ClientError):
        details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        status = metadata.get("HTTPStatusCode", 400)
        return refused(details.get("Code", ""), details.get("Message", ""), status=status)
    if isinstance(error, _NO_KEY):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role"
        return QueueError(f"no AWS key: {error}", remedy=Remedy.RENEW, code="NoCredentials", hint=hint)
    return unreachable(error, url)


def messages_in(reply: Mapping[str, Any], *, hidden_seconds: float | None = None) -> list[Message]:
    """Return the messages of a ReceiveMessage reply. Raise QueueError where a required field is missing or invalid."""
    try:
        return [_message(message, hidden_seconds) for message in reply.get("Messages") or ()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise QueueError("SQS returned a malformed message", remedy=Remedy.OPERATOR, hint=_NOT_SQS) from None


def _message(message: Mapping[str, Any], hidden_seconds: float | None) -> Message:
    attributes = message.get("Attributes") or {}
    sent_at = whole_number(str(attributes["SentTimestamp"])) if "SentTimestamp" in attributes else None
    return Message(
        _id(message["MessageId"]),
        _id(message["ReceiptHandle"]),
        message["Body"].encode("utf-8", "surrogatepass"),
        whole_number(str(attributes.get("ApproximateReceiveCount", 1))) or 1,
        None if sent_at is None else sent_at / 1000,
        hidden_seconds,
    )


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("neither an id nor a receipt handle")
    return text


def failures_in(reply: Mapping[str, Any]) -> list[EntryFailure]:
    """Return the failed entries of a batch reply by position. Raise QueueError for a malformed one."""
    try:
        return [
            EntryFailure(_position(entry["Id"]), entry.get("Code", ""), bool(entry.get("SenderFault")))
            for entry in reply.get("Failed") or ()
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise QueueError("SQS returned a malformed batch reply", remedy=Remedy.OPERATOR, hint=_NOT_SQS) from None


def _position(name: str) -> int:
    position = whole_number(name)
    if position is None or position >= BATCH:
        raise ValueError(name)
    return position


class SqsTransport:
    """See :class:`~listener.sources.queue.transport.Transport`."""

    batch: ClassVar[int] = BATCH

    def __init__(self, settings: SqsSettings) -> None:
        """Keep the settings; nothing starts before the first call."""
        self._settings = settings
        self._threads = settings.pollers + SPARE_THREADS
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sqs")
        self._lock = threading.Lock()
        self._client: Any = None
        self._open = 0
        """Calls under way, waiting for a thread, or whose messages are still to be released."""
        self._closed = False

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        """Return up to ten messages. If cancelled, the thread releases those that still arrive."""
        future = self._submit(self._receive, wait_seconds)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                self._count(1)
                future.add_done_callback(self._release_soon)
            raise

    async def delete(self, handles: Sequence[str]) -> Sequence[EntryFailure]:
        """Delete up to ten messages."""
        entries = [{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(handles)]
        return failures_in(
            await self._run(lambda client: client.delete_message_batch(QueueUrl=self._url, Entries=entries))
        )

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[EntryFailure]:
        """Hide up to ten messages."""
        return failures_in(await self._run(lambda client: self._hide(client, handles, seconds)))

    async def metrics(self) -> Mapping[str, float]:
        """Return the queue's own counts."""
        reply = await self._run(lambda client: client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"]))
        attributes = reply.get("Attributes")
        attributes = attributes if isinstance(attributes, Mapping) else {}
        numbers = {name: whole_number(str(attributes.get(attribute, ""))) for name, attribute in _METRICS.items()}
        return {name: float(number) for name, number in numbers.items() if number is not None}

    async def renew(self) -> None:
        """Make a new client for the next call; calls under way end with the old one."""
        self._drop_client()

    async def close(self) -> None:
        """Let the threads finish their calls, and close the client with the last of them."""
        self._closed = True
        self._pool.shutdown(wait=False)
        self._count(0)

    # -- in threads --------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return self._settings.queue_url

    async def _run(self, call: Callable[[Any], T]) -> T:
        """Make a call that continues when its caller is cancelled: a deletion cannot be taken back."""
        return await asyncio.shield(asyncio.wrap_future(self._submit(call)))

    def _submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        try:
            future = self._pool.submit(self._call, call, *arguments)
        except RuntimeError:
            raise QueueError("this source was stopped", remedy=Remedy.OPERATOR) from None
        self._count(1)
        future.add_done_callback(lambda _: self._count(-1))
        return future

    def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        with self._lock:
            if self._client is None:
                self._client = make_client(self._settings, connections=self._threads)
            client = self._client
        try:
            return call(client, *arguments)
        except QueueError:
            raise
        except (BotoCoreError, ClientError, OSError) as error:
            raise translated(error, self._settings.address.endpoint) from None
        except Exception as error:
            # botocore's parsers raise whatever a reply that is not one of SQS makes Python raise.
            what = f"SQS returned an unreadable reply ({type(error).__name__})"
            raise QueueError(what, remedy=Remedy.OPERATOR, hint=_NOT_SQS) from error

    def _drop_client(self) -> None:
        """Close the client's idle connections; those in use are closed with their calls."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _receive(self, client: Any, wait_seconds: int) -> list[Message]:
        hidden_seconds = self._settings.visibility_seconds
        reply = client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=hidden_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return messages_in(reply, hidden_seconds=hidden_seconds)

    def _hide(self, client: Any, handles: Sequence[str], seconds: int) -> Mapping[str, Any]:
        entries = [
            {"Id": str(at), "ReceiptHandle": handle, "VisibilityTimeout": seconds} for at, handle in enumerate(handles)
        ]
        reply: Mapping[str, Any] = client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        return reply

    # -- a poll that was cancelled -----------------------------------------------------------------

    def _release_soon(self, future: Future[list[Message]]) -> None:
        """Release in a thread; where the pool is closed, this runs in one already."""
        try:
            self._pool.submit(self._release, future)
        except RuntimeError:
            self._release(future)

    def _release(self, future: Future[list[Message]]) -> None:
        try:
            handles = [] if future.exception() else [message.handle for message in future.result()]
            if handles:
                self._call(self._hide, handles, 0)
                log.info("sqs.released", messages=len(handles))
        except QueueError as error:
            log.warning("sqs.not_released", messages=len(handles), error=str(error))
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        """Count calls that still need the client; close it after close() when there are none."""
        with self._lock:
            self._open += more
            done = self._closed and not self._open
        if done:
            self._drop_client()


def refused(code: str, message: str, *, status: int = 400) -> QueueError:
    """Return the error for an error reply of the service."""
    last = code.rpartition("#")[2]
    # Below the first line AWS may quote the signed request, which contains the session token.
    first_line = message.partition("\n")[0][:LONGEST_MESSAGE]
    text = f"SQS answered {last or status}: {first_line}".rstrip(": ")
    if any(words in message.lower() for words in _TOO_OLD):
        return QueueError(text, remedy=Remedy.OPERATOR, code=last, hint="set this machine's clock")
    return QueueError(text, remedy=_remedy(last, status), code=last, hint=_hint(last))


def _remedy(code: str, status: int) -> Remedy:
    if code in _EXPIRED or code in _UNKNOWN_KEY:
        return Remedy.RENEW
    return Remedy.WAIT if code in _WAIT or status >= 500 or status == 429 else Remedy.OPERATOR


def _hint(code: str) -> str:
    return _HINTS.get(code) or (_HINTS["AccessDenied"] if code.startswith("KMS.AccessDenied") else "")


def unreachable(error: Exception, url: str) -> QueueError:
    """Return the error for a call to ``url`` without a reply."""
    advice = connection_advice(error, url, setting="queue_url or endpoint_url")
    cause = f"{advice.cause}: " if advice.cause else ""
    text = f"SQS cannot be reached: {cause}{mask_text(str(error)) or type(error).__name__}"
    return QueueError(text, remedy=Remedy.WAIT, hint=advice.hint)
