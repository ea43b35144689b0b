"""A real daemon goes on while a visitor sends requests that are costly to log, and its log stays small."""

from __future__ import annotations

import concurrent.futures
import http.client
import time
from pathlib import Path

import pytest

from tests.stand import a_stand, fetch


@pytest.mark.looptime(False)
def test_a_costly_path_blocks_nothing(tmp_path: Path) -> None:
    """Refused requests with a path of 8 kB that a backtracking mask took seconds for: 20 of them are quick."""
    with a_stand(tmp_path / "stand") as stand, stand.daemon():
        address = stand.admin.removeprefix("http://")

        def attack(_: int) -> int:
            connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("GET", "/" + "a." * 3_900 + "=", headers={"Host": "evil.example"})
            status = connection.getresponse().status
            connection.close()
            return status

        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            assert set(threads.map(attack, range(20))) == {421}
            assert fetch(f"{stand.admin}/livez")[0] == 200
        assert time.monotonic() - start < 15
