"""Takes the pictures of the status page for the documentation, of a real daemon (`make pictures`)."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests import ROOT
from tests.product.page.browsing import Visit, a_browser
from tests.stand import Stand, a_stand, until

IMAGES = ROOT / "docs/images"
SITE = "https://www.example.com/"
SCREENS = {
    "status-light": {"viewport": {"width": 960, "height": 1240}, "color_scheme": "light"},
    "status-dark": {"viewport": {"width": 960, "height": 1240}, "color_scheme": "dark"},
    "status-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


def busy(stand: Stand) -> None:
    """Bring something into every part of the page."""
    stand.order("malformed:draft", "stuck:/video/", "fail:press:4")
    for key in ("index.html", "blog/autumn.html", "blog/winter.html", "img/logo.svg", "img/hero.avif"):
        stand.write(key)
        time.sleep(1.1)
    for key in ("draft 2.html", "notes\\old.html", "video/tour.mp4", "press.html", "docs/install.html"):
        stand.write(key)
    for number in range(400):
        stand.write(f"archive/{number % 40}/{number}.html")
    until(lambda: stand.json("/api/status")["dead_letters"] == 2, what="two are set aside")
    until(lambda: stand.json("/api/status")["deferred"] > 0, what="something is deferred")
    time.sleep(12)


def take(stand: Stand, executable: str) -> None:
    """Take each picture."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with a_browser(executable) as browser:
        for name, screen in SCREENS.items():
            one = Visit(browser.new_context(**screen).new_page())
            page = one.open(stand, f"/?url={SITE}video/tour.mp4" if name == "status-light" else "/")
            page.locator("#live-text").get_by_text("live").wait_for()
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / f"{name}.png")


def main() -> None:
    """Run a stand, and look at it."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("chromium is absent; tests/system-packages installs it")
    with (
        tempfile.TemporaryDirectory() as folder,
        a_stand(Path(folder) / "stand", quota="60,3", task_seconds=4) as stand,
    ):
        stand.configure(site="min_directory_depth = 3")
        stand.put(stand.config.read_text().replace(f"{stand.edge}/", SITE))
        with stand.daemon():
            busy(stand)
            take(stand, executable)


if __name__ == "__main__":
    main()
