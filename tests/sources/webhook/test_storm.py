"""Promise 1 through the webhook, from outside: SIGKILL at random instants, and every 2xx is in the state file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sources.webhook.storm import hook_storm

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(600)]


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.soak)])
async def test_what_was_answered_is_in_the_state_file(tmp_path: Path, kills: int) -> None:
    """Each answered change is in the index and each unreadable body kept; all turn fresh, and the books are equal."""
    report, run = await hook_storm(tmp_path, kills=kills, seed=kills, keys=40)
    print(report, run.answers, len(run.set_aside))
    assert run.missing == []
    assert report.good, report
    assert run.answers[204] > 10 * kills
