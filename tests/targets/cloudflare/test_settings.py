"""What a configuration may say, and which error a wrong one gets."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from listener.contracts import Eviction
from listener.targets.cloudflare import Cloudflare, Settings
from listener.targets.cloudflare.plans import PLANS
from tests.targets.cloudflare.conftest import DIRECTORY, FILE, IGNORE_PARAMS, make_target


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"token": "x"}, "a token never stands in a configuration"),
        ({"zones": {"Example.com": 32 * "0"}}, "no domain in lower case"),
        ({"zones": {"example.com": "123"}}, "32 hexadecimal digits"),
        ({"tag": "a"}, "must have {path}"),
        ({"tag": "a,{path}"}, "printable ASCII"),
        ({"tag": "{path}{key}"}, "only {path} and {host}"),
        ({"plan": "gold"}, "free"),
        ({"endpoint": "https://api.cloudflare.com/client"}, "scheme, host and port only"),
        ({"zone": "x"}, "Extra inputs"),
    ],
)
def test_wrong_settings(table: dict[str, Any], words: str) -> None:
    """Each is named, with the right form; a token is not repeated."""
    with pytest.raises(ValidationError, match=words.replace("{", r"\{")):
        Settings.model_validate(table)


def test_kinds_follow_from_the_settings() -> None:
    """Prefixes take any query, tags only what is below; without both there are only files."""
    kinds = {subtree: set(make_target("http://h", subtree=subtree).limits) for subtree in ("prefix", "tag", "none")}
    assert kinds == {"prefix": {FILE, DIRECTORY, IGNORE_PARAMS}, "tag": {FILE, DIRECTORY}, "none": {FILE}}
    for soft, eviction in ((True, Eviction.EITHER), (False, Eviction.HARD)):
        assert {one.eviction for one in make_target("http://h", soft=soft).limits.values()} == {eviction}
    assert issubclass(Cloudflare.Settings, Settings)


def test_limits_may_be_given() -> None:
    """What is not given is the plan's."""
    given = Settings.model_validate({"plan": "enterprise", "limits": {"requests_per_second": 80}})
    assert given.allowed == PLANS["enterprise"]._replace(requests_per_second=80)
    assert Settings().allowed == PLANS["free"] == (5 / 60, 25, 800, 100)
