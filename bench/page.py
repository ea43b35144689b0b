"""
The status page: how soon a change shows in a real Chromium, and what watching costs the daemon.

Prints seconds from the moment an attempt is in the state file to the moment it is in the page, and processor
seconds of the daemon in ten seconds: nobody watching, one, and as many as may.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]

from listener.daemon.admin.pages import MOST_WATCHERS
from tests.product.page.browsing import Visit, a_browser
from tests.stand import Stand, a_stand

CHANGES = 20
SPAN_SECONDS = 10.0
SEEN = """() => {
  window.seen = {};
  const recent = document.getElementById("recent");
  const look = () => {
    for (const url of recent.querySelectorAll(".url")) window.seen[url.textContent] ??= Date.now() / 1000;
  };
  look();
  new MutationObserver(look).observe(recent, { subtree: true, childList: true, characterData: true });
}"""


def latencies(stand: Stand, chromium: str) -> list[float]:
    """Return how long each change took from the state file to the page, in seconds."""
    with a_browser(chromium) as browser:
        page = Visit(browser.new_page()).open(stand)
        page.locator("#live-text").get_by_text("live").wait_for()
        page.evaluate(SEEN)
        for number in range(CHANGES):
            stand.write(f"change-{number}.html")
            page.locator("#recent").get_by_text(f"change-{number}.html").wait_for()
        seen = page.evaluate("window.seen")
    connection = sqlite3.connect(stand.state)
    made = dict(connection.execute("SELECT url, created_at FROM attempt"))
    connection.close()
    return [seen[url] - made[url] for url in made if url in seen]


def processor_seconds(pid: int) -> float:
    """Return what a process used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(stand: Stand, pid: int, watchers: int) -> float:
    """Return the processor seconds of ten seconds with so many watchers, while a file changes each second."""
    with ExitStack() as stack:
        for _ in range(watchers):
            connection = http.client.HTTPConnection("127.0.0.1", stand.admin_port)
            stack.callback(connection.close)
            connection.request("GET", "/events")
            connection.getresponse()
        began = processor_seconds(pid)
        for _ in range(int(SPAN_SECONDS)):
            stand.write("busy.html", str(time.time()))
            time.sleep(1)
        return processor_seconds(pid) - began


def main() -> None:
    """Measure both."""
    chromium = shutil.which("chromium") or sys.exit("chromium is absent; tests/system-packages installs it")
    with tempfile.TemporaryDirectory() as folder, a_stand(Path(folder) / "stand") as stand, stand.daemon() as process:
        found = sorted(latencies(stand, chromium))
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        median, longest = statistics.median(found), found[-1]
        print(f"from state file to page: median {median:.2f} s, longest of {len(found)} {longest:.2f} s")
        alone = watched(stand, process.pid, 0)
        for watchers in (1, MOST_WATCHERS):
            cost = watched(stand, process.pid, watchers)
            ratio = cost / alone
            print(
                f"{watchers:2} watching: {cost:.2f} s of {SPAN_SECONDS:.0f} s, {ratio:.1f} times nobody's {alone:.2f} s"
            )


if __name__ == "__main__":
    main()
