"""Both signatures against known requests, against the official SDK, and against tampering."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alibabacloud_tea_openapi.utils import Utils
from hypothesis import given
from hypothesis import strategies as st

from listener.alibaba.signature import (
    Credentials,
    Problem,
    acs3_canonical_request,
    acs3_signature,
    acs3_string_to_sign,
    body_sha256,
    canonical_query,
    parse_acs3_authorization,
    percent_encode,
    sign_acs3,
    sign_v1,
    timestamp,
    v1_canonical,
    v1_signature,
    v1_string_to_sign,
    verify_acs3,
    verify_v1,
)

VECTORS = tomllib.loads(Path(__file__).with_name("vectors.toml").read_text(encoding="utf-8"))
ACS3 = [pytest.param(vector, id=vector["name"].replace(" ", "-")) for vector in VECTORS["acs3"]]
V1 = [pytest.param(vector, id=vector["name"].replace(" ", "-")) for vector in VECTORS["v1"]]
NOW = 1767323045.0  # 2026-01-02T03:04:05Z
NONCE = "0123456789abcdef0123456789abcdef"
FORM = "application/x-www-form-urlencoded"
KEY = Credentials("testid", "testsecret")
TEMPORARY = Credentials("testid", "testsecret", "tok/en+==")
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(r"[a-z][a-zA-Z0-9.]{0,9}", fullmatch=True)  # the SDK leaves names as they are: ours are plain


def acs3(credentials: Credentials = KEY, **changes: Any) -> dict[str, Any]:
    """Sign a request with ACS3 and return it as a server would see it."""
    request: dict[str, Any] = {"method": "POST", "query": {"Area": "domestic"}, "body": b"ObjectType=File", **changes}
    content_type = FORM if request["body"] else None
    headers = sign_acs3(
        **request,
        host="cdn.aliyuncs.com",
        action="RefreshObjectCaches",
        version="2018-05-10",
        content_type=content_type,
        credentials=credentials,
        now=NOW,
        nonce=NONCE,
    )
    return {**request, "path": "/", "headers": headers}


@pytest.mark.parametrize("vector", ACS3)
def test_each_step_of_acs3_gives_the_known_text(vector: dict[str, Any]) -> None:
    """Canonical request, string to sign and signature are those of the vendor, byte for byte."""
    headers = vector["headers"]
    digest = body_sha256(vector["body"].encode())
    canonical = acs3_canonical_request(
        "POST", "/", vector["query"], headers, signed_header_names=list(headers), sha256=digest
    )
    assert canonical == vector["canonical_request"]
    assert acs3_string_to_sign(canonical) == vector["string_to_sign"]
    assert acs3_signature(vector["secret"], vector["string_to_sign"]) == vector["signature"]


@pytest.mark.parametrize("vector", ACS3)
def test_known_acs3_requests_verify(vector: dict[str, Any]) -> None:
    """A server accepts every known request with its secret, and none with another."""
    signed = ";".join(sorted(vector["headers"]))
    authorization = f"ACS3-HMAC-SHA256 Credential=testid,SignedHeaders={signed},Signature={vector['signature']}"
    headers = {**vector["headers"], "Authorization": authorization, "Accept-Encoding": "gzip"}
    request = {"method": "POST", "path": "/", "query": vector["query"], "headers": headers}
    body = vector["body"].encode()
    assert verify_acs3(**request, body=body, access_key_secret=vector["secret"]) is None
    assert verify_acs3(**request, body=body, access_key_secret="another") is Problem.MISMATCH


@pytest.mark.parametrize("vector", [param for param in ACS3 if "fewest" in param.values[0]["name"]])
def test_the_whole_signer_gives_the_known_signature(vector: dict[str, Any]) -> None:
    """From action, body, key, time and nonce the signer makes exactly the known headers."""
    credentials = TEMPORARY if "x-acs-security-token" in vector["headers"] else KEY
    signed = acs3(credentials, query={}, body=vector["body"].encode())["headers"]
    assert signed.pop("Authorization").endswith(f"Signature={vector['signature']}")
    assert signed == vector["headers"]


@pytest.mark.parametrize("credentials", [KEY, TEMPORARY], ids=["static", "temporary"])
@given(query=st.dictionaries(names, text, max_size=4), body=text)
def test_the_official_sdk_signs_our_acs3_requests_the_same(
    credentials: Credentials, query: dict[str, str], body: str
) -> None:
    """The SDK's own signing function gives our Authorization header, for any query and body."""
    request = acs3(credentials, query=query, body=body.encode())
    headers = dict(request["headers"])
    ours = headers.pop("Authorization")
    seen = SimpleNamespace(method="POST", pathname="/", query=query, headers=headers)
    digest = Utils.hash(request["body"], "ACS3-HMAC-SHA256").hex()
    assert ours == Utils.get_authorization(seen, "ACS3-HMAC-SHA256", digest, "testid", "testsecret")


def test_an_acs3_request_verifies_whatever_the_transport_adds() -> None:
    """Headers of the transport need no signature; their case and blanks around values do not matter."""
    request = acs3()
    received = [(name.title(), f" {value} ") for name, value in request["headers"].items()]
    received.append(("User-Agent", "anything"))
    verified = verify_acs3(**{**request, "headers": received}, access_key_secret="testsecret")
    assert verified is None


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("method", "GET"),
        ("path", "/other"),
        ("query", {"Area": "overseas"}),
        ("query", {"Area": "domestic", "Force": ""}),
        ("body", b"ObjectType=Directory"),
    ],
)
def test_a_changed_acs3_request_does_not_verify(part: str, value: object) -> None:
    """Method, path, query and body are bound by the signature."""
    changed = {**acs3(), part: value}
    assert verify_acs3(**changed, access_key_secret="testsecret") is Problem.MISMATCH


