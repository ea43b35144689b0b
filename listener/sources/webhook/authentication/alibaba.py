"""
Signatures of Alibaba Cloud: pushes of MNS topics, and HTTP targets of EventBridge.

MNS signs with SHA-1: verb, Content-MD5, Content-Type, Date, the sorted ``x-mns-`` headers, path. Only its MD5 binds
the body, and the certificate in use had 512 bits and had expired in 2016: the signature keeps out accidents, so the
path should be secret too (``check`` says so). EventBridge signs with SHA-256: the URL, a fixed list of headers, the
body; its pages and its library differ in a final line feed. It signs for every account, and an account may put any
account id into its events: the signature proves that EventBridge sends, and only the target's token proves whose rule.
Sources: Alibaba Cloud "SMQ HTTP endpoint", "Verify the signature of an HTTP target" (EventBridge).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from listener.clock import Clock
from listener.formats.reading import load
from listener.serving import HTTPRejection
from listener.sources.webhook.authentication.certificates import Certificates, https_url
from listener.sources.webhook.authentication.shared_secrets import Authenticated, RequestHead, Token, check_age
from listener.sources.webhook.settings import WebhookSettings
from listener.text import header_time, whole_number

__all__ = ["EventBridge", "Mns", "eventbridge_signed", "mns_signed"]

MNS_CERTIFICATES: Final = frozenset({"https://mnstest.oss-cn-hangzhou.aliyuncs.com/x509_public_certificate.pem"})
"""Exactly this: anybody can own another bucket of that domain."""
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


class Mns:
    """Accepts pushes of the topics in ``mns_topics``."""

    def __init__(self, settings: WebhookSettings, certificates: Certificates, clock: Clock) -> None:
        """Read topics (owner and name with a slash between), window and further hosts from the settings."""
        self._topics = frozenset(settings.mns_topics)
        self._window_seconds = settings.replay_seconds
        self._more_hosts = frozenset(settings.certificate_hosts)
        self._certificates = certificates
        self._clock = clock

    def matches(self, request: RequestHead) -> bool:
        """Return whether it names a certificate of MNS."""
        return "x-mns-signing-cert-url" in request.headers

    def check_head(self, request: RequestHead) -> None:
        """Look at topic, time and certificate, which the signature will have to confirm."""
        headers = request.headers
        topic = f"{headers.get('x-mns-topic-owner', '')}/{headers.get('x-mns-topic-name', '')}"
        if topic not in self._topics:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "this topic is not expected")
        check_age(header_time(headers.get("Date", "")), now=self._clock.now(), past_seconds=self._window_seconds)
        self._certificate_url(request)

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:
        """Verify the signature of the head, and by its digest the body."""
        if not _has_md5(request.headers.get("Content-MD5", ""), body):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "the body is not the one that was signed")
        await self._certificates.check(
            self._certificate_url(request),
            signature=_unbase64(request.headers.get("Authorization", "")),
            signed=(mns_signed(request),),
            digest="sha1",
            sender=request.client,
            must_be_valid=False,
        )
        return Authenticated(request.headers.get("x-mns-message-id", ""))

    def _certificate_url(self, request: RequestHead) -> str:
        text = _unbase64(request.headers["x-mns-signing-cert-url"]).decode("latin-1")
        url = https_url(text)
        if url is None or (text not in MNS_CERTIFICATES and url.netloc not in self._more_hosts):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "the certificate is not at an address of MNS")
        return text


def mns_signed(request: RequestHead) -> bytes:
    """Return what MNS signs of a request; pure."""
    headers = request.headers
    first = [request.method, *(headers.get(name, "") for name in ("Content-MD5", "Content-Type", "Date"))]
    own = sorted(f"{name.lower()}:{headers[name]}" for name in headers if name.lower().startswith("x-mns-"))
    return "\n".join([*first, *own, request.target]).encode("utf-8", "surrogateescape")


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
            signature=_unbase64(request.headers["x-eventbridge-signature-v2"]),
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


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _has_md5(header: str, body: bytes) -> bool:
    """Return whether a digest, in any of the ways in which MNS was seen to write it, is the body's."""
    digest = hashlib.md5(body, usedforsecurity=False)
    hexadecimal = digest.hexdigest()
    forms = {hexadecimal, base64.b64encode(digest.digest()).decode(), base64.b64encode(hexadecimal.encode()).decode()}
    return header.strip() in forms or header.strip().lower() == hexadecimal
