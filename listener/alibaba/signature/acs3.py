"""ACS3-HMAC-SHA256: every header that matters is named and signed, and the body by its digest."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from typing import NamedTuple

from listener.alibaba.signature.steps import (
    Credentials,
    Headers,
    Pairs,
    Problem,
    canonical_query,
    pairs,
    same,
    timestamp,
)

__all__ = [
    "ACS3_ALGORITHM",
    "EMPTY_SHA256",
    "Acs3Authorization",
    "acs3_canonical_request",
    "acs3_signature",
    "acs3_string_to_sign",
    "body_sha256",
    "canonical_headers",
    "parse_acs3_authorization",
    "sign_acs3",
    "verify_acs3",
]

ACS3_ALGORITHM = "ACS3-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
SIGNED_PREFIX = "x-acs-"


class Acs3Authorization(NamedTuple):
    """The parts of an ``Authorization: ACS3-HMAC-SHA256 …`` header."""

    access_key_id: str
    signed_header_names: tuple[str, ...]
    signature: str


def body_sha256(body: bytes) -> str:
    """Return the hex digest that ``x-acs-content-sha256`` carries."""
    return hashlib.sha256(body).hexdigest()


def canonical_headers(headers: Headers, names: Collection[str]) -> str:
    """Return a ``name:value`` line for each name, sorted; values trimmed, those of one name joined by a comma."""
    values: dict[str, list[str]] = {name.lower(): [] for name in names}
    for name, value in pairs(headers):
        if name.lower() in values:
            values[name.lower()].append(value.strip())
    return "".join(f"{name}:{','.join(sorted(found))}\n" for name, found in sorted(values.items()))


def acs3_canonical_request(
    method: str, path: str, query_pairs: Pairs, headers: Headers, *, signed_header_names: Collection[str], sha256: str
) -> str:
    """Return the six parts of a request, a part a line; the header part ends with a line feed of its own."""
    names = ";".join(sorted(name.lower() for name in signed_header_names))
    parts = (method, path or "/", canonical_query(query_pairs), canonical_headers(headers, signed_header_names))
    return "\n".join((*parts, names, sha256))


def acs3_string_to_sign(canonical_request: str) -> str:
    """Return the algorithm and the digest of the canonical request, a line each."""
    return f"{ACS3_ALGORITHM}\n{hashlib.sha256(canonical_request.encode()).hexdigest()}"


def acs3_signature(secret: str, string_to_sign: str) -> str:
    """Return the HMAC-SHA256 in lower-case hex; the secret is the key as it is, nothing is derived from it."""
    return hmac.new(secret.encode(), string_to_sign.encode(), hashlib.sha256).hexdigest()


def sign_acs3(
    *,
    method: str,
    host: str,
    action: str,
    version: str,
    query: Pairs,
    body: bytes,
    content_type: str | None,
    credentials: Credentials,
    now: float,
    nonce: str,
    path: str = "/",
) -> dict[str, str]:
    """
    Return all headers of a signed request, ``Authorization`` included; every other one is signed.

    ``host`` is the Host header as it will be sent (with a port, if that is sent), ``body`` the very
    bytes on the wire, ``content_type`` theirs or ``None`` without a body, ``now`` in seconds since the epoch.
    """
    headers = {
        "host": host,
        "x-acs-action": action,
        "x-acs-version": version,
        "x-acs-date": timestamp(now),
        "x-acs-signature-nonce": nonce,
        "x-acs-content-sha256": body_sha256(body),
    }
    if content_type is not None:
        headers["content-type"] = content_type
    if credentials.security_token:
        headers["x-acs-security-token"] = credentials.security_token
    names = sorted(headers)
    sha256 = headers["x-acs-content-sha256"]
    canonical = acs3_canonical_request(method, path, query, headers, signed_header_names=names, sha256=sha256)
    signature = acs3_signature(credentials.access_key_secret, acs3_string_to_sign(canonical))
    credential = f"Credential={credentials.access_key_id},SignedHeaders={';'.join(names)},Signature={signature}"
    return {**headers, "Authorization": f"{ACS3_ALGORITHM} {credential}"}


def parse_acs3_authorization(value: str) -> Acs3Authorization:
    """Take an ``Authorization`` header apart. Raise :class:`ValueError` when it is none of this algorithm."""
    algorithm, _, rest = value.strip().partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if algorithm != ACS3_ALGORITHM or not all(parts.get(name) for name in ("Credential", "SignedHeaders", "Signature")):
        raise ValueError(f"not an {ACS3_ALGORITHM} authorization")
    return Acs3Authorization(parts["Credential"], tuple(parts["SignedHeaders"].split(";")), parts["Signature"])


def verify_acs3(
    *, method: str, path: str, query: Pairs, headers: Headers, body: bytes, access_key_secret: str
) -> Problem | None:
    """
    Recompute the signature of a received request from its own list of signed headers; ``None`` when it holds.

    ``query`` is decoded (blank values kept). ``host`` and every ``x-acs-*`` header that the request
    carries must be signed, and the digest that it names must be the body's.
    """
    received = [(name.lower(), value.strip()) for name, value in pairs(headers)]
    present = dict(received)
    try:
        authorization = parse_acs3_authorization(present.get("authorization", ""))
    except ValueError:
        return Problem.INCOMPLETE
    required = {"host", *(name for name in present if name.startswith(SIGNED_PREFIX))}
    if not required <= set(authorization.signed_header_names):
        return Problem.INCOMPLETE
    digest = body_sha256(body)
    if present.get("x-acs-content-sha256") != digest:
        return Problem.MISMATCH
    names = authorization.signed_header_names
    canonical = acs3_canonical_request(method, path, query, received, signed_header_names=names, sha256=digest)
    expected = acs3_signature(access_key_secret, acs3_string_to_sign(canonical))
    return None if same(expected, authorization.signature) else Problem.MISMATCH
