"""URLs in normal form: the same thing is the same text, and what is no usable URL gets a reason."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.urls import (
    decode_path,
    encode_path,
    host_of,
    is_canonical_path,
    is_normal_path,
    normal_base_url,
    normal_url,
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://Example.COM", "http://example.com/"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("http://127.0.0.1:8701/a", "http://127.0.0.1:8701/a"),
        ("http://[::1]:8701/", "http://[::1]:8701/"),
        ("https://example.com./a", "https://example.com/a"),
        ("https://例え.jp/日本", "https://xn--r8jz45g.jp/%E6%97%A5%E6%9C%AC"),
        ("https://h/%7eu/%c3%a9", "https://h/~u/%C3%A9"),
        ("https://h/a+b/a%2bb", "https://h/a+b/a%2Bb"),
        ("https://h/100%", "https://h/100%25"),
        ("https://h/a?b=é&c=%2f?", "https://h/a?b=%C3%A9&c=%2F?"),
        ("https://h/a?", "https://h/a?"),
        ("https://h/p[1]|x.jpg", "https://h/p[1]|x.jpg"),
        ("https://h/p%5b1%5D{x}^.jpg", "https://h/p%5B1%5D%7Bx%7D%5E.jpg"),
        ("https://h/a?f[x]={1|2}^`", "https://h/a?f[x]={1|2}^`"),
        ("https://h//a//", "https://h//a//"),
    ],
)
def test_a_url_has_one_normal_form(text: str, url: str) -> None:
    """Case, default ports, escapes and international names: one spelling, and it stays."""
    assert normal_url(text) == url
    assert normal_url(url) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://h/", "must start with http"),
        ("www.example.com/", "must start with http"),
        ("//h/a", "must start with http"),
        ("http:///a", "no host"),
        ("http://user:pw@h/", "user name"),
        ("http://h/#top", "fragment"),
        ("http://h/#", "fragment"),
        ("http://h/a b", "blank"),
        ("http://h/a\nhttp://other/", "control character"),
        (" http://h/", "blank"),
        ("http://h\\@other/", "backslash"),
        ("http://h/a/../b", "segment"),
        ("http://h/a/%2e%2E/b", "segment"),
        ("http://*.example.com/", "wildcard"),
        ("http://-bad/", "not a host name"),
        ("http://a..b/", "not a host name"),
        ("http://日本..jp/", "not a host name"),
        ("http://h:99999/", "ort"),
        ("http://[::zz]/", "IP"),
    ],
)
def test_what_is_no_usable_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    """Each wrong URL raises ValueError, and the message says what is wrong with it."""
    with pytest.raises(ValueError, match=reason):
        normal_url(text)


def test_a_base_url_ends_with_a_slash_and_has_no_query() -> None:
    """A base URL gains its slash; a query or an encoded slash is refused."""
    assert normal_base_url("https://h/x") == "https://h/x/"
    assert normal_base_url("https://h") == "https://h/"
    for text in ("https://h/?a", "https://h/x?", "https://h/a%2fb/"):
        with pytest.raises(ValueError, match="must not contain"):
            normal_base_url(text)


@given(st.text())
def test_the_normal_form_is_stable_for_any_text(text: str) -> None:
    """Whatever is accepted is its own normal form afterwards, and one line of plain ASCII."""
    try:
        url = normal_url("http://h/" + text)
    except ValueError:
        return
    assert normal_url(url) == url
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url


@given(st.binary())
def test_encoding_a_path_is_undone_by_decoding(raw: bytes) -> None:
    """Any bytes survive, and what is encoded is in normal form unless it has dot segments."""
    encoded = encode_path(raw)
    assert decode_path(encoded) == raw
    assert is_canonical_path(encoded)
    assert is_normal_path(encoded) is not any(part in (b".", b"..") for part in raw.split(b"/"))


@pytest.mark.parametrize(
    "path", ["%e9", "%41", "%2D", "%2E", "%39", "%5F", "%7E", "a b", "é", "a/../b", ".", "%", "%4"]
)
def test_a_path_out_of_normal_form_is_recognised(path: str) -> None:
    """Lower-case escapes, escapes of plain characters, raw characters and dot segments are not normal."""
    assert not is_normal_path(path)


@pytest.mark.parametrize("path", ["a[1]/", "a%2Bb/", "%e9", "%41"])
def test_another_spelling_is_recognised(path: str) -> None:
    """What decodes to the same bytes and is written otherwise is not canonical."""
    assert not is_canonical_path(path)


@pytest.mark.parametrize(
    "url", ["https://a.example/b/c?d=/e", "http://a:81/", "https://a?b=/c", "https://a#b/c", "a/b", ""]
)
def test_the_host_is_what_stands_before_the_path(url: str) -> None:
    """It is found without a look at the rest, and is what the standard library finds."""
    assert host_of(url) == urlsplit(url).netloc
