"""
Calls by aiohttp: SQS' JSON protocol, signed by botocore.

Four calls need no client that can make all the others: a call costs a third of the CPU, and a long poll ends at
once when it is cancelled. Keys come from botocore's chain, read in a thread since that may ask other services.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from yarl import URL

from listener.egress import proxy_arguments
from listener.errors import ConfigurationError
from listener.numbers import MAX_OBJECTS, is_too_large
from listener.sources.sqs.boto import ANSWER_SECONDS, CONNECT_SECONDS, translated
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

__all__ = ["NativeTransport"]

_TYPE: Final = "application/x-amz-json-1.0"
_SYSTEM_ATTRIBUTES: Final = ["ApproximateReceiveCount", "SentTimestamp"]


class NativeTransport:
    """See :class:`~listener.sources.sqs.transport.Transport`."""

    def __init__(self, settings: SqsSettings) -> None:
        """Keep the settings; nothing starts before the first call."""
        self._settings = settings
        address = settings.address
        self._endpoint = URL(address.endpoint) / ""
        self._http: aiohttp.ClientSession | None = None
        self._region = address.region
        self._closed = False
        self._chain: Any = None
        self._renewing = asyncio.Lock()

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        """Return up to ten messages."""
        answer = await self._call(
            "ReceiveMessage",
            {
                "MaxNumberOfMessages": BATCH,
                "WaitTimeSeconds": wait_seconds,
                "VisibilityTimeout": self._settings.visibility_seconds,
                "MessageSystemAttributeNames": _SYSTEM_ATTRIBUTES,
            },
            patience_seconds=wait_seconds + ANSWER_SECONDS,
        )
        return messages_in(answer)

    async def delete(self, handles: Sequence[str]) -> Sequence[Failure]:
        """Delete up to ten messages."""
        entries = [{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(handles)]
        return failures_in(await self._call("DeleteMessageBatch", {"Entries": entries}))

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[Failure]:
        """Hide up to ten messages."""
        entries = [
            {"Id": str(at), "ReceiptHandle": handle, "VisibilityTimeout": seconds} for at, handle in enumerate(handles)
        ]
        return failures_in(await self._call("ChangeMessageVisibilityBatch", {"Entries": entries}))

    async def attributes(self) -> Mapping[str, str]:
        """Return what the queue tells of itself."""
        return attributes_in(await self._call("GetQueueAttributes", {"AttributeNames": ["All"]}))

    async def renew(self) -> None:
        """Read the key anew for the next call."""
        self._chain = None

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        self._closed = True
        if self._http is not None:
            await self._http.close()

    # -- one call --------------------------------------------------------------------------------

    async def _call(
        self, action: str, parameters: Mapping[str, Any], *, patience_seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        body = json.dumps({"QueueUrl": self._settings.queue_url, **parameters}).encode()
        headers = await self._signed(action, body)
        timeout = aiohttp.ClientTimeout(total=patience_seconds, connect=CONNECT_SECONDS)
        try:
            async with self._session().post(
                self._endpoint, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await _body(response)
                status, named = response.status, response.headers.get("x-amzn-query-error", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error, str(self._endpoint)) from None
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise unreachable(OSError("HTTP 407 Proxy Authentication Required"), str(self._endpoint))
        return _answer(raw, status, named)

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise SqsTrouble("this reader of the queue was closed", remedy=Remedy.TELL)
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=0)  # how many calls are made is decided by who makes them
            try:
                self._http = aiohttp.ClientSession(connector=connector, **proxy_arguments(str(self._endpoint)))
            except ConfigurationError as error:
                raise SqsTrouble(str(error), remedy=Remedy.TELL, hint=error.hint) from None
        return self._http

    async def _signed(self, action: str, body: bytes) -> dict[str, str]:
        request = AWSRequest(
            "POST",
            str(self._endpoint),
            data=body,
            headers={"Content-Type": _TYPE, "X-Amz-Target": f"AmazonSQS.{action}", "Accept-Encoding": "identity"},
        )
        SigV4Auth(await self._frozen_key(), "sqs", self._region).add_auth(request)
        return dict(request.headers.items())

    async def _frozen_key(self) -> Any:
        """Return the key that is valid now; it is read, and refreshed, in a thread."""
        async with self._renewing:
            if self._chain is None or self._needs_refresh(self._chain):
                return await asyncio.to_thread(self._read_key)
            return self._chain.get_frozen_credentials()

    @staticmethod
    def _needs_refresh(chain: Any) -> bool:
        return bool(getattr(chain, "refresh_needed", bool)())

    def _read_key(self) -> Any:
        try:
            if self._chain is None:
                self._chain = botocore.session.Session(profile=self._settings.profile or None).get_credentials()
            if self._chain is not None:
                return self._chain.get_frozen_credentials()
        except (BotoCoreError, OSError) as error:
            raise translated(error) from None
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role"
        raise SqsTrouble("no AWS key: none was found", remedy=Remedy.RENEW, code="NoCredentials", hint=hint)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER_BYTES:
            raise SqsTrouble("SQS answered with more than ten messages can be", remedy=Remedy.TELL, hint=NOT_SQS)
        parts.append(part)
    return b"".join(parts)


def _answer(raw: bytes, status: int, named: str) -> dict[str, Any]:
    if is_too_large(raw):
        what = f"SQS answered with more than {MAX_OBJECTS} objects and lists"
        raise SqsTrouble(what, remedy=Remedy.TELL, hint=NOT_SQS)
    try:
        answer = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    told = answer if isinstance(answer, dict) else {}
    code = named.partition(";")[0] or str(told.get("__type", ""))
    message = str(told.get("message") or told.get("Message") or "")
    if status == 200:
        raise SqsTrouble("SQS answered with something that is no JSON", remedy=Remedy.TELL, hint=NOT_SQS)
    raise refused(code, message, status=status)
