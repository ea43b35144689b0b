"""
An operator's day: what goes wrong, what a deploy user's `status` says of it, and the command that repairs it.

The tests are one story, in order: each begins and ends with everything fresh.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.product.systemd.booted import COMMAND, CONFIGURATION, UNIT, Machine, a_machine, daemon_files, inside
from tests.stand import Stand, fetch, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.slow]
PAGES = [f"shop/{number:04}.html" for number in range(1000)]
STATE_DIRECTORY = "/var/lib/private/cdn-listener"
BACKUP = "/root/listener.db"
GROUP = "[Service]\nGroup=deploy\n"
SITE = "min_directory_depth = 9"  # each URL costs one unit of the quota
TARGET = "limits = { urls_per_domain_minute = 10000 }"  # of 1,000 URLs none waits for the next minute


@dataclass
class Day:
    """The machine, the CDN, and a user of the service's group who deploys and looks at it."""

    stand: Stand
    machine: Machine
    watched: tuple[str, str] = (PAGES[-1], "one")
    """The page that was written last, and its text."""

    def dora(self, *arguments: str, check: bool = True) -> str:
        """Run the command as a user of the group, away from any file of the service."""
        return self.machine.run("runuser", "-u", "dora", "--", "env", "-C", "/", COMMAND, *arguments, check=check)

    def write(self, pages: Sequence[str], text: str) -> None:
        """Change pages; the edge has a copy of the last one, which is stale then."""
        self.watched = pages[-1], text
        fetch(self.stand.url(pages[-1]))
        for page in pages:
            self.stand.write(page, text)

    def readyz(self) -> tuple[int, dict[str, Any]]:
        """Return the answer of /readyz; status 0 where nobody answers."""
        status, body = fetch(f"{self.stand.admin}/readyz")
        return status, dict(json.loads(body)) if body else {}

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> None:
        """Wait until the daemon's own status is so."""
        until(lambda: self.stand.ready() and condition(self.stand.json("/api/status")), what=what)

    def until_fresh(self) -> None:
        """Wait until the edge serves what was written last, and status and /readyz call everything fresh."""
        page, text = self.watched
        until(lambda: fetch(self.stand.url(page))[1] == text, what=f"{page} is fresh")
        until(lambda: self.dora("status").startswith("Everything is fresh\n"), what="everything is fresh")
        assert self.readyz() == (200, {"ready": True, "reasons": [], "degraded": []})


@pytest.fixture(scope="module")
def day(stand: Stand, tmp_path_factory: pytest.TempPathFactory, booting: None) -> Iterator[Day]:
    """A systemd whose service has a small disk of its own for its state, and a user of its group."""
    for page in PAGES:
        stand.write(page)
    configuration = inside(stand.configure(path="/srv/www", site=SITE, target=TARGET).read_text())
    stand.configure()  # of somebody else, with the same account
    files = {**daemon_files(configuration), f"etc/systemd/system/{UNIT}.d/group.conf": GROUP}
    folder = tmp_path_factory.mktemp("machine")
    with a_machine(folder, name=f"day{os.getpid()}", files=files, binds={stand.root: "/srv"}) as machine:
        machine.run("groupadd", "deploy")
        machine.run("useradd", "--groups", "deploy", "dora")
        machine.run("mkdir", "-p", STATE_DIRECTORY)
        machine.run("mount", "-t", "tmpfs", "-o", "size=16m", "state", STATE_DIRECTORY)
        machine.run("systemctl", "start", UNIT)
        day = Day(stand, machine)
        day.until_fresh()
        yield day


def test_a_deploy_is_one_plan(day: Day) -> None:
    """During the hold `status` names it with its end; `release` and `wait` end it, without root."""
    day.dora("hold", "--reason", "deploy 812")
    day.write(PAGES[:20], "812")
    day.until(lambda found: found["deferred"] == 20, "the deploy is recorded")
    held = day.dora("status")
    assert held.startswith("20 URLs are not fresh yet\n")
    assert f"{day.stand.url(PAGES[0])}\n    deferred for " in held
    assert "held for a deploy: deploy 812; next step at 20" in held
    assert day.readyz()[0] == 200
    assert day.stand.paths() == []
    day.dora("release")
    assert "fresh after" in day.dora("wait", "--timeout", "60s")
    assert len(day.stand.paths()) == 20
    day.until_fresh()


