"""A webhook source that a test follows as the pipeline does, a client for it, and a signer with a certificate."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from yarl import URL

from listener.contracts import Delivery
from listener.sources.webhook import WebhookSettings, WebhookSource
from listener.sources.webhook.authentication.certificates import FetchFailed
from listener.testing import Follower

TOKEN = "0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TOPIC = "arn:aws:sns:eu-central-1:111122223333:site"
CERTIFICATE_URL = (
    "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
)


class AheadClock:
    """The machine's clock, which a test moves on."""

    ahead_seconds = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.ahead_seconds


def s3_event(*keys: str, bucket: str = "site", name: str = "ObjectCreated:Put", **record: Any) -> dict[str, Any]:
    """Return a notification of S3 about these keys, which must need no encoding."""
    return {
        "Records": [
            {
                "eventVersion": "2.2", "eventSource": "aws:s3", "eventName": name,
                "eventTime": "2026-11-22T10:00:00.000Z",
                "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "eTag": "abc", "sequencer": "0A"}},
                **record,
            }
            for key in keys
        ]
    }  # fmt: skip


class Hook(Follower):
    """A source that runs, and a client of it; acknowledges at once unless ``commits`` is cleared."""

    source: WebhookSource

    def __init__(self, source: WebhookSource, http: aiohttp.ClientSession) -> None:
        """Follow the source, once started."""
        super().__init__(source)
        self.http = http
        self.commits = asyncio.Event()
        """Cleared: nothing is acknowledged, as by a store that cannot commit."""
        self.commits.set()

    @property
    def base(self) -> str:
        """Scheme and address."""
        scheme = "https" if self.source.settings.tls_certificate else "http"
        return f"{scheme}://{self.source.address}"

    @property
    def url(self) -> str:
        """Where to send to."""
        return self.base + self.source.settings.path

    @property
    def keys(self) -> list[str]:
        """The keys that are durable."""
        return [change.key for change in self.changes]

    @property
    def figures(self) -> dict[str, float]:
        """What the source reports."""
        return self.source.health.figures

    async def commit(self, delivery: Delivery) -> None:
        """Wait while the store of the test cannot commit."""
        await self.commits.wait()

    async def post(
        self, body: bytes | str | dict[str, Any], headers: dict[str, str] | None = None, *, url: str = "", **more: Any
    ) -> tuple[int, str]:
        """Send, with the token unless other headers are given; return status and text."""
        data = json.dumps(body) if isinstance(body, dict) else body
        sent = BEARER if headers is None else headers
        async with self.http.post(URL(url or self.url, encoded=True), data=data, headers=sent, **more) as response:
            return response.status, await response.text()


@asynccontextmanager
async def a_hook(name: str = "hook", *, http: dict[str, Any] | None = None, **given: Any) -> AsyncIterator[Hook]:
    """Run a source on a free port; its own arguments (``fetch``, ``clock``) may be among the settings."""
    own = {key: given.pop(key) for key in ("fetch", "clock") if key in given}
    proves = {"token", "secret", "anonymous", "sns_topics", "eventbridge_accounts"}
    settings = {"listen": "127.0.0.1:0", **({} if proves & given.keys() else {"token": TOKEN}), **given}
    source = WebhookSource(name, WebhookSettings(**settings), **own)
    async with aiohttp.ClientSession(**(http or {})) as session:
        hook = Hook(source, session)
        hook.start()
        try:
            await hook.until(lambda: source.health.ready, "ready")
            yield hook
        finally:
            await hook.stop()


class Signer:
    """Signs as a cloud does, with a certificate of its own; counts what is fetched."""

    def __init__(self, *, days: tuple[float, float] = (-1, 30), bits: int = 2048) -> None:
        """Make a key and a certificate that is valid from so many days from now until so many."""
        self.key = rsa.generate_private_key(65537, bits)
        self.certificate = make_certificate(self.key, days=days)
        self.fetched: list[str] = []
        self.answers: dict[str, bytes] = {}
        self.is_down = False

    @property
    def pem(self) -> bytes:
        """The certificate as it is fetched."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    async def fetch(self, url: str) -> bytes:
        """Stand in for the network."""
        self.fetched.append(url)
        if self.is_down:
            raise FetchFailed("down")
        if "Action=" in url:
            return b"<ConfirmSubscriptionResponse/>"
        return self.pem

    def sign(self, text: bytes, digest: hashes.HashAlgorithm) -> str:
        """Return the signature in Base64."""
        return base64.b64encode(self.key.sign(text, padding.PKCS1v15(), digest)).decode()

    def sns(self, message: str, *, version: str = "2", kind: str = "Notification", **fields: Any) -> dict[str, Any]:
        """Return a signed message of SNS, put together from the vendor's description."""
        envelope = {
            "Type": kind, "MessageId": base64.b16encode(str(time.monotonic_ns()).encode()).decode(), "TopicArn": TOPIC,
            "Message": message, "Timestamp": sns_time(), "SignatureVersion": version, "SigningCertURL": CERTIFICATE_URL,
            **fields,
        }  # fmt: skip
        signed = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
        if kind != "Notification":
            signed = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
        text = "".join(f"{name}\n{envelope[name]}\n" for name in signed if name in envelope).encode()
        envelope["Signature"] = self.sign(text, hashes.SHA1() if version == "1" else hashes.SHA256())
        return envelope


def sns_time(ahead_seconds: float = 0.0) -> str:
    """Return a moment as SNS writes it."""
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def make_certificate(
    key: rsa.RSAPrivateKey, *, days: tuple[float, float] = (-1, 30), name: str = "localhost"
) -> x509.Certificate:
    """Return a certificate for a key, signed by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def write_tls(folder: Path, **options: Any) -> tuple[Path, Path]:
    """Write a certificate for ``localhost`` with its key; return both paths."""
    key = rsa.generate_private_key(65537, 2048)
    certificate, private = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(make_certificate(key, **options).public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private
