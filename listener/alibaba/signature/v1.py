"""HMAC-SHA1 ("V1"): query and form parameters, signed as one canonical query."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

from listener.alibaba.signature.steps import (
    Credentials,
    Pairs,
    Problem,
    canonical_query,
    pairs,
    percent_encode,
    same,
    timestamp,
)

__all__ = ["V1_ALGORITHM", "sign_v1", "v1_canonical", "v1_signature", "v1_string_to_sign", "verify_v1"]

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