def test_one_bad_url_among_a_thousand(day: Day) -> None:
    """All others become fresh; `wait` ends, and `status` has the CDN's words."""
    bad = day.stand.url(PAGES[666])
    day.stand.order("malformed:/0666.html")
    day.dora("hold", "--reason", "all pages")
    day.write(PAGES, "bad")
    day.until(lambda found: found["deferred"] == 1000, "all pages are recorded")
    day.dora("release")
    day.dora("wait", "--timeout", "60s", check=False)
    found = day.dora("status")
    assert found.startswith("Everything is fresh except 1 that waits for a person\n")
    assert f"{bad}\n    rejected for " in found
    assert "the CDN answered InvalidObjectPath.Malformed" in found
    assert "remedy: cdn-listener dead-letters --retry URL, or --discard URL\n" in found
    assert day.readyz()[0] == 200
    assert bad in day.dora("dead-letters")
    day.stand.emulator.faults.clear("malformed")
    assert day.dora("dead-letters", "--retry", bad) == "retried 1\n"
    day.until_fresh()


def test_the_quota_is_spent_by_somebody_else_at_noon(day: Day) -> None:
    """`status` has the CDN's words, when the day ends, what others spent, and where there is more quota."""
    stand, others = day.stand, [day.stand.url(f"their/{number}.html") for number in range(260)]
    assert stand.run("refresh", "--wait", *others)[0] == 0
    spent = len(stand.paths())
    stand.order(f"quota-limit:{spent},0")
    day.write(PAGES[:30], "noon")
    day.until(lambda found: found["problems"] and found["deferred"] == 30, "what the CDN refused waits")
    columns = (
        rf"^cdn +file +{spent} +{spent} +260 +0 +0 +0 +\S+T16:00:00Z$"  # limit, spent, others, held, left, reserve
    )
    until(lambda: re.search(columns, day.dora("status"), re.MULTILINE), what="the live quota is known")
    found = day.dora("status")
    assert found.startswith("30 URLs are not fresh yet\nproblem: account main: the CDN answered QuotaExceeded.Refresh ")
    assert "  remedy: the day ends at 00:00 UTC+8; more quota: the vendor's Quota Center\n" in found
    assert f"{stand.url(PAGES[0])}\n    deferred for " in found
    assert day.readyz()[0] == 200  # every change is recorded
    stand.order("quota-limit:10000,100")
    day.machine.run("systemctl", "restart", UNIT)  # reads the live quota at once
    day.until_fresh()


def test_a_mass_deletion_is_held_back(day: Day) -> None:
    """Nothing is sent until `confirm-deletions`; meanwhile neither status nor /readyz is green."""
    before = len(day.stand.paths())
    for page in PAGES[:700]:
        (day.stand.tree / page).unlink()
    until(lambda: not day.stand.ready(), what="the deletions are held back")
    found = day.dora("status")
    assert found.startswith("700 deletions are held back until a person confirms\n")
    assert "problem: source www: nothing is taken for deleted: 700 of 1000 known files are gone at once" in found
    assert "  remedy: bring the files back, or run cdn-listener confirm-deletions www\n" in found
    status, answer = day.readyz()
    assert status == 503
    assert "700 of 1000 known files" in answer["reasons"][0]
    assert len(day.stand.paths()) == before
    day.dora("confirm-deletions", "www")
    until(lambda: len(day.stand.paths()) == before + 700, what="the deletions are refreshed")
    until(lambda: day.dora("status").startswith("Everything is fresh\n"), what="everything is fresh")


