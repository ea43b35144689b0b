"""
Alibaba Cloud's request signatures, each as a row of pure steps; time and nonce come in as arguments.

::

    ACS3-HMAC-SHA256   request ─▶ canonical request ─▶ string to sign ─▶ signature ─▶ Authorization header
    HMAC-SHA1 ("V1")   query + form ─▶ canonical query ─▶ string to sign ─▶ signature ─▶ Signature parameter
    MNS                request ─▶ string to sign ─▶ signature ─▶ Authorization header

The client signs with :func:`sign_acs3`, :func:`sign_v1` and :func:`sign_mns`; who receives a request (the
emulator) recomputes with :func:`verify_acs3` and :func:`verify_v1`. Both sides stand on the same steps, so the
steps are held against the official SDKs and the vendor's documented vectors, not against each other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

__all__ = [
    "ACS3_ALGORITHM",
    "EMPTY_SHA256",
    "MNS_CONTENT_TYPE",
    "MNS_VERSION",
    "V1_ALGORITHM",
    "Acs3Authorization",
    "Credentials",
    "Headers",
    "Pairs",
    "Problem",
    "acs3_canonical_request",
    "acs3_signature",
    "acs3_string_to_sign",
    "body_sha256",
    "canonical_headers",
    "canonical_query",
    "content_md5",
    "mns_headers",
    "mns_signature",
    "mns_string_to_sign",
    "pairs",
    "parse_acs3_authorization",
    "percent_encode",
    "same",
    "sign_acs3",
    "sign_mns",
    "sign_v1",
    "timestamp",
    "v1_canonical",
    "v1_signature",
    "v1_string_to_sign",
    "verify_acs3",
    "verify_v1",
]


Pairs = Mapping[str, str] | Iterable[tuple[str, str]]
"""Decoded parameters: a mapping, or pairs where a name may come twice."""
Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header names in any case with their values; a name may come twice."""


class Problem(StrEnum):
    """Why a request does not verify; the value is the error code that the service answers."""

    INCOMPLETE = "IncompleteSignature"
    MISMATCH = "SignatureDoesNotMatch"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; ``repr`` and ``str`` show neither secret nor token."""

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)
    """Set for temporary (STS) keys only."""


def timestamp(now: float) -> str:
    """Return seconds since the epoch as the services write them: ``2026-01-02T03:04:05Z``."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def percent_encode(text: str) -> str:
    """Encode everything but ``A-Z a-z 0-9 - _ . ~`` as UTF-8 bytes in upper-case hex; a blank is ``%20``."""
    return quote(text, safe="~")


def canonical_query(params: Pairs) -> str:
    """Return ``name=value`` sorted by name, then value, each encoded; a blank value keeps its ``=``."""
    return "&".join(f"{percent_encode(name)}={percent_encode(value)}" for name, value in sorted(pairs(params)))


def pairs(params: Pairs) -> list[tuple[str, str]]:
    """Return the parameters as pairs."""
    return list(params.items() if isinstance(params, Mapping) else params)


def same(expected: str, received: str) -> bool:
    """Compare in a time that does not depend on where the two differ."""
    return hmac.compare_digest(expected.encode(), received.encode("utf-8", "surrogateescape"))


ACS3_ALGORITHM = "ACS3-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
ACS3_SIGNED_PREFIX = "x-acs-"


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
    required = {"host", *(name for name in present if name.startswith(ACS3_SIGNED_PREFIX))}
    if not required <= set(authorization.signed_header_names):
        return Problem.INCOMPLETE
    digest = body_sha256(body)
    if present.get("x-acs-content-sha256") != digest:
        return Problem.MISMATCH
    names = authorization.signed_header_names
    canonical = acs3_canonical_request(method, path, query, received, signed_header_names=names, sha256=digest)
    expected = acs3_signature(access_key_secret, acs3_string_to_sign(canonical))
    return None if same(expected, authorization.signature) else Problem.MISMATCH


V1_ALGORITHM = "HMAC-SHA1"


def v1_canonical(params: Pairs) -> str:
    """Return the canonical query of query and form parameters together, without ``Signature``."""
    return canonical_query((name, value) for name, value in pairs(params) if name != "Signature")


def v1_string_to_sign(method: str, canonical: str) -> str:
    """Return method, path (always ``/``) and canonical query, each encoded, joined by ``&``."""
    return f"{method}&%2F&{percent_encode(canonical)}"


def v1_signature(secret: str, string_to_sign: str) -> str:
    """Return the HMAC-SHA1 in base64, with the secret and a closing ``&`` as key."""
    return base64.b64encode(hmac.new(f"{secret}&".encode(), string_to_sign.encode(), hashlib.sha1).digest()).decode()


def sign_v1(
    *,
    method: str,
    action: str,
    version: str,
    query: Mapping[str, str],
    form: Mapping[str, str],
    credentials: Credentials,
    now: float,
    nonce: str,
) -> dict[str, str]:
    """
    Return all query parameters of a signed request: the public ones, ``query`` and ``Signature``.

    ``form`` is signed with them and stays where it is; ``now`` is in seconds since the epoch.
    """
    signed = {
        "Action": action,
        "Version": version,
        "Format": "JSON",
        "AccessKeyId": credentials.access_key_id,
        "SignatureMethod": V1_ALGORITHM,
        "SignatureVersion": "1.0",
        "SignatureNonce": nonce,
        "Timestamp": timestamp(now),
        **({"SecurityToken": credentials.security_token} if credentials.security_token else {}),
        **query,
    }
    to_sign = v1_string_to_sign(method, v1_canonical({**signed, **form}))
    return {**signed, "Signature": v1_signature(credentials.access_key_secret, to_sign)}


def verify_v1(*, method: str, query: Pairs, form: Pairs, access_key_secret: str) -> Problem | None:
    """
    Recompute the signature of a received request from its decoded parameters; ``None`` when it holds.

    Blank values belong to the signature: the legacy SDK signs an empty ``SignatureType``.
    """
    params = [*pairs(query), *pairs(form)]
    signatures = [value for name, value in params if name == "Signature"]
    if len(signatures) != 1 or not signatures[0]:
        return Problem.INCOMPLETE
    expected = v1_signature(access_key_secret, v1_string_to_sign(method, v1_canonical(params)))
    return None if same(expected, signatures[0]) else Problem.MISMATCH


MNS_VERSION = "2015-06-06"
MNS_CONTENT_TYPE = "text/xml;charset=UTF-8"
MNS_SIGNED_PREFIX = "x-mns-"


def content_md5(body: bytes) -> str:
    """Return what ``Content-MD5`` carries: base64 of the digest in hex, as the official SDK writes it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).hexdigest().encode()).decode()


def mns_headers(headers: Headers) -> str:
    """Return a ``name:value`` line for each ``x-mns-`` header, names in lower case and sorted."""
    found = sorted((name.lower(), value.strip()) for name, value in pairs(headers))
    return "".join(f"{name}:{value}\n" for name, value in found if name.startswith(MNS_SIGNED_PREFIX))


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
