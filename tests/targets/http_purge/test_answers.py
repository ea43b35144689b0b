"""What a cache may answer that no cache should."""

from __future__ import annotations

import pytest

from listener.refresh import RefreshKind
from listener.targets.http_purge import HttpPurge
from listener.targets.http_purge.presets import Verdict, judge, purge_request

SETTINGS = HttpPurge.Settings(servers=["http://10.0.0.5:6081"])


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [("", 5), ("7", 7), ("soon", 5), ("-1", 5), ("\u00b2", 5), ("\u0665", 5), ("999999", 60), (400 * "9", 5)],
)
def test_how_long_a_busy_cache_is_left_alone(retry_after: str, wait: float) -> None:
    """As the answer says, within a bound; whatever else stands there."""
    request = purge_request(SETTINGS, RefreshKind.FILE, "https://www.example.com/a", force=True)
    found = judge(SETTINGS, request, 429, {"Retry-After": retry_after})
    assert (found.verdict, found.retry_after_seconds) == (Verdict.BUSY, wait)
