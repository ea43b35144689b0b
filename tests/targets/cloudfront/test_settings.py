"""What a configuration may say, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from listener.errors import ConfigurationError
from listener.refresh import RefreshKind
from listener.targets.cloudfront import Settings
from tests.targets.cloudfront.conftest import DIRECTORY, FILE, IGNORE_PARAMS, make_target

pytestmark = pytest.mark.looptime(False)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "Field required"),
        ({"distribution": "d111111abcdef8.cloudfront.net"}, "should match pattern"),
        ({"distribution": "E1", "monthly_dollars": -1}, "greater than or equal to 0"),
        ({"distribution": "E1", "aws_secret_access_key": "x"}, "set AWS_SECRET_ACCESS_KEY in the environment"),
        ({"distribution": "E1", "endpoint_url": "https://cloudfront.amazonaws.com/2020"}, "scheme, host and port only"),
        ({"distribution": "E1", "limits": {"form": "slots"}}, "'rate' or 'in-progress'"),
        ({"distribution": "E1", "dollars": 1}, "Extra inputs"),
    ],
)
def test_wrong_settings(table: dict[str, Any], words: str) -> None:
    """Each is named, with the right form."""
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate(table)


@pytest.mark.parametrize(("dollars", "paths"), [(0, 1000), (0.005, 1001), (0.0149, 1002), (10, 3000), (0.35, 1070)])
def test_money_buys_paths(dollars: float, paths: int) -> None:
    """A thousand paths of a month are free, and no more than the money buys are sent; all kinds share them."""
    (allowance,) = make_target("http://127.0.0.1:1", monthly_dollars=dollars).allowances
    assert (allowance.name, allowance.limit, allowance.free) == ("paths", paths, 1000)
    assert allowance.dollars(allowance.limit) <= dollars + 1e-9
    assert allowance.costs == {FILE: 1, DIRECTORY: 1, IGNORE_PARAMS: 1}
    december = allowance.window.end(1_796_000_000.0)
    assert december == 1_796_083_200.0, "2026-12-01 00:00 UTC"


def test_what_a_request_may_have() -> None:
    """By rate no more than a second takes; by what is in progress the kinds with a * share what there is."""
    by_rate = make_target("http://127.0.0.1:1").limits
    assert {kind: one.batch_urls for kind, one in by_rate.items()} == {FILE: 150, DIRECTORY: 1, IGNORE_PARAMS: 1}
    in_progress = make_target("http://127.0.0.1:1", limits={"form": "in-progress"}).limits
    assert {kind: (one.batch_urls, one.slots) for kind, one in in_progress.items()} == {
        FILE: (1000, 3000),
        DIRECTORY: (10, 10),
        IGNORE_PARAMS: (5, 5),
    }


def test_distributions_of_one_account_share_its_paths() -> None:
    """Unless they are given other names."""
    assert make_target("http://127.0.0.1:1").account == make_target("http://127.0.0.1:1", distribution="E2").account
    assert make_target("http://127.0.0.1:1", account="other").account == "other"
    assert RefreshKind.PREFETCH not in make_target("http://127.0.0.1:1").limits


async def test_keys_are_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """None at all where no role can be, a part of one, an unknown profile; a role is not waited for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    target = make_target("http://127.0.0.1:1", key=None)
    await target.require_credentials()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="no AWS key") as refused:
        await target.require_credentials()
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    with pytest.raises(ConfigurationError, match="Partial credentials"):
        await target.require_credentials()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await target.require_credentials()
    assert (await target.client.key()).access_key == "AKIDEXAMPLE"
    with pytest.raises(ConfigurationError, match="profile"):
        await make_target("http://127.0.0.1:1", key=None, profile="none").require_credentials()
