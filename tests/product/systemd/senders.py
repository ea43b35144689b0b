"""Senders of webhooks that never pause: each request on a connection of its own, what is not taken sent again."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.sources.webhook.hooks import s3_event

Headers = Callable[[bytes], dict[str, str]]
CALL_SECONDS = 60.0


def bearing(token: str) -> Headers:
    """Return what a sender adds that knows a token."""
    return lambda body: {"Authorization": f"Bearer {token}"}


def signing(secret: str) -> Headers:
    """Return what a sender adds that signs."""
    return lambda body: {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


@dataclass
class Senders:
    """What senders saw."""

    port: int
    promised: list[str] = field(default_factory=list)
    """Keys that were answered 2xx."""
    refused: list[str] = field(default_factory=list)
    """Connections that nobody took."""
    unanswered: list[str] = field(default_factory=list)
    """Connections that ended without an answer; what was sent on them was sent again."""
    later: int = 0
    """How often "come again" was answered."""
    odd: list[bytes] = field(default_factory=list)
    """Any other answer."""

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Send once; return the whole answer, empty where there was none."""
        head = {"Host": "hook", "Content-Length": str(len(body)), "Connection": "close", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        try:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=CALL_SECONDS)
        except OSError as error:
            self.refused.append(repr(error))
            return b""
        with connection:
            try:
                connection.sendall(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
            except OSError as error:
                self.unanswered.append(repr(error))
                return b""
        if not answer:
            self.unanswered.append("closed")
        return answer

    def report(self, key: str, path: str, headers: Headers) -> bool:
        """Send the change of one key; return whether it was taken."""
        body = json.dumps(s3_event(key)).encode()
        answer = self.post(path, body, headers(body))
        status = answer.partition(b" ")[2][:3]
        if status == b"204":
            self.promised.append(key)
        elif status == b"503":
            self.later += 1
        elif answer:
            self.odd.append(answer)
        return status == b"204"

    @contextmanager
    def at_work(self, *ways: tuple[str, Headers], name: str) -> Iterator[None]:
        """Send along each way, without a pause, for as long as the block lasts; each has got through at its end."""
        over = threading.Event()

        def work(number: int, path: str, headers: Headers) -> None:
            count = 0
            while not over.is_set():
                while not self.report(f"{name}-{number}-{count}", path, headers):
                    time.sleep(0.01)
                count += 1

        threads = [threading.Thread(target=work, args=(number, *way)) for number, way in enumerate(ways)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def some_more(self) -> Callable[[], bool]:
        """Return a condition that holds once some more were taken."""
        enough = len(self.promised) + 50
        return lambda: len(self.promised) >= enough
