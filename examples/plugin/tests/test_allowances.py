"""The allowances of the documentation are what it says."""

from __future__ import annotations

from cdn_listener_example.allowances import EACH_KIND, SHARED, TOGETHER

from listener.allowances import costs_of
from listener.refresh import RefreshKind


def test_a_directory_takes_its_units() -> None:
    """Of its own allowance, of one that it shares, and of two together."""
    assert costs_of(EACH_KIND, RefreshKind.DIRECTORY) == {"directory": 1}
    assert costs_of(SHARED, RefreshKind.DIRECTORY) == costs_of(SHARED, RefreshKind.FILE) == {"paths": 1}
    assert costs_of(TOGETHER, RefreshKind.DIRECTORY) == {"directory": 1, "directory-30-days": 1}
    assert costs_of(TOGETHER, RefreshKind.FILE) == {}
    assert SHARED[0].dollars(3_000) == 10.0