def test_a_source_is_renamed(day: Day) -> None:
    """The reload reports what the old name left; the command that repairs it is in `status`, and loses no change."""
    text = day.machine.run("cat", CONFIGURATION)
    renamed = text.replace("[sources.www]", "[sources.web]").replace('source = "www"', 'source = "web"')
    day.machine.write(CONFIGURATION, renamed)
    day.machine.run("systemctl", "reload", UNIT)
    day.until(lambda found: found["problems"] and "web" in found["sources"], "the old name is reported")
    found = day.dora("status")
    assert found.startswith("Nothing is known to be stale, but 1 problem is reported\n")
    assert "problem: source www is not configured: the store keeps its index of 300 objects\n" in found
    assert "stop the daemon, cdn-listener store rename source www web; " in found
    assert day.readyz()[0] == 200
    before = len(day.stand.paths())
    day.machine.run("systemctl", "stop", UNIT)
    day.write(PAGES[900:901], "while stopped")
    day.machine.run(COMMAND, "store", "rename", "source", "www", "web")
    day.machine.run("systemctl", "start", UNIT)
    day.until_fresh()
    assert day.stand.paths()[before:] == [day.stand.url(PAGES[900])]


def test_the_disk_is_full(day: Day) -> None:
    """`status` and /readyz name the disk; once there is space everything goes on by itself."""
    day.machine.run("dd", "if=/dev/zero", f"of={STATE_DIRECTORY}/full", "bs=64k", check=False)
    day.write(PAGES[700:], "disk")
    until(lambda: not day.stand.ready(), what="the full disk is found")
    found = day.dora("status")
    assert found.startswith("Some changes are not detected or not sent\n")
    assert "problem: store: state file /var/lib/cdn-listener/state.db: the disk is full\n" in found
    assert "  remedy: free space; deliveries go on by themselves\n" in found
    status, answer = day.readyz()
    assert status == 503
    assert "the disk is full (free space; " in answer["reasons"][0]
    day.machine.run("rm", f"{STATE_DIRECTORY}/full")
    day.until_fresh()


def test_the_host_is_moved(day: Day) -> None:
    """A backup, a copied tree and an empty state directory: only what changed after the backup is refreshed."""
    machine, stand = day.machine, day.stand
    machine.run(COMMAND, "store", "backup", BACKUP)
    machine.run("systemctl", "stop", UNIT)
    machine.run("umount", STATE_DIRECTORY)
    shutil.copytree(stand.tree, stand.root / "copy")
    stand.tree.rename(stand.root / "old")
    (stand.root / "copy").rename(stand.tree)
    day.write(PAGES[900:902], "moved")
    before = len(stand.paths())
    machine.run("install", "-D", "-m", "600", BACKUP, f"{STATE_DIRECTORY}/state.db")
    machine.run("systemctl", "start", UNIT)
    day.until_fresh()
    assert sorted(stand.paths()[before:]) == [stand.url(page) for page in PAGES[900:902]]


def test_a_damaged_state_file_is_restored(day: Day) -> None:
    """`status` and /readyz have the remedy; a restored backup is enough, and what came after it is refreshed."""
    machine = day.machine
    machine.run("systemctl", "stop", UNIT)
    day.write(PAGES[950:952], "restored")
    damage = ["if=/dev/zero", f"of={STATE_DIRECTORY}/state.db", "bs=4096", "count=4", "seek=3", "conv=notrunc"]
    machine.run("dd", *damage)
    machine.run("systemctl", "start", "--no-block", UNIT)  # it is up after a while, degraded
    until(lambda: "damaged" in str(day.readyz()), what="the damage is found")
    found = day.dora("status", check=False)  # what is read may be what is damaged
    assert "state file /var/lib/cdn-listener/state.db: " in found
    assert "; it was left as it is\n" in found
    assert ": restore a backup, or move the file away and start again (" in found
    status, answer = day.readyz()
    assert status == 503
    assert "it was left as it is (restore a backup, or " in answer["reasons"][0]
    machine.run("systemctl", "stop", UNIT)
    machine.run("rm", "-r", STATE_DIRECTORY)
    machine.run("install", "-D", "-m", "600", BACKUP, f"{STATE_DIRECTORY}/state.db")
    machine.run("systemctl", "start", UNIT)
    day.until_fresh()
    assert "sound" in machine.run(COMMAND, "store", "check")
