"""Who calls: AWS's signature, version 4, checked by botocore."""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aiohttp import web

from listener.emulator.cloudfront.faults import Problem

__all__ = ["AccessKey", "require_signature"]

REGION, SERVICE = "us-east-1", "cloudfront"
MOST_SKEW_SECONDS: Final = 15 * 60.0
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/, ]+)/(\d{8})/([\w-]+)/([\w-]+)/aws4_request,"
    r" ?SignedHeaders=([\w;-]+), ?Signature=([0-9a-f]{64})"
)


class AccessKey(NamedTuple):
    """The one key that may call."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"AccessKey({self.id!r})"


def require_signature(request: web.Request, body: bytes, key: AccessKey, now: float) -> None:
    """Raise :class:`Problem` unless a request was signed with the key, within a quarter of an hour of ``now``."""
    match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    stamp = request.headers.get("X-Amz-Date", "")
    if match is None or not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        raise Problem("MissingAuthenticationToken")
    key_id, day, region, service, signed, signature = match.groups()
    if key_id != key.id:
        raise Problem("InvalidClientTokenId")
    if (region, service, day) != (REGION, SERVICE, stamp[:8]):
        raise Problem("SignatureDoesNotMatch", reason=f"Credential should be scoped to {REGION} and {SERVICE}.")
    sent_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    if abs(now - sent_at) > MOST_SKEW_SECONDS:
        ours = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
        order = "expired" if sent_at < now else "not yet current"
        raise Problem("SignatureDoesNotMatch", reason=f"Signature {order}: {stamp} compared with {ours}")
    names = signed.split(";")
    if "host" not in names or "x-amz-date" not in names:
        raise Problem("SignatureDoesNotMatch", reason="host and x-amz-date must be signed")
    expected = _signature(request, body, key, names, stamp)
    if not hmac.compare_digest(expected, signature):
        raise Problem(
            "SignatureDoesNotMatch",
            reason="The request signature we calculated does not match the signature you provided.",
        )


def _signature(request: web.Request, body: bytes, key: AccessKey, names: list[str], stamp: str) -> str:
    from botocore.auth import SigV4Auth  # noqa: PLC0415 - of the extra aws
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415

    url = f"http://{request.headers.get('Host', '')}{request.raw_path}"
    headers = {name: request.headers.get(name, "") for name in names}
    copy = AWSRequest(request.method, url, headers=headers, data=body)
    copy.context["timestamp"] = stamp
    signer = SigV4Auth(Credentials(key.id, key.secret), SERVICE, REGION)
    text = signer.string_to_sign(copy, signer.canonical_request(copy))
    return str(signer.signature(text, copy))
