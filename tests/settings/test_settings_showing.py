"""Promise 9: what is shown of the settings is complete, and holds no secret."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.redaction import MASK, is_secret_name, mask_text, masked
from listener.settings import as_json, as_toml, effective, parse_settings

SECRET = "hunter2"  # what no output may hold


def test_nothing_shown_holds_a_secret() -> None:
    """Database passwords and plugin secrets are masked in TOML and JSON; where a secret is may be shown."""
    settings = parse_settings(
        {
            "store": {"url": f"postgresql://user:{SECRET}@db/listener?sslpassword={SECRET}"},
            "sources": {
                "hook": {"type": "webhook", "token": SECRET, "nested": [{"secret": SECRET}], "secret_file": "/run/x"}
            },
            "targets": {"cdn": {"type": "alibaba-cdn", "access_key_secret": SECRET, "endpoint": f"http://:{SECRET}@h"}},
            "sites": [{"source": "hook", "target": "cdn", "base_urls": ["https://h/"]}],
        },
        {},
    )
    shown = effective(settings)
    for text in (as_toml(shown), as_json(shown)):
        assert SECRET not in text
        assert MASK in text
        assert "/run/x" in text
    assert tomllib.loads(as_toml(shown))["store"]["url"] == f"postgresql://user:{MASK}@db/listener?sslpassword={MASK}"


def test_what_is_shown_is_a_configuration_again() -> None:
    """The effective values, read as a file, give the same settings."""
    settings = parse_settings(
        {
            "sources": {"www": {"type": "filesystem", "path": "/srv", "deep": {"a": [1, None]}}},
            "targets": {"cdn": {"type": "alibaba-cdn", "quota": {"file": 1}}},
            "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://h/"], "share": {"file": 0.5}}],
        },
        {},
    )
    shown = effective(settings)
    assert parse_settings(json.loads(as_json(shown)), {}) == settings
    again = parse_settings(tomllib.loads(as_toml(shown)), {})
    assert again.sites == settings.sites


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("secret", True),
        ("SECRET", True),
        ("api_token", True),
        ("db-password", True),
        ("access_key_secret", True),
        ("secret_file", False),
        ("token_url", False),
        ("signature", False),
        ("credentials", False),
        ("path", False),
        ("secretary", False),
    ],
)
def test_names_tell_secrets(name: str, secret: bool) -> None:
    """A word of the name decides; names of places where secrets are kept are none."""
    assert is_secret_name(name) is secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p%40@/w@h/d", f"postgresql://u:{MASK}@h/d"),
        ("see http://u@h/ and a@b", "see http://u@h/ and a@b"),
        ("GET /x?Signature=abc&a=1", f"GET /x?Signature={MASK}&a=1"),
        ("SecurityToken=abc", f"SecurityToken={MASK}"),
        ("a = b", "a = b"),
        ("plain", "plain"),
    ],
)
def test_texts_lose_their_secrets(text: str, shown: str) -> None:
    """Passwords in URLs and in name=value pairs go, the rest stays."""
    assert mask_text(text) == shown


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text("ab"), lambda part: st.lists(part, max_size=3)))
def test_masking_leaves_what_is_no_secret(value: object) -> None:
    """Plain data without secrets comes out as it went in; empty secrets stay empty."""
    assert masked(value) == value
    assert masked({"secret": "", "token": None}) == {"secret": "", "token": None}
