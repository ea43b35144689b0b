"""
The signature of the message service (MNS, now SMQ): an HMAC-SHA1 over the lines of a request.

What binds the body is ``Content-MD5`` alone. A security token is sent in addition to the signature and is not signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from email.utils import formatdate

from listener.alibaba.signature.steps import Credentials, Headers, pairs

__all__ = [
    "MNS_CONTENT_TYPE",
    "MNS_VERSION",
    "content_md5",
    "mns_headers",
    "mns_signature",
    "mns_string_to_sign",
    "sign_mns",
]

MNS_VERSION = "2015-06-06"
MNS_CONTENT_TYPE = "text/xml;charset=UTF-8"
SIGNED_PREFIX = "x-mns-"


def content_md5(body: bytes) -> str:
    """Return what ``Content-MD5`` carries: base64 of the digest in hex, as the official SDK writes it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).hexdigest().encode()).decode()


def mns_headers(headers: Headers) -> str:
    """Return a ``name:value`` line for each ``x-mns-`` header, names in lower case and sorted."""
    found = sorted((name.lower(), value.strip()) for name, value in pairs(headers))
    return "".join(f"{name}:{value}\n" for name, value in found if name.startswith(SIGNED_PREFIX))


def mns_string_to_sign(method: str, resource: str, headers: Mapping[str, str]) -> str:
    """
    Return method, digest, type and date of the request, a line each, then its ``x-mns-`` headers and the resource.

    ``resource`` is path and query exactly as they are sent; ``headers`` have lower-case names, and one that is
    absent leaves its line empty.
    """
    lines = (method, *(headers.get(name, "") for name in ("content-md5", "content-type", "date")))
    return "\n".join((*lines, f"{mns_headers(headers)}{resource}"))


def mns_signature(secret: str, string_to_sign: str) -> str:
    """Return the HMAC-SHA1 in base64, with the secret as it is as key."""
    return base64.b64encode(hmac.new(secret.encode(), string_to_sign.encode(), hashlib.sha1).digest()).decode()


def sign_mns(*, method: str, resource: str, body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """
    Return all headers of a signed request but ``Host``; ``now`` is in seconds since the epoch.

    ``resource`` is path and query as they go on the wire, ``body`` the very bytes, empty for none.
    """
    headers = {"date": formatdate(now, usegmt=True), "x-mns-version": MNS_VERSION}
    if body:
        headers |= {"content-md5": content_md5(body), "content-type": MNS_CONTENT_TYPE}
    signature = mns_signature(credentials.access_key_secret, mns_string_to_sign(method, resource, headers))
    if credentials.security_token:
        headers["security-token"] = credentials.security_token
    return {**headers, "authorization": f"MNS {credentials.access_key_id}:{signature}"}
