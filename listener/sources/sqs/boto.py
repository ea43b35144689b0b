"""
Calls by boto3, each in a thread of a pool of its own.

The event loop's default pool is no place for them: it looks up host names and reads files, and long polls
would take all of its threads. A client may be used by many threads; it is made once, in a thread, because
reading boto3's models takes some 0.3 s of CPU.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

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

from listener.sources.bounded_boto import bound_answers
from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.transport import (
    BATCH,
    LARGEST_ANSWER_BYTES,
    NOT_SQS,
    Failure,
    Message,
    attributes_in,
    failures_in,
    messages_in,
)
from listener.sources.sqs.trouble import Remedy, SqsTrouble, refused, unreachable

__all__ = ["BotoTransport", "make_client", "translated"]

log = structlog.get_logger()
T = TypeVar("T")

CONNECT_SECONDS = 5
ANSWER_SECONDS = 10
"""Beyond what a long poll waits by itself."""
BESIDE_POLLS = 4
"""Threads for deletions and the rest, so that they never wait for a poll to end."""
KEYLESS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)


def make_client(settings: SqsSettings, service: str = "sqs", *, connections: int = 10) -> Any:
    """Return a client with a session of its own, which reads the key anew. Blocking. Raise SqsTrouble."""
    address = settings.address
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=settings.wait_seconds + ANSWER_SECONDS,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": 1},  # waits are ours: bounded, jittered, told
        tcp_keepalive=True,
        parameter_validation=False,  # what is sent is put together below
        user_agent_extra="cdn-listener",
    )
    try:
        session = boto3.session.Session(profile_name=settings.profile or None)
        endpoint = None if address.is_aws and service != "sqs" else address.endpoint
        client = session.client(service, region_name=address.region, endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise translated(error) from None
    seconds = settings.wait_seconds + ANSWER_SECONDS
    bound_answers(client, most_bytes=LARGEST_ANSWER_BYTES, seconds=seconds, json=service == "sqs")
    return client


def translated(error: Exception, url: str = "") -> SqsTrouble:
    """Return boto3's error in our words; ``url`` is what was called."""
    if isinstance(error, ClientError):
        told, status = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        return refused(told.get("Code", ""), told.get("Message", ""), status=status.get("HTTPStatusCode", 400))
    if isinstance(error, KEYLESS):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role"
        return SqsTrouble(f"no AWS key: {error}", remedy=Remedy.RENEW, code="NoCredentials", hint=hint)
    return unreachable(error, url)


class _Shared:
    """A client, closed once it is retired and nobody uses it any more."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    @contextmanager
    def used(self) -> Iterator[Any]:
        with self._lock:
            self._users += 1
        try:
            yield self._client
        finally:
            self._leave()

    def retire(self) -> None:
        with self._lock:
            self._users += 1
            self._retired = True
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            unused = self._retired and not self._users
        if unused:
            self._client.close()


class BotoTransport:
    """See :class:`~listener.sources.sqs.transport.Transport`."""

    def __init__(self, settings: SqsSettings) -> None:
        """Keep the settings; nothing starts before the first call."""
        self._settings = settings
        self._threads = settings.pollers + BESIDE_POLLS
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sqs")
        self._lock = threading.Lock()
        self._shared: _Shared | None = None
        self._open = 0
        """Calls under way, waiting for a thread, or whose messages are yet to be given back."""
        self._closed = False

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        """Return up to ten messages. Cancelled, the thread gives back what still comes."""
        future = self._submit(self._receive, wait_seconds)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                self._count(1)
                future.add_done_callback(self._give_back_soon)
            raise

    async def delete(self, handles: Sequence[str]) -> Sequence[Failure]:
        """Delete up to ten messages."""
        entries = [{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(handles)]
        answer = await self._run(lambda client: client.delete_message_batch(QueueUrl=self._url, Entries=entries))
        return failures_in(answer)

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[Failure]:
        """Hide up to ten messages."""
        return failures_in(await self._run(lambda client: self._hide(client, handles, seconds)))

    async def attributes(self) -> Mapping[str, str]:
        """Return what the queue tells of itself."""
        answer = await self._run(lambda client: client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"]))
        return attributes_in(answer)

    async def renew(self) -> None:
        """Make a new client for the next call; those under way end with the old one."""
        self._retire()

    async def close(self) -> None:
        """Let the threads end with what they do, and the client with the last of them."""
        self._closed = True
        self._pool.shutdown(wait=False)
        self._count(0)

    # -- in threads ------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return self._settings.queue_url

    async def _run(self, call: Callable[[Any], T]) -> T:
        """Make a call that goes on also when nobody waits for it any more: a deletion is never taken back."""
        return await asyncio.shield(asyncio.wrap_future(self._submit(call)))

    def _submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        try:
            future = self._pool.submit(self._call, call, *arguments)
        except RuntimeError:
            raise SqsTrouble("this reader of the queue was closed", remedy=Remedy.TELL) from None
        self._count(1)
        future.add_done_callback(lambda _: self._count(-1))
        return future

    def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        with self._lock:
            if self._shared is None:
                self._shared = _Shared(make_client(self._settings, connections=self._threads))
            shared = self._shared
        try:
            with shared.used() as client:
                return call(client, *arguments)
        except SqsTrouble:
            raise
        except (BotoCoreError, ClientError, OSError) as error:
            raise translated(error, self._settings.address.endpoint) from None
        except Exception as error:
            # botocore's parsers let through whatever an answer that is none of SQS's makes Python raise.
            what = f"SQS answered with something that cannot be read ({type(error).__name__})"
            raise SqsTrouble(what, remedy=Remedy.TELL, hint=NOT_SQS) from error

    def _retire(self) -> None:
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            shared.retire()

    def _receive(self, client: Any, wait_seconds: int) -> list[Message]:
        answer = client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self._settings.visibility_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return messages_in(answer)

    def _hide(self, client: Any, handles: Sequence[str], seconds: int) -> Mapping[str, Any]:
        entries = [
            {"Id": str(at), "ReceiptHandle": handle, "VisibilityTimeout": seconds} for at, handle in enumerate(handles)
        ]
        answer: Mapping[str, Any] = client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        return answer

    # -- a poll that nobody waits for ------------------------------------------------------------

    def _give_back_soon(self, future: Future[list[Message]]) -> None:
        """Give back in a thread; where the pool takes nothing more, this is one already."""
        try:
            self._pool.submit(self._give_back, future)
        except RuntimeError:
            self._give_back(future)

    def _give_back(self, future: Future[list[Message]]) -> None:
        try:
            handles = [] if future.exception() else [message.handle for message in future.result()]
            if handles:
                self._call(self._hide, handles, 0)
                log.info("sqs.given_back", messages=len(handles))
        except SqsTrouble as error:
            log.warning("sqs.not_given_back", messages=len(handles), error=str(error))
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        """Follow how many calls will still want the client; retire it once all is closed and there is none."""
        with self._lock:
            self._open += more
            done = self._closed and not self._open
        if done:
            self._retire()
