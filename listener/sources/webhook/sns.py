"""
Amazon SNS: signed messages of topics that are expected, and the handshake of a subscription.

What is signed: the values of the fields below with their names, a line each, absent ones left out; form 1 with
SHA-1, form 2 with SHA-256 (AWS, "Verifying the signatures of Amazon SNS messages"). Only these are read, each of them
as the text that was signed: of a notification its ``Message`` alone is decoded. The confirmation is called at an
address that we make ourselves, once: the one in the message is not followed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import structlog

from listener.clock import Clock
from listener.formats.reading import load
from listener.serving import HTTPRejection
from listener.sources.webhook.certificates import Certificates, Fetch, https_url
from listener.sources.webhook.confirmations import Confirmations
from listener.sources.webhook.guards import Authenticated, Request, check_age

__all__ = ["Sns", "SnsMessage", "read_message"]

log = structlog.get_logger()

HASHES: Final = {"1": "sha1", "2": "sha256"}
_NOTICE: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_HANDSHAKE: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
SIGNED_FIELDS: Final = {
    "Notification": _NOTICE,
    "SubscriptionConfirmation": _HANDSHAKE,
    "UnsubscribeConfirmation": _HANDSHAKE,
}
_CERTIFICATE_PATH: Final = re.compile(r"/SimpleNotificationService-[0-9a-f]{8,64}\.pem")
_TYPE_HEADER: Final = "x-amz-sns-message-type"
_RAW_HEADER: Final = "x-amz-sns-rawdelivery"


class SnsMessage(NamedTuple):
    """What a message says of itself, its form checked and nothing else."""

    kind: str
    message_id: str
    topic: str
    sent_at: float | None
    signed: bytes
    signature: bytes
    digest: str
    certificate_url: str
    token: str
    content: str


def read_message(body: bytes) -> SnsMessage:
    """Return what the body says; pure. Raise :class:`HTTPRejection` for what is no signed message of SNS."""
    try:
        fields = load(body)
        kind, digest = _text(fields, "Type"), HASHES[fields["SignatureVersion"]]
        present = [name for name in SIGNED_FIELDS[kind] if fields.get(name) is not None]
        lines = [f"{name}\n{_text(fields, name)}\n" for name in present]
        return SnsMessage(
            kind=kind,
            message_id=_text(fields, "MessageId"),
            topic=_text(fields, "TopicArn"),
            sent_at=_moment(_text(fields, "Timestamp")),
            signed="".join(lines).encode(),
            signature=base64.b64decode(_text(fields, "Signature"), validate=True),
            digest=digest,
            certificate_url=_text(fields, "SigningCertURL"),
            token=_text(fields, "Token") if "Token" in present else "",
            content=_text(fields, "Message"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise HTTPRejection(HTTPStatus.FORBIDDEN, "not a signed message of Amazon SNS") from None


class Sns:
    """Accepts the topics that are expected."""

    def __init__(
        self,
        topics: Collection[str],
        *,
        window_seconds: float,
        more_hosts: Collection[str],
        certificates: Certificates,
        fetch: Fetch,
        clock: Clock,
        unsubscribed: Callable[[Collection[str]], None],
    ) -> None:
        """
        Expect these topics.

        Args:
            topics: their ARNs.
            window_seconds: how old a message may be.
            more_hosts: hosts that may hold certificates, and take confirmations, beside SNS's own.
            certificates: checks signatures.
            fetch: calls for a confirmation.
            clock: tells how old a message is.
            unsubscribed: called with the topics that said that they send no more, whenever these change.
        """
        self._topics = frozenset(topics)
        self._window_seconds = window_seconds
        self._more_hosts = frozenset(more_hosts)
        self._certificates = certificates
        self._confirmations = Confirmations(fetch)
        self._clock = clock
        self._unsubscribed: set[str] = set()
        self._tell = unsubscribed

    def knows(self, request: Request) -> bool:
        """Whether it calls itself a message of SNS; a raw delivery bears no signature."""
        return _TYPE_HEADER in request.headers and request.headers.get(_RAW_HEADER, "").lower() != "true"

    def check_head(self, request: Request) -> None:
        """Look at the topic, which the signature will have to confirm."""
        topic = request.headers.get("x-amz-sns-topic-arn")
        if topic is not None and topic not in self._topics:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "this topic is not expected")

    async def check(self, request: Request, body: bytes) -> Authenticated:
        """Verify; confirm a subscription, and remember the end of one."""
        message = read_message(body)
        if message.topic not in self._topics:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "this topic is not expected")
        check_age(message.sent_at, now=self._clock.now(), past_seconds=self._window_seconds)
        host = self._trusted_host(message)
        await self._certificates.check(
            message.certificate_url,
            signature=message.signature,
            signed=(message.signed,),
            digest=message.digest,
            sender=request.client,
        )
        if message.kind == "SubscriptionConfirmation":
            await self._confirmations.confirm(host, message.topic, message.token)
        elif message.kind == "UnsubscribeConfirmation":
            log.error("webhook.unsubscribed", topic=message.topic, hint="nothing of this topic arrives any more")
            self._note(message.topic, ended=True)
        else:
            self._note(message.topic, ended=False)
        is_event = message.kind == "Notification"
        content = message.content.encode("utf-8", "surrogatepass") if is_event else None
        return Authenticated(message.message_id, is_event=is_event, content=content)

    def _trusted_host(self, message: SnsMessage) -> str:
        """Return the host of the certificate; refuse any but SNS's own in the topic's region, and those named by us."""
        url = https_url(message.certificate_url)
        if url is not None and url.netloc in self._more_hosts:
            return url.netloc
        partition, region = message.topic.split(":")[1:4:2]
        host = f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")
        if url is None or url.netloc != host or url.query or not _CERTIFICATE_PATH.fullmatch(url.path):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "the certificate is not at an address of Amazon SNS")
        return host

    def _note(self, topic: str, *, ended: bool) -> None:
        if ended is not (topic in self._unsubscribed):
            self._unsubscribed.symmetric_difference_update({topic})
            self._tell(sorted(self._unsubscribed))


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _moment(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
