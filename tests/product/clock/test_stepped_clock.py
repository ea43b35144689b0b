"""The real daemon under a clock that is stepped: libfaketime stands between the process and the machine's clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.stand import Stand, a_stand, fetch, until

HOUR = 3600
FRESH_SECONDS = 60.0
"""Within so much after a step a change is fresh, whichever way the clock was stepped."""

pytestmark = pytest.mark.looptime(False)


class SteppedClock:
    """The wall clock of one process, ahead of the machine's by what a file says."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "offset"
        self.ahead = 0
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # the file system of a machine keeps its own time
        }

    def step(self, seconds: int) -> None:
        """Put the clock on or back by so much."""
        self.ahead += seconds
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{self.ahead:+d}\n")
        draft.replace(self._file)

    def now(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def library(system_command: Callable[[str], str], absent: Callable[[str], NoReturn]) -> Path:
    """Return where libfaketime is, for processes of several threads."""
    system_command("faketime")
    found = sorted(Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"))
    return found[0] if found else absent("libfaketimeMT.so.1")


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """An origin, an emulator, and a configuration that joins them."""
    with a_stand(tmp_path / "stand") as stand:
        yield stand


def follows(stand: Stand, clock: SteppedClock) -> None:
    """Let the CDN's clock show what the daemon's does: it refuses signatures of another time."""
    stand.emulator.faults.clear("clock-skew")
    stand.order(f"clock-skew:{clock.ahead}")


def ages(reported: Any) -> Iterator[tuple[str, float]]:
    """Yield every age and span in what is reported, by its name."""
    if isinstance(reported, Mapping):
        for name, value in reported.items():
            if isinstance(value, int | float) and name.endswith(("_seconds", "_days")):
                yield name, value
            else:
                yield from ages(value)
    elif isinstance(reported, list):
        for one in reported:
            yield from ages(one)


def seconds_of(text: str) -> float:
    """Return a time that was reported, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def refreshed(stand: Stand, clock: SteppedClock, key: str) -> None:
    """Change a file that the edge has; it is fresh soon, and what is reported meanwhile and after makes sense."""
    stand.write(key, "old")
    until(lambda: fetch(stand.url(key)) == (200, "old"), what="the edge has it")
    before = stand.paths().count(stand.url(key))
    stand.write(key, f"new at {clock.ahead}")
    until(lambda: fetch(stand.url(key))[1] == f"new at {clock.ahead}", seconds=FRESH_SECONDS, what=f"{key} is fresh")
    assert stand.paths().count(stand.url(key)) > before

    def settled() -> dict[str, Any]:
        reported = stand.json("/api/status")
        makes_sense(reported, clock)
        return {} if reported["pending"] or reported["in_flight"] else reported

    until(settled, seconds=FRESH_SECONDS, what="nothing is left to do")


def makes_sense(reported: dict[str, Any], clock: SteppedClock) -> None:
    """Times are the clock's, and no age is negative or that of a step."""
    assert abs(seconds_of(reported["at"]) - clock.now()) < 30
    for name, value in ages(reported):
        assert value >= 0, name
    # Files keep the machine's time, so that a change seems as old as the clock is ahead.
    assert reported["oldest_unsettled_seconds"] < max(0, clock.ahead) + HOUR / 2
    for kind in reported["quota"]["cdn"].values():
        assert kind["left"] >= 0
        assert 0 < seconds_of(kind["resets_at"]) - seconds_of(reported["at"]) <= 24 * HOUR


def test_the_daemon_goes_on_whichever_way_its_clock_is_stepped(tmp_path: Path, stand: Stand, library: Path) -> None:
    """
    Eight hours on, nine back, all while it runs: each change after a step is refreshed within a minute.

    The CDN follows the clock and refuses what is not signed by it; status, by the port and by the command, reports
    no negative age; the process is the same from beginning to end.
    """
    clock = SteppedClock(tmp_path, library)
    with stand.daemon(**clock.environment) as process:
        refreshed(stand, clock, "a.html")
        for seconds in (8 * HOUR, -9 * HOUR, HOUR):
            clock.step(seconds)
            follows(stand, clock)
            refreshed(stand, clock, f"after-{seconds}.html")
        code, out, err = stand.run("status", "--json", **clock.environment)
        assert code == 0, err
        makes_sense(json.loads(out), clock)
        page = fetch(stand.admin + "/")
        assert page[0] == 200
        assert process.poll() is None


def test_a_daemon_that_starts_behind_its_state_file_goes_on(tmp_path: Path, stand: Stand, library: Path) -> None:
    """A machine that ran a day ahead, and boots with its clock mended, refreshes what changes then."""
    clock = SteppedClock(tmp_path, library)
    clock.step(26 * HOUR)
    follows(stand, clock)
    with stand.daemon(**clock.environment):
        refreshed(stand, clock, "a.html")
    clock.step(-26 * HOUR)
    follows(stand, clock)
    with stand.daemon(**clock.environment):
        refreshed(stand, clock, "a.html")
