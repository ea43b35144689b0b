"""Promise 9: what is shown of the settings is complete, and holds no secret."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.configuration import sqlite_path
from listener.errors import ConfigurationError
from listener.redaction import MASK, is_secret_name, mask_text, mask_url, masked
from listener.settings import as_toml, effective, parse_settings
from listener.sources.webhook.settings import WebhookSettings
from tests.growth import takes_linear_time

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
    for text in (as_toml(shown), json.dumps(shown)):
        assert SECRET not in text
        assert MASK in text
        assert "/run/x" in text
    assert tomllib.loads(as_toml(shown))["store"]["url"] == f"postgresql://{MASK}@db/listener?sslpassword={MASK}"


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
    assert parse_settings(json.loads(json.dumps(shown)), {}) == settings
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
def test_secrets_are_recognized_by_name(name: str, secret: bool) -> None:
    """A word of the name decides; names of places where secrets are kept are none."""
    assert is_secret_name(name) is secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p%40@/w@h/d", f"postgresql://{MASK}@h/d"),
        ("postgresql://u:p@x/w@h/d", f"postgresql://{MASK}@h/d"),
        ("https://u:p/w@h:80/d", f"https://{MASK}@h:80/d"),
        ("see http://u@h/ and a@b", f"see http://{MASK}@h/ and a@b"),
        ("https://token:@h/, https://@h/", f"https://{MASK}@h/, https://{MASK}@h/"),
        ("https://h:8443/logo@2x.png", "https://h:8443/logo@2x.png"),
        ("http://[::1]:80/logo@2x.png", "http://[::1]:80/logo@2x.png"),
        ("password='abc' x", f"password='{MASK}' x"),
        ("Authorization: Bearer abc", f"Authorization: {MASK}"),
        (
            "{'Authorization': b'MNS abc', 'X-Amz-Security-Token': b'abc'}",
            f"{{'Authorization': b'{MASK}', 'X-Amz-Security-Token': b'{MASK}'}}",
        ),
        ("x-acs-security-token: abc", f"x-acs-security-token: {MASK}"),
        ("sources.hook.secret: is missing", "sources.hook.secret: is missing"),
        ("GET /x?Signature=abc&a=1", f"GET /x?Signature={MASK}&a=1"),
        ("SecurityToken=abc", f"SecurityToken={MASK}"),
        ("a = b", "a = b"),
        ("plain", "plain"),
    ],
)
def test_texts_lose_their_secrets(text: str, shown: str) -> None:
    """Passwords in URLs and in name=value pairs go, the rest stays."""
    assert mask_text(text) == shown


@pytest.mark.looptime(False)
@pytest.mark.parametrize(
    "pump",
    [
        "a.",
        "=",
        ":",
        "@",
        "://",
        "://@",
        "://:",
        "://a:b",
        "://u@",
        "a=",
        "token",
        "n:",
        "\n",
        "[",
        "Authorization",
        "password=x ",
        "token='x ",
    ],
)
@pytest.mark.parametrize("end", ["", "=", "@", " "])
def test_masking_takes_linear_time(pump: str, end: str) -> None:
    """Of a megabyte, whatever a visitor puts into it; at most 50 ms of processor time, or in proportion to less."""
    text = pump * (1_000_000 // len(pump)) + end
    assert takes_linear_time(mask_text, text, quick_seconds=0.05)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h/d",
        f"postgresql:/u:{SECRET}@h/d",
        f"postgresql//u:{SECRET}@h/d",
        f"postgresql:u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"postgresql://u:{SECRET} with a blank@h/d",
        f"postgresql://u:a@b/{SECRET}#x?y@h/d",
        f"postgresql://u:{SECRET}/d",
        f"https://{SECRET}@h/d",
        f"sqlite://u:{SECRET}@h/d",
        f"postgresql://h/d?user=u&password={SECRET}",
    ],
)
def test_a_malformed_url_shows_no_secret(url: str) -> None:
    """A setting that should be a URL is masked as a whole: what comes before the last @ is never shown."""
    assert SECRET not in mask_url(url)
    assert mask_url("sqlite:////srv/a@b/state.db") == "sqlite:////srv/a@b/state.db"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text("ab"), lambda part: st.lists(part, max_size=3)))
def test_masking_leaves_what_is_no_secret(value: object) -> None:
    """Plain data without secrets comes out as it went in; empty secrets stay empty."""
    assert masked(value) == value
    assert masked({"secret": "", "token": None}) == {"secret": "", "token": None}


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        ({"path": "/ceph", "anonymous": True}, f"/{MASK}"),
        ({"path": f"/minio-{SECRET}-{SECRET}"}, f"/{MASK}"),
        ({"path": "/minio"}, "/minio"),
        ({"path": "/", "anonymous": True}, "/"),
    ],
)
def test_a_secret_path_is_not_shown(table: dict[str, Any], shown: str) -> None:
    """A path that is the only proof, or that is long, is masked, in ``public_url`` and in ``repr`` too."""
    settings = WebhookSettings.model_validate({**table, "public_url": f"https://h.example{table['path']}"})
    reported = settings.model_dump(mode="json")
    assert (reported["path"], reported["public_url"]) == (shown, f"https://h.example{shown}")
    assert table["path"] == "/" or table["path"] not in repr(settings)
    assert settings.path == table["path"]


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{SECRET}@[h/d", f"sqlite://u:{SECRET}@h/d", f"postgresql://u:{SECRET}@h/d"]
)
def test_an_error_about_the_store_s_url_shows_no_secret(url: str) -> None:
    """Neither while it is read nor when it is opened."""
    with pytest.raises(ConfigurationError) as refused:
        sqlite_path(url)
    assert SECRET not in f"{refused.value} {refused.value.hint}"
    assert SECRET not in as_toml(effective(parse_settings({"store": {"url": url}}, {})))
