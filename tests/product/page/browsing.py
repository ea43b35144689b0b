"""A real Chromium for the tests of the status page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

from tests.stand import Stand

TOKEN = "a-token-that-is-long-enough"
WAIT_MILLISECONDS = 40_000
"""Conditions are waited for so long; the machine may be busy."""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]


@dataclass
class Visit:
    """A page in a browser, with whatever went wrong in it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._on_console)

    def _on_console(self, message: ConsoleMessage) -> None:
        # That the token is asked for, or that the daemon has gone, is no mistake of the page.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.troubles.append(message.text)

    def open(self, stand: Stand, path: str = "/") -> Page:
        self.page.goto(stand.admin + path)
        return self.page

    def sign_in(self, stand: Stand) -> Page:
        self.open(stand)
        self.page.get_by_label("Token").fill(TOKEN)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_selector("#verdict")
        return self.page

    def row(self, section: str, text: str) -> Locator:
        """Return the row with this text in a section, once it is there."""
        found = self.page.locator(f"#{section} li").filter(has_text=text)
        found.first.wait_for()
        return found

    def overflow_pixels(self) -> int:
        """Return by how much anything on the page is wider than the screen, whether it can be scrolled to or not."""
        return int(
            self.page.evaluate(
                """() => Math.max(0, ...[...document.body.querySelectorAll("*")]
                  .map((one) => one.getBoundingClientRect().right - document.documentElement.clientWidth))"""
            )
        )

    def barriers(self) -> list[str]:
        """Return what axe finds to be a serious barrier, or a critical one."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


@contextmanager
def a_browser(executable: str) -> Iterator[Browser]:
    """Run Chromium for as long as the block lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
