"""What a configuration may say of an account, and what a target reports of itself."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import pytest
from pydantic import ValidationError

from listener.allowances import Day
from listener.contracts import Eviction, Target, evicts_directories
from listener.refresh import RefreshKind
from listener.settings.meanings import described
from listener.targets.alibaba_cdn import AlibabaCdn, Settings

FILE, DIRECTORY, PREFETCH, IGNORE = (
    RefreshKind.FILE,
    RefreshKind.DIRECTORY,
    RefreshKind.PREFETCH,
    RefreshKind.IGNORE_PARAMS,
)


def made(**settings: Any) -> AlibabaCdn:
    """Make a target as the wiring does."""
    return AlibabaCdn("cdn", AlibabaCdn.Settings.model_validate(settings))


def quota(target: Target) -> dict[RefreshKind, int]:
    """Return the limits of its allowances, which are one for each kind and day."""
    assert {one.window for one in target.allowances} == {Day(8 * 3600)}
    return {kind: one.limit for one in target.allowances for kind in one.costs}


def test_the_entry_point_is_a_target() -> None:
    """The class behind ``alibaba-cdn`` keeps the contract, and making one needs no key and no loop."""
    (entry,) = entry_points(group="listener.targets", name="alibaba-cdn")
    target: Target = entry.load()("cdn", Settings())
    assert (target.name, target.account, evicts_directories(target)) == ("cdn", "main", True)


def test_defaults_are_those_of_newer_accounts() -> None:
    """A thousand URLs or a hundred directories a request, ten domains, a prefetch bounded by bytes."""
    target = made()
    assert quota(target) == {FILE: 10_000, DIRECTORY: 100, IGNORE: 100, PREFETCH: 1_000}
    assert {kind: limits.batch_urls for kind, limits in target.limits.items()} == {
        FILE: 1_000,
        DIRECTORY: 100,
        IGNORE: 100,
        PREFETCH: 100,
    }
    assert all(limits.batch_places == 10 for limits in target.limits.values())
    assert target.limits[PREFETCH].batch_bytes == 6_000


def test_the_first_api_version_can_less() -> None:
    """No force and no ignore-params: the planner must not count on them."""
    target = made(api_version="2014-11-11", force=True)
    assert target.limits[RefreshKind.DIRECTORY].eviction is Eviction.SOFT
    assert set(target.limits) == {FILE, DIRECTORY, PREFETCH}
    assert [one.name for one in target.allowances] == ["file", "directory", "prefetch"]


def test_force_can_be_left_out() -> None:
    """Who prefers revalidation says so, and the target reports it."""
    assert made(force=False).limits[RefreshKind.DIRECTORY].eviction is Eviction.EITHER


def test_a_batch_is_never_larger_than_a_minute_takes() -> None:
    """Else it would wait for a minute that never comes."""
    target = made(limits={"urls_per_domain_minute": 50, "directories_per_domain_minute": 5})
    assert target.limits[FILE].batch_urls == 50
    assert target.limits[PREFETCH].batch_urls == 50
    assert target.limits[DIRECTORY].batch_urls == 5


@pytest.mark.parametrize("name", ["ignore-params", "ignore_params"])
def test_the_quota_of_ignore_params_has_both_spellings(name: str) -> None:
    """A file writes the kind's name, an environment variable can only write an underscore."""
    assert quota(made(quota={name: 7}))[IGNORE] == 7


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("https://cdn.aliyuncs.com/", "https://cdn.aliyuncs.com"),
        ("https://cdn.aliyuncs.com:443", "https://cdn.aliyuncs.com"),
    ],
)
def test_an_endpoint_is_scheme_host_and_port(given: str, kept: str) -> None:
    """Plain http is allowed; a closing slash and a default port do not matter."""
    assert Settings.model_validate({"endpoint": given}).endpoint == kept


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "cdn.aliyuncs.com"},
        {"endpoint": "ftp://cdn.aliyuncs.com"},
        {"endpoint": "https://user:secret@cdn.aliyuncs.com"},
        {"endpoint": "https://cdn.aliyuncs.com/path"},
        {"endpoint": "https://cdn.aliyuncs.com/?a=b"},
        {"endpoint": "https://"},
        {"endpoint": ""},
        {"access_key_id": "LTAI"},
        {"access_key_secret": "secret"},
        {"signature": "hmac-md5"},
        {"api_version": "2020-01-01"},
        {"limits": {"calls_per_second": 0}},
        {"limits": {"batch_urls": 1_001}},
        {"quota": {"files": 1}},
        {"account": ""},
        {"ignore_params_type": "a\nb"},
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any]) -> None:
    """Unknown keys, keys in the file, other versions and impossible limits."""
    with pytest.raises(ValidationError):
        Settings.model_validate(settings)


def test_a_key_in_the_file_is_answered_with_its_variable() -> None:
    """Who writes it there learns where it belongs, and the message does not repeat it."""
    with pytest.raises(ValidationError, match="ALIBABA_CLOUD_ACCESS_KEY_SECRET in the environment") as caught:
        Settings.model_validate({"access_key_secret": "topsecret"})
    assert "topsecret" not in caught.value.errors()[0]["msg"]


def test_every_setting_is_documented() -> None:
    """The JSON Schema explains each key where it is declared."""
    schema = described(Settings).model_json_schema()
    tables = [schema, *schema["$defs"].values()]
    undocumented = [
        key for table in tables for key, reported in table["properties"].items() if "description" not in reported
    ]
    assert undocumented == []
