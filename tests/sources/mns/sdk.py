"""The official SDK as a client of the fake: it signs, encodes and decodes by itself; blocking, so in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from mns.account import Account
from mns.queue import Message, Queue

T = TypeVar("T")


class Sdk:
    """A queue as the official SDK sees it."""

    def __init__(self, url: str, *, secret: str = "testsecret", token: str = "", encode: bool = True) -> None:
        """Connect on the first call; ``encode``: bodies are sent in Base64, as OSS does."""
        self.account = Account(url, "testid", secret, token)
        self.queue: Queue = self.account.get_queue("events")
        self.queue.set_encoding(encode)

    async def do(self, call: Callable[..., T], *arguments: Any) -> T:
        """Make a blocking call in a thread."""
        return await asyncio.to_thread(call, *arguments)

    async def send(self, *bodies: str) -> list[str]:
        """Send messages; return their ids."""
        if len(bodies) == 1:
            return [(await self.do(self.queue.send_message, Message(bodies[0]))).message_id]
        sent = await self.do(self.queue.batch_send_message, [Message(body) for body in bodies])
        return [one.message_id for one in sent]

    async def receive(self, count: int = 16, wait_seconds: int = 0) -> list[Any]:
        """Receive messages; raises what the SDK raises when there are none."""
        return list(await self.do(self.queue.batch_receive_message, count, wait_seconds))

    def close(self) -> None:
        """Close its only connection."""
        self.account.mns_client.close_connection()
