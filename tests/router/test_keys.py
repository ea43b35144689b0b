"""Promise 8: a key refreshes its own URL and nothing else, or is refused with a reason."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, key_to_bytes, key_to_text
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.router import Router
from listener.settings import Site
from listener.urls import normal_url

BASE = "https://www.example.com/pre/"
SITE = Site.model_validate(
    {"source": "www", "target": "cdn", "base_urls": [BASE], "index_documents": [], "spellings": []}
)
ROUTER = Router([SITE])

# Storage keys: any bytes at all, and texts that look like attacks more often than chance would have it.
PIECES = st.sampled_from(
    ["a", ".", "..", "/", "%", "%2e", "%2E", "%252e", "%2f", "\\", "\n", "\r", "?", "#", ";", "+", " "]
)
KEYS = st.one_of(
    st.text(),
    st.binary().map(key_to_text),
    st.lists(PIECES, max_size=8).map("".join),
    st.text("abc/.%2eé日", max_size=12),
)
LINE_SAFE = re.compile(r"[!-~]+")

ZOO = [
    pytest.param("a b", "a%20b", id="blank"),
    pytest.param("a+b", "a+b", id="plus"),
    pytest.param("a%2Bb", "a%252Bb", id="escape in the name"),
    pytest.param("a%b", "a%25b", id="lone percent"),
    pytest.param("\u00e9", "%C3%A9", id="NFC"),
    pytest.param("e\u0301", "e%CC%81", id="NFD"),
    pytest.param("日本.jpg", "%E6%97%A5%E6%9C%AC.jpg", id="Japanese"),
    pytest.param("a//b", "a//b", id="empty segment"),
    pytest.param("a?b#c", "a%3Fb%23c", id="query and fragment marks"),
    pytest.param("x/", "x/", id="folder marker"),
    pytest.param(key_to_text(b"caf\xe9.txt"), "caf%E9.txt", id="not UTF-8"),
    pytest.param("https://evil.example/", "https://evil.example/", id="foreign URL as a key"),
    pytest.param("...", "...", id="three dots"),
    pytest.param("a/.hidden", "a/.hidden", id="hidden file"),
    pytest.param("'(x)*!$&,;=:@~", "'(x)*!$&,;=:@~", id="what a path keeps"),
    pytest.param('"<>[]^`{|}', "%22%3C%3E%5B%5D%5E%60%7B%7C%7D", id="what a path does not keep"),
    pytest.param("/a", "/a", id="leading slash"),
    pytest.param("x" * (1024 - len(BASE)), "x" * (1024 - len(BASE)), id="longest"),
]
REFUSED = [
    pytest.param("a\nhttps://other.example/", "control character", id="newline and foreign URL"),
    pytest.param("a\rb", "control character", id="carriage return"),
    pytest.param("a\x00b", "control character", id="nul"),
    pytest.param("a\x85b", "control character", id="next line"),
    pytest.param("../a", "segment", id="parent"),
    pytest.param("a/./b", "segment", id="self"),
    pytest.param("a/..", "segment", id="parent at the end"),
    pytest.param("%2e%2e/a", "segment", id="parent, encoded"),
    pytest.param("a/.%2E/b", "segment", id="parent, half encoded"),
    pytest.param("a/%252e%252e/b", "segment", id="parent, encoded twice"),
    pytest.param("a/..%2fb", "segment", id="parent with an encoded slash"),
    pytest.param("a/..%5cb", "segment", id="parent with an encoded backslash"),
    pytest.param("a\\b", "backslash", id="backslash"),
    pytest.param("%" + "25" * 500, "percent-encoded more than", id="encoded five hundred times"),
    pytest.param("a/%" + "25" * 20 + "2e/b", "percent-encoded more than", id="self, encoded twenty times"),
    pytest.param("x" * 1025, "bytes in a URL", id="too long"),
    pytest.param("é" * 171, "bytes in a URL", id="too long once encoded"),
    pytest.param("x" * 5000, "characters", id="longer than any key"),
    pytest.param("a\ud800", "no bytes", id="half a character"),
]


@pytest.mark.parametrize(("key", "path"), ZOO)
def test_a_key_becomes_exactly_its_own_url(key: str, path: str) -> None:
    """Each key is percent-encoded exactly once below the base URL."""
    assert [need.url for need in ROUTER.route(Change("www", key))] == [BASE + path]


@pytest.mark.parametrize(("key", "reason"), REFUSED)
@pytest.mark.parametrize("kind", [ChangeKind.CONTENT, ChangeKind.SUBTREE_DELETED])
def test_a_key_that_could_be_another_url_is_refused_with_the_reason(key: str, reason: str, kind: ChangeKind) -> None:
    """Each dangerous key is refused, as a file and as a subtree, every time, and the message says why."""
    for _ in range(2):
        with pytest.raises(KeyRejected, match=reason) as caught:
            ROUTER.route(Change("www", key + "/" if kind is ChangeKind.SUBTREE_DELETED else key, kind))
        assert caught.value.hint


@given(KEYS)
@example("a%2e")
@example("%%2e/")
def test_any_key_is_its_own_url_or_refused(key: str) -> None:
    """
    Whatever the key, its URL starts with the base, is one printable ASCII word, is its own normal form and
    decodes to exactly the key's bytes: so no two keys share a URL and none reaches beyond the base.
    """
    try:
        needs = ROUTER.route(Change("www", key))
    except KeyRejected as rejected:
        assert str(rejected)
        assert rejected.hint
        return
    (need,) = needs
    assert need.url.startswith(BASE)
    assert LINE_SAFE.fullmatch(need.url)
    assert normal_url(need.url) == need.url
    assert not {"?", "#", "\\"} & set(need.url)
    assert unquote_to_bytes(need.url[len(BASE) :]) == key_to_bytes(key)


@given(KEYS.filter(lambda key: not key.endswith("/")))
def test_any_subtree_is_its_own_directory_or_refused(key: str) -> None:
    """A subtree becomes the one directory URL that holds exactly the keys below it."""
    folder = key and key + "/"
    try:
        (need,) = ROUTER.route(Change("www", folder, ChangeKind.SUBTREE))
    except KeyRejected:
        with pytest.raises(KeyRejected):
            ROUTER.route(Change("www", folder))
        return
    assert need.scope is Scope.SUBTREE
    assert need.url.endswith("/")
    assert ROUTER.key_prefixes("cdn", need.url) == [("www", key_to_text(key_to_bytes(folder)))]


@given(st.lists(st.binary(max_size=6), min_size=2, max_size=2, unique=True))
def test_two_keys_never_share_a_url(keys: list[bytes]) -> None:
    """Two keys of different bytes never lead to the same URL."""
    urls = []
    for key in keys:
        try:
            urls += [need.url for need in ROUTER.route(Change("www", key_to_text(key)))]
        except KeyRejected:
            return
    assert len(set(urls)) == 2


def test_a_url_that_is_not_its_own_normal_form_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the encoder ever err, the key is parked and not sent: here it writes escapes in lower case."""
    monkeypatch.setattr("listener.router.addresses.encode_path", lambda raw: "%e9" if raw else "")
    with pytest.raises(KeyRejected, match="normal form"):
        Router([SITE]).route(Change("www", "é"))
