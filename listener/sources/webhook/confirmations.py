"""Confirms subscriptions of Amazon SNS: one call for each, however often its message is sent again."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

import structlog

from listener.serving import HTTPRejection
from listener.sources.webhook.certificates import Fetch, FetchFailed

__all__ = ["Confirmations"]

log = structlog.get_logger()

MOST: Final = 1_000
"""Confirmations that are remembered; a message is too old to be accepted long before so many subscriptions come."""
MOST_CALLS: Final = 3
"""Calls for one subscription while the service does not answer; SNS sends the message again itself."""


class Confirmations:
    """Calls the service for each subscription once; again only after a call that got no answer."""

    def __init__(self, fetch: Fetch) -> None:
        """Have confirmed none."""
        self._fetch = fetch
        self._calls: OrderedDict[bytes, int] = OrderedDict()
        """Calls made, by digest of topic and token; those that were answered count as all."""
        self._under_way: dict[bytes, asyncio.Task[None]] = {}

    async def confirm(self, host: str, topic: str, token: str) -> None:
        """Confirm a subscription. Raise :class:`HTTPRejection` with 503 where the service cannot be asked now."""
        name = hashlib.sha256(f"{topic}\n{token}".encode("utf-8", "surrogatepass")).digest()
        task = self._under_way.get(name)
        if task is None:
            if self._calls.get(name, 0) >= MOST_CALLS:
                return
            task = asyncio.create_task(self._call(name, host, topic, token))
            self._under_way[name] = task
            task.add_done_callback(lambda task: self._ended(task, name))
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None], name: bytes) -> None:
        self._under_way.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it, unless they all left

    async def _call(self, name: bytes, host: str, topic: str, token: str) -> None:
        self._count(name, self._calls.get(name, 0) + 1)
        query = {"Action": "ConfirmSubscription", "TopicArn": topic, "Token": token}
        try:
            await self._fetch(f"https://{host}/?{urlencode(query)}")
        except FetchFailed as error:
            log.error("webhook.not_confirmed", topic=topic, error=str(error))
            if error.is_final:
                self._count(name, MOST_CALLS)
            raise HTTPRejection(
                HTTPStatus.SERVICE_UNAVAILABLE, "the subscription cannot be confirmed at present"
            ) from None
        self._count(name, MOST_CALLS)
        log.info("webhook.confirmed", topic=topic)

    def _count(self, name: bytes, calls: int) -> None:
        self._calls[name] = calls
        self._calls.move_to_end(name)
        if len(self._calls) > MOST:
            self._calls.popitem(last=False)
