"""
What clouds sign: messages of Amazon SNS with the handshake of a subscription, and events of Alibaba EventBridge.

**Amazon SNS** signs the values of the fields below with their names, a line each, absent ones left out; form 1 with
SHA-1, form 2 with SHA-256 (AWS, "Verifying the signatures of Amazon SNS messages"). Only these are read, each of them
as the text that was signed: of a notification its ``Message`` alone is decoded. The confirmation is called at an
address that we make ourselves, once: the one in the message is not followed.

**Alibaba Cloud EventBridge** signs with SHA-256 the URL, a fixed list of headers and the body; its pages and its
library differ in a final line feed ("Verify the signature of an HTTP target"). It signs for every account, and an
account may put any account id into its events: the signature proves that EventBridge sends, and only the target's
token proves whose rule.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import structlog

from listener.clock import Clock
from listener.formats.reading import load, unbase64
from listener.serving import HTTPRejection
from listener.sources.webhook.authentication.certificates import (
    Certificates,
    Fetch,
    FetchFailed,
    SharedCalls,
    https_url,
)
from listener.sources.webhook.authentication.shared_secrets import Authenticated, RequestHead, Token, check_age
from listener.sources.webhook.settings import WebhookSettings
from listener.text import whole_number

__all__ = ["EventBridge", "Sns", "SnsMessage", "eventbridge_signed", "read_message"]

log = structlog.get_logger()

MOST_CONFIRMATIONS: Final = 1_000
"""Confirmations that are remembered; a message is too old to be accepted long before so many subscriptions come."""
MOST_CONFIRMATION_CALLS: Final = 3
"""Calls for one subscription while the service does not answer; SNS sends the message again itself."""
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

EVENTBRIDGE_REGIONS: Final = frozenset(
    {
        "cn-hangzhou", "cn-shanghai", "cn-qingdao", "cn-beijing", "cn-zhangjiakou", "cn-huhehaote", "cn-wulanchabu",
        "cn-shenzhen", "cn-guangzhou", "cn-heyuan", "cn-chengdu", "cn-hongkong", "ap-southeast-1", "ap-southeast-3",
        "ap-southeast-5", "ap-northeast-1", "eu-central-1", "eu-west-1", "us-east-1", "us-west-1",
    }
)  # fmt: skip
EVENTBRIDGE_HEADERS: Final = (
    "x-eventbridge-signature-timestamp",
    "x-eventbridge-hash-method",
    "x-eventbridge-signature-version",
    "x-eventbridge-signature-url",
    "x-eventbridge-signature-token",
)


class SnsMessage(NamedTuple):
    """The fields of a message, whose form is checked and whose signature is not."""

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
    """Parse a body; pure. Raise :class:`HTTPRejection` for what is no signed message of SNS."""
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
    """Accepts messages of the topics in ``sns_topics``."""

    def __init__(
        self,
        settings: WebhookSettings,
        certificates: Certificates,
        *,
        fetch: Fetch,
        clock: Clock,
        unsubscribed: Callable[[Collection[str]], None],
    ) -> None:
        """
        Read topics, window and further hosts from the settings.

        ``fetch`` confirms subscriptions; ``unsubscribed`` is called with the topics whose subscription has ended,
        whenever these change.
        """
        self._topics = frozenset(settings.sns_topics)
        self._window_seconds = settings.sns_replay_seconds
        self._more_hosts = frozenset(settings.certificate_hosts)
        self._certificates = certificates
        self._confirmations = Confirmations(fetch)
        self._clock = clock
        self._unsubscribed: set[str] = set()
        self._report_unsubscribed = unsubscribed

    def matches(self, request: RequestHead) -> bool:
        """Return whether it claims to be a message of SNS; a raw delivery has no signature."""
        return _TYPE_HEADER in request.headers and request.headers.get(_RAW_HEADER, "").lower() != "true"

    def check_head(self, request: RequestHead) -> None:
        """Look at the topic, which the signature will have to confirm."""
        topic = request.headers.get("x-amz-sns-topic-arn")
        if topic is not None and topic not in self._topics:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "this topic is not expected")

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:
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
            self._report_unsubscribed(sorted(self._unsubscribed))


class Confirmations:
    """Calls the service for each subscription once; again only after a call that got no answer."""

    def __init__(self, fetch: Fetch) -> None:
        """Have confirmed none."""
        self._fetch = fetch
        self._calls: OrderedDict[bytes, int] = OrderedDict()
        """Calls made, by digest of topic and token; those that were answered count as all."""
        self._under_way: SharedCalls[None] = SharedCalls()

    async def confirm(self, host: str, topic: str, token: str) -> None:
        """Confirm a subscription. Raise :class:`HTTPRejection` with 503 where the service does not answer now."""
        name = hashlib.sha256(f"{topic}\n{token}".encode("utf-8", "surrogatepass")).digest()
        if name in self._under_way or self._calls.get(name, 0) < MOST_CONFIRMATION_CALLS:
            await self._under_way.wait(name, lambda: self._call(name, host, topic, token))

    async def _call(self, name: bytes, host: str, topic: str, token: str) -> None:
        self._count(name, self._calls.get(name, 0) + 1)
        query = {"Action": "ConfirmSubscription", "TopicArn": topic, "Token": token}
        try:
            await self._fetch(f"https://{host}/?{urlencode(query)}")
        except FetchFailed as error:
            log.error("webhook.not_confirmed", topic=topic, error=str(error))
            if error.is_final:
                self._count(name, MOST_CONFIRMATION_CALLS)
            raise HTTPRejection(
                HTTPStatus.SERVICE_UNAVAILABLE, "the subscription cannot be confirmed at present"
            ) from None
        self._count(name, MOST_CONFIRMATION_CALLS)
        log.info("webhook.confirmed", topic=topic)

    def _count(self, name: bytes, calls: int) -> None:
        self._calls[name] = calls
        self._calls.move_to_end(name)
        if len(self._calls) > MOST_CONFIRMATIONS:
            self._calls.popitem(last=False)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _moment(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


class EventBridge:
    """Accepts events of the accounts in ``eventbridge_accounts``, with the target's token and signed for our URL."""

    def __init__(
        self, settings: WebhookSettings, certificates: Certificates, clock: Clock, token: Token | None
    ) -> None:
        """Read accounts, window, hosts and URL from the settings; without URL or token nothing is accepted."""
        self._accounts = frozenset(settings.eventbridge_accounts)
        self._window_seconds = settings.replay_seconds
        self._more_hosts = frozenset(settings.certificate_hosts)
        self._public_url = settings.public_url
        self._token = token
        self._certificates = certificates
        self._clock = clock

    def matches(self, request: RequestHead) -> bool:
        """Return whether it has a signature of the second form; the first, with SHA-1, is not accepted."""
        return "x-eventbridge-signature-v2" in request.headers

    def check_head(self, request: RequestHead) -> None:
        """Compare the token; look at method, time and certificate, which the signature will have to confirm."""
        self._check_token(request)
        if request.headers.get("x-eventbridge-hash-method") != "SHA256":
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "not signed with SHA-256")
        milliseconds = whole_number(request.headers.get("x-eventbridge-signature-timestamp", ""))
        sent_at = None if milliseconds is None else milliseconds / 1000
        check_age(sent_at, now=self._clock.now(), past_seconds=self._window_seconds)
        self._certificate_url(request)

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:
        """Verify the signature, then look for an expected account."""
        signed = eventbridge_signed(self._public_url, request.headers, body)
        await self._certificates.check(
            self._certificate_url(request),
            signature=unbase64(request.headers["x-eventbridge-signature-v2"].strip()) or b"",
            signed=(signed, signed + b"\n"),
            digest="sha256",
            sender=request.client,
        )
        account, event_id = _account_and_id(body)
        if account not in self._accounts:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "this account is not expected")
        return Authenticated(event_id)

    def _check_token(self, request: RequestHead) -> None:
        if self._token is None or not self._public_url:
            raise HTTPRejection(
                HTTPStatus.FORBIDDEN,
                "this source is not set up for EventBridge",
                "set the source's token and public_url: cdn-listener check",
            )
        names = ("x-eventbridge-signature-token", self._token.header)
        if not any(self._token.is_right(request.headers.get(name, "")) for name in names):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong token")

    def _certificate_url(self, request: RequestHead) -> str:
        text = request.headers.get("x-eventbridge-signature-url", "")
        url = https_url(text)
        if url is None or not (_is_eventbridge(url.netloc) or url.netloc in self._more_hosts):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "the certificate is not at an address of EventBridge")
        return text


def eventbridge_signed(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return what EventBridge signs of a request; pure."""
    lines = [f"{name}: {headers[name]}" for name in EVENTBRIDGE_HEADERS if name in headers]
    return "\n".join([url, *lines, ""]).encode("utf-8", "surrogateescape") + body


def _is_eventbridge(host: str) -> bool:
    """Return whether a host is a bucket of EventBridge's; anybody can own one of a region that does not exist."""
    region, is_one, rest = host.partition("-eventbridge.oss-accelerate.aliyuncs.com")
    return bool(is_one) and not rest and region in EVENTBRIDGE_REGIONS


def _account_and_id(body: bytes) -> tuple[str, str]:
    try:
        event: Any = load(body)
        return str(event.get("aliyunaccountid", "")), str(event.get("id", ""))
    except (ValueError, AttributeError, RecursionError):
        return "", ""
