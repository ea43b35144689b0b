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

from listener.alibaba.signature.acs3 import (
    ACS3_ALGORITHM,
    EMPTY_SHA256,
    Acs3Authorization,
    acs3_canonical_request,
    acs3_signature,
    acs3_string_to_sign,
    body_sha256,
    canonical_headers,
    parse_acs3_authorization,
    sign_acs3,
    verify_acs3,
)
from listener.alibaba.signature.mns import MNS_VERSION, content_md5, mns_signature, mns_string_to_sign, sign_mns
from listener.alibaba.signature.steps import (
    Credentials,
    Headers,
    Pairs,
    Problem,
    canonical_query,
    percent_encode,
    timestamp,
)
from listener.alibaba.signature.v1 import (
    V1_ALGORITHM,
    sign_v1,
    v1_canonical,
    v1_signature,
    v1_string_to_sign,
    verify_v1,
)

__all__ = [
    "ACS3_ALGORITHM",
    "EMPTY_SHA256",
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
    "mns_signature",
    "mns_string_to_sign",
    "parse_acs3_authorization",
    "percent_encode",
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
