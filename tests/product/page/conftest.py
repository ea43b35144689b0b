"""A stand, and a browser that looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.product.page.browsing import Visit, a_browser
from tests.stand import Stand, a_stand

Launch = Callable[[str], Browser]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """An origin with an emulator before it."""
    with a_stand(tmp_path / "stand") as stand:
        yield stand


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Start one Chromium for all tests of a file, once the first requests it."""
    with ExitStack() as stack:
        running: list[Browser] = []

        def start(executable: str) -> Browser:
            if not running:
                running.append(stack.enter_context(a_browser(executable)))
            return running[0]

        yield start


@pytest.fixture
def visit(launch: Launch, system_command: Callable[[str], str]) -> Iterator[Callable[..., Visit]]:
    """Open pages with what they need of a context (a screen, a colour scheme); nothing may go wrong in any."""
    browser = launch(system_command("chromium"))
    visits: list[Visit] = []

    def make(**context: Any) -> Visit:
        visits.append(Visit(browser.new_context(**context).new_page()))
        return visits[-1]

    yield make
    for one in visits:
        one.page.context.close()
    assert [one.troubles for one in visits if one.troubles] == []
