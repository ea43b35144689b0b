"""Whatever is sent: authenticators accept or reject, and raise nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from listener.clock import SystemClock
from listener.serving import HTTPRejection
from listener.sources.webhook.authentication import Authenticator, RequestHead, make_authenticators
from listener.sources.webhook.authentication.certificates import Certificates
from listener.sources.webhook.authentication.signatures import EVENTBRIDGE_HEADERS, SIGNED_FIELDS, read_message
from listener.sources.webhook.settings import WebhookSettings
from tests.sources.webhook.hooks import TOPIC, Signer

pytestmark = pytest.mark.looptime(False)

SIGNER = Signer(bits=1024)
TEXTS = st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40)
VALUES = st.one_of(st.none(), st.integers(), st.booleans(), st.floats(), TEXTS, st.lists(st.integers(), max_size=2))
FIELDS = sorted({name for names in SIGNED_FIELDS.values() for name in names} | {"SignatureVersion", "SigningCertURL"})
HEADERS = [
    "Authorization", "X-Hub-Signature-256", "X-Time", "Content-MD5", "Date", "x-amz-sns-message-type",
    "x-amz-sns-topic-arn", "x-amz-sns-rawdelivery",
    "x-eventbridge-signature-v2", *EVENTBRIDGE_HEADERS,
]  # fmt: skip
NEAR = [
    "1",
    "2",
    "SHA256",
    "Notification",
    "SubscriptionConfirmation",
    TOPIC,
    "1234",
    "oss",
    "true",
    "2026-11-22T10:00:00Z",
]
NEAR += ["Sun, 22 Nov 2026 10:00:00 GMT"]
NEAR += [
    "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    "Bearer x",
    "sha256=" + "0" * 64,
    "1795384693096",
    "9" * 5000,
]


def authenticators(**settings: Any) -> list[Authenticator]:
    """Return the authenticators of these settings."""
    clock = SystemClock()
    return make_authenticators(
        WebhookSettings(**settings), Certificates(SIGNER.fetch, clock), fetch=SIGNER.fetch, clock=clock,
        unsubscribed=lambda _: None,
    )  # fmt: skip


SIGNED = {"sns_topics": [TOPIC], "eventbridge_accounts": ["1234"]}
WAYS = [
    {**SIGNED, "token": "t", "public_url": "https://h.example/"},
    {**SIGNED, "token": "t", "opaque_data": True},
    {**SIGNED, "secret": "s", "timestamp_header": "X-Time"},
]


@pytest.mark.parametrize("settings", WAYS)
@given(
    headers=st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(NEAR) | TEXTS, max_size=8),
    body=st.binary(max_size=60) | st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(NEAR) | VALUES),
)
def test_authenticators_accept_or_reject(settings: dict[str, Any], headers: Mapping[str, str], body: Any) -> None:
    """Any headers and any body: nothing but a refusal is raised, and strangers are not admitted."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = RequestHead("POST", "/", CIMultiDict(headers))

    async def ask() -> None:
        for authenticator in authenticators(**settings):
            if authenticator.matches(head):
                authenticator.check_head(head)
                await authenticator.check(head, raw)
                raise AssertionError(f"{authenticator} accepted it")

    with pytest.raises((HTTPRejection, _Unknown)):
        asyncio.run(_or_unknown(ask()))


class _Unknown(Exception):
    """No authenticator matched the request."""


async def _or_unknown(asking: Any) -> None:
    await asking
    raise _Unknown


@given(st.binary(max_size=200) | st.recursive(VALUES, lambda each: st.dictionaries(st.sampled_from(FIELDS), each)))
def test_messages_of_sns_are_read_or_refused(body: Any) -> None:
    """Any body: read or refused."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        read_message(raw)
    except HTTPRejection as refused:
        assert refused.status == 403