@pytest.mark.parametrize("name", ["host", "content-type", "x-acs-action", "x-acs-date", "x-acs-signature-nonce"])
def test_a_changed_header_does_not_verify(name: str) -> None:
    """Every signed header is bound by the signature."""
    request = acs3()
    request["headers"][name] = "other"
    assert verify_acs3(**request, access_key_secret="testsecret") is Problem.MISMATCH


def test_every_acs_header_and_the_host_must_be_signed() -> None:
    """A header that steers the service cannot be slipped in unsigned, nor the host be left out."""
    request = acs3()
    request["headers"]["x-acs-security-token"] = "slipped in"
    assert verify_acs3(**request, access_key_secret="testsecret") is Problem.INCOMPLETE
    request = acs3()
    request["headers"]["Authorization"] = request["headers"]["Authorization"].replace("host;", "")
    assert verify_acs3(**request, access_key_secret="testsecret") is Problem.INCOMPLETE


@pytest.mark.parametrize(
    "value", ["", "Basic dGVzdA==", "ACS3-HMAC-SHA256", "ACS3-HMAC-SHA256 Credential=a,Signature=b"]
)
def test_an_authorization_of_another_kind_is_incomplete(value: str) -> None:
    """What is no ACS3 authorization is refused as such, never by an accident."""
    request = acs3()
    request["headers"]["Authorization"] = value
    assert verify_acs3(**request, access_key_secret="testsecret") is Problem.INCOMPLETE
    with pytest.raises(ValueError, match="not an ACS3"):
        parse_acs3_authorization(value)


@pytest.mark.parametrize("vector", V1)
def test_each_step_of_v1_gives_the_known_text(vector: dict[str, Any]) -> None:
    """Canonical query and signature are those of the vendor; query and form count as one."""
    canonical = v1_canonical([*vector["query"].items(), *vector["form"].items()])
    assert canonical == vector["canonical"]
    to_sign = v1_string_to_sign(vector["method"], canonical)
    assert to_sign.startswith(f"{vector['method']}&%2F&AccessKeyId%3Dtestid%26Action%3D")
    assert v1_signature(vector["secret"], to_sign) == vector["signature"]


@pytest.mark.parametrize("vector", V1)
def test_known_v1_requests_verify(vector: dict[str, Any]) -> None:
    """A server accepts every known request with its secret, and none with another."""
    query = {**vector["query"], "Signature": vector["signature"]}
    request = {"method": vector["method"], "query": query, "form": vector["form"]}
    assert verify_v1(**request, access_key_secret=vector["secret"]) is None
    assert verify_v1(**request, access_key_secret="another") is Problem.MISMATCH


@pytest.mark.parametrize("credentials", [KEY, TEMPORARY], ids=["static", "temporary"])
@given(query=st.dictionaries(names, text, max_size=3), form=st.dictionaries(names, text, max_size=3))
def test_the_official_sdk_signs_our_v1_requests_the_same(
    credentials: Credentials, query: dict[str, str], form: dict[str, str]
) -> None:
    """The SDK's own signing function gives our Signature parameter, for any query and form."""
    query = {name: value for name, value in query.items() if name not in form}
    signed = sign_v1(
        method="POST",
        action="RefreshObjectCaches",
        version="2018-05-10",
        query=query,
        form=form,
        credentials=credentials,
        now=NOW,
        nonce=NONCE,
    )
    ours = signed.pop("Signature")
    assert ours == Utils.get_rpcsignature({**signed, **form}, "POST", "testsecret")
    assert (
        verify_v1(method="POST", query={**signed, "Signature": ours}, form=form, access_key_secret="testsecret") is None
    )


def test_blank_values_belong_to_the_v1_signature() -> None:
    """The legacy SDK signs an empty SignatureType: leaving it out changes the signature."""
    assert v1_canonical({"SignatureType": "", "Action": "A"}) == "Action=A&SignatureType="


@pytest.mark.parametrize("signature", [[], [("Signature", "")], [("Signature", "a"), ("Signature", "b")]])
def test_a_v1_request_has_exactly_one_signature(signature: list[tuple[str, str]]) -> None:
    """None, an empty one and two are all refused as incomplete."""
    verdict = verify_v1(method="GET", query=[("Action", "A"), *signature], form={}, access_key_secret="s")
    assert verdict is Problem.INCOMPLETE


@given(text)
def test_percent_encoding_is_undone_by_any_decoder(value: str) -> None:
    """Nothing is lost, and only unreserved characters stand for themselves."""
    from urllib.parse import unquote

    encoded = percent_encode(value)
    assert unquote(encoded) == value
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%")


def test_reserved_characters_are_encoded_as_the_services_want() -> None:
    """A blank is %20, a star %2A, a plus %2B, a slash %2F; a tilde stays."""
    assert percent_encode(" *+/~中") == "%20%2A%2B%2F~%E4%B8%AD"
    assert canonical_query([("b", "2"), ("a", " "), ("a", "")]) == "a=&a=%20&b=2"


def test_times_are_written_in_utc() -> None:
    """Seconds since the epoch become the form that both signatures carry."""
    assert timestamp(NOW) == "2026-01-02T03:04:05Z"


def test_credentials_show_neither_secret_nor_token() -> None:
    """What may land in a log or a traceback names the key only."""
    for shown in (repr(TEMPORARY), str(TEMPORARY), f"{TEMPORARY}", repr([TEMPORARY])):
        assert "testid" in shown
        assert "testsecret" not in shown
        assert "tok/en" not in shown
