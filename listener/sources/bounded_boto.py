"""
Bounds for what boto3's clients read: botocore itself reads every answer to its end, however long that takes.

The errors are botocore's own for a call that failed, so that its retries and its callers treat them as ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from botocore.awsrequest import AWSResponse
from botocore.exceptions import HTTPClientError, ReadTimeoutError

from listener.text import MAX_OBJECTS, is_too_large

__all__ = ["bound_answers"]

PART_BYTES: Final = 64 * 1024


def bound_answers(client: Any, *, most_bytes: int, seconds: float, json: bool = False) -> None:
    """
    Let a client read at most so many bytes, for at most so long, of each answer.

    A body that is streamed (``get_object``) is left to its reader. ``json`` also refuses a text with more than
    :data:`~listener.text.MAX_OBJECTS` objects and lists.
    """
    send = client._endpoint.http_session.send  # botocore has no public place for it

    def send_bounded(request: Any, **_: Any) -> AWSResponse:
        deadline = time.monotonic() + seconds
        is_streamed, request.stream_output = request.stream_output, True
        response = send(request)
        if is_streamed and response.status_code < 300:
            return response
        body = _read(response.raw, most_bytes, deadline, request.url)
        if json and is_too_large(body):
            raise HTTPClientError(error=ValueError(f"the answer has more than {MAX_OBJECTS} objects and lists"))
        return AWSResponse(response.url, response.status_code, response.headers, _Read(body))

    client.meta.events.register("before-send", send_bounded)


def _read(raw: Any, most_bytes: int, deadline: float, url: str) -> bytes:
    try:
        body = b"".join(_parts(raw, most_bytes, deadline))
    except TimeoutError as error:
        raw.close()
        raise ReadTimeoutError(endpoint_url=url, error=error) from error
    except Exception as error:
        raw.close()
        raise HTTPClientError(error=error) from error
    raw.release_conn()
    return body


def _parts(raw: Any, most_bytes: int, deadline: float) -> Iterator[bytes]:
    length = 0
    while part := raw.read1(PART_BYTES, decode_content=False):
        length += len(part)
        if length > most_bytes:
            raise ValueError(f"the answer has more than {most_bytes} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
        yield part


class _Read:
    """A body that was read, as botocore takes it from its HTTP library."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        """Yield the body."""
        yield self._body
