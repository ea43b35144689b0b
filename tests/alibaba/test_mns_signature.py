"""The message service's signature against requests signed by the vendor's own client, recorded and live."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.alibaba.signature import Credentials, content_md5, mns_string_to_sign, sign_mns

VECTORS = tomllib.loads((Path(__file__).parent / "mns.toml").read_text())["request"]
NOW = 1767323045.0
DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
KEY = Credentials("testid", "testsecret")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['method']} {vector['resource'][15:]}")
def test_the_signer_gives_the_known_signature(vector: dict[str, Any]) -> None:
    """Each recorded request gets the signature, the date and the digest that the vendor's client gave it."""
    body = vector.get("body", "").encode()
    headers = sign_mns(method=vector["method"], resource=vector["resource"], body=body, credentials=KEY, now=NOW)
    assert headers["authorization"] == f"MNS testid:{vector['signature']}"
    assert headers["date"] == DATE
    assert headers.get("content-md5", "") == vector.get("md5", "")


def test_the_string_to_sign_is_a_part_a_line() -> None:
    """What is absent leaves its line empty; other headers do not matter, and names are compared in lower case."""
    headers = {"date": DATE, "X-Mns-Version": "1", "x-mns-b": "2 ", "x-mns-a": "3", "host": "h"}
    assert mns_string_to_sign("GET", "/q?a=b", headers) == (
        f"GET\n\n\n{DATE}\nx-mns-a:3\nx-mns-b:2\nx-mns-version:1\n/q?a=b"
    )


def test_a_temporary_key_is_sent_with_its_signature() -> None:
    """The token is a header of its own and changes no signature."""
    request: dict[str, Any] = {"method": "GET", "resource": "/queues/q", "body": b"", "now": NOW}
    plain = sign_mns(credentials=KEY, **request)
    temporary = sign_mns(credentials=Credentials("testid", "testsecret", "token"), **request)
    assert temporary == {**plain, "security-token": "token"}


@given(st.sampled_from(["GET", "PUT", "DELETE", "POST"]), st.text(), st.binary(max_size=200), st.text(min_size=1))
def test_any_request_is_signed_as_the_official_client_signs_it(
    method: str, path: str, body: bytes, secret: str
) -> None:
    """The official client computes the same signature of the same headers."""
    from mns.mns_client import MNSClient

    secret = secret.encode("utf-8", "ignore").decode() or "s"
    resource = "/queues/" + path.encode("utf-8", "ignore").decode()
    key = Credentials("testid", secret)
    ours = sign_mns(method=method, resource=resource, body=body, credentials=key, now=NOW)
    theirs = MNSClient.__new__(MNSClient).get_signature(method, ours, resource, _Key(secret))
    assert ours["authorization"] == theirs


def test_the_digest_is_the_one_of_the_sdk() -> None:
    """Base64 of the digest in hex, which is not what the header's own standard says."""
    assert content_md5(b"") == "ZDQxZDhjZDk4ZjAwYjIwNGU5ODAwOTk4ZWNmODQyN2U="


class _Key:
    """What the official client needs of a key."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def get_access_key_id(self) -> str:
        return "testid"

    def get_access_key_secret(self) -> str:
        return self.secret
