"""The access key in the hands of the target; where it comes from is tested in tests/alibaba."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from listener.errors import Misconfigured
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.targets.alibaba_cdn.recording_api import Api

ID = "ALIBABA_CLOUD_ACCESS_KEY_ID"
MakeTarget = Callable[..., AlibabaCdn]


async def test_without_a_key_nothing_is_sent(api: Api, make_target: MakeTarget) -> None:
    """A missing key stops before the wire."""
    with pytest.raises(Misconfigured, match=ID):
        await make_target(environment={}).submit(RefreshKind.FILE, ["http://h/a"], force=False)
    assert api.received == []


async def test_the_setting_chooses_the_source(make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """``credentials = "default-chain"`` asks the chain and not our variables."""
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials.client", None)
    with pytest.raises(Misconfigured, match="alibabacloud-credentials"):
        await make_target(credentials="default-chain").client.credentials()


async def test_a_key_is_read_again_after_a_minute_and_kept_when_that_fails(make_target: MakeTarget) -> None:
    """Rotation is noticed without a restart; a source that fails for a while does not stop a valid key."""
    environment = dict(KEYS)
    client = make_target(environment=environment).client
    assert (await client.credentials()).access_key_id == "testid"
    environment[ID] = "rotated"
    assert (await client.credentials()).access_key_id == "testid"
    await asyncio.sleep(61)
    assert (await client.credentials()).access_key_id == "rotated"
    del environment[ID]
    await asyncio.sleep(61)
    assert (await client.credentials()).access_key_id == "rotated"
    with pytest.raises(Misconfigured):
        await client.credentials(renew=True)
