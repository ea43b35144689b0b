"""A stand, and a browser that looks at it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Visit, a_browser
from playwright.sync_api import Browser
from shells import Stand, a_stand


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """An origin with an emulator before it."""
    with a_stand(tmp_path / "stand") as stand:
        yield stand


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a file; where it is absent they fail in CI, and are skipped and told elsewhere."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        outcome = pytest.fail if os.environ.get("CI") else pytest.skip
        outcome("chromium is absent; tests/system-packages installs it")
    with a_browser(path) as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open pages with what they need of a context (a screen, a colour scheme); nothing may go wrong in any."""
    visits: list[Visit] = []

    def make(**context: Any) -> Visit:
        visits.append(Visit(browser.new_context(**context).new_page()))
        return visits[-1]

    yield make
    for one in visits:
        one.page.context.close()
        assert one.troubles == []
