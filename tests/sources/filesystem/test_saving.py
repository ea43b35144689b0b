"""How real programs write files: each save is one need, for the name that stays, whatever names it took on the way."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from listener.router import Router
from listener.settings import CoalescerSettings, Site
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.store import Store, open_store
from listener.store.batches import Batch
from listener.store.store import StoreOptions

pytestmark = pytest.mark.looptime(False)

BASE = "https://www.example.com/"
ENVIRONMENT = os.environ | {"HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}


def run(*command: str, cwd: Path, stdin: str | None = None) -> None:
    """Run a program to its end."""
    subprocess.run(command, cwd=cwd, env=ENVIRONMENT, input=stdin, text=True, check=True, capture_output=True)


def sed(root: Path, key: str, text: str) -> None:
    """Edit in place, by a temporary name in the same directory."""
    run("sed", "-i", f"s/.*/{text}/", key, cwd=root)


def vim(root: Path, key: str, text: str, *, options: str = "") -> None:
    """Save as vim does by default: a swap file, and a probe whether the directory can be written to."""
    script = f"set backupdir=. directory=. {options}\n%s/.*/{text}/\nwrite!\nquit!\n"
    run("vim", "-es", "-N", "-u", "NONE", "-i", "NONE", key, cwd=root, stdin=script)


def vim_by_rename(root: Path, key: str, text: str) -> None:
    """Save with the old file renamed to a backup first."""
    vim(root, key, text, options="writebackup backupcopy=no")


def emacs(root: Path, key: str, text: str, *, backups: str = "nil") -> None:
    """Save as emacs does: a lock file, an auto-save file, and the file written in place."""
    script = f"""(progn
      (setq make-backup-files {backups} backup-inhibited nil backup-enable-predicate (lambda (_) t))
      (erase-buffer) (insert "{text}") (do-auto-save) (save-buffer))"""
    run("emacs", "--quick", "--batch", key, "--eval", script, cwd=root)


def perl(root: Path, key: str, text: str) -> None:
    """Edit in place: the old file is unlinked, the new one written under its name."""
    run("perl", "-pi", "-e", f"s/.*/{text}/", key, cwd=root)


def rsync(root: Path, key: str, text: str, *options: str) -> None:
    """Publish one file from a staging tree."""
    staged = root.parent / "staged"
    (staged / key).parent.mkdir(parents=True, exist_ok=True)
    (staged / key).write_text(text)
    run("rsync", "-a", "--checksum", *options, f"{staged}/", f"{root}/", cwd=root)
    shutil.rmtree(staged)


def rsync_delayed(root: Path, key: str, text: str) -> None:
    """Publish by a directory of rsync's own."""
    rsync(root, key, text, "--delay-updates")


def tar(root: Path, key: str, text: str) -> None:
    """Unpack one file over the old one."""
    staged = root.parent / "staged"
    (staged / key).parent.mkdir(parents=True, exist_ok=True)
    (staged / key).write_text(text)
    run("sh", "-c", f"tar -c -C {staged} {key} | tar -x", cwd=root)
    shutil.rmtree(staged)


def zipped(root: Path, key: str, text: str) -> None:
    """Unpack one file under a temporary name, and rename it."""
    staged = root.parent / "staged"
    (staged / key).parent.mkdir(parents=True, exist_ok=True)
    (staged / key).write_text(text)
    run("python3", "-m", "zipfile", "-c", "../one.zip", f"../staged/{key}", cwd=root)
    shutil.rmtree(staged)
    run("sh", "-c", f"unzip -p ../one.zip > ./.unzipped && mv ./.unzipped {key}", cwd=root)


def git(root: Path, key: str, text: str) -> None:
    """Check out a commit that changes one file."""
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "x"]
    if not (root / ".git").exists():
        run("git", "init", "-q", cwd=root)
    before = (root / key).read_text() if (root / key).exists() else ""
    (root.parent / "new").write_text(text)
    run("git", "add", "-A", cwd=root)
    run(*commit, "--allow-empty", cwd=root)
    blob = subprocess.run(
        ["git", "hash-object", "-w", "../new"], cwd=root, env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout.strip()
    run("git", "update-index", "--add", "--cacheinfo", f"100644,{blob},{key}", cwd=root)
    run(*commit, "--allow-empty", cwd=root)
    run("git", "reset", "-q", "--hard", cwd=root)
    assert (root / key).read_text() == text != before


def temporary_and_rename(root: Path, key: str, text: str) -> None:
    """Write under a name that may look like anything, and rename."""
    name = root / random.choice(["4913", "x.tmp", f"{key}.part", f".{key.replace('/', '-')}.Ab12Cd", "#x#", "y~"])
    name.parent.mkdir(parents=True, exist_ok=True)
    name.write_text(text)
    (root / key).parent.mkdir(parents=True, exist_ok=True)
    name.rename(root / key)


def directory_and_moves(root: Path, key: str, text: str) -> None:
    """Unpack a directory next to the place, move one file out, and remove the rest."""
    unpacked = root / "unpacking"
    (unpacked / "deep").mkdir(parents=True)
    (unpacked / "deep" / "file").write_text(text)
    (unpacked / "left over").write_text("x")
    (root / key).parent.mkdir(parents=True, exist_ok=True)
    (unpacked / "deep" / "file").rename(root / key)
    shutil.rmtree(unpacked)


EDITS: Mapping[str, Callable[[Path, str, str], None]] = {
    each.__name__: each for each in (sed, vim, vim_by_rename, emacs, perl, rsync, rsync_delayed, git)
}
WRITES = EDITS | {each.__name__: each for each in (tar, zipped, temporary_and_rename, directory_and_moves)}


class Following:
    """A source that is recorded on the real store, where nothing becomes due."""

    def __init__(self, root: Path, store: Store) -> None:
        """Follow a tree."""
        site = Site.model_validate({"source": "www", "target": "cdn", "base_urls": [BASE]})
        self.root, self.store, self.router = root, store, Router([site])
        self.source = FilesystemSource("www", FilesystemSettings(path=root, stable_seconds=0.3))
        self.number = 0

    async def record(self) -> None:
        """Record what comes, for ever."""
        async for delivery in self.source.deliveries(self.store):
            await self.store.record(
                [Batch(delivery.changes, delivery.scan_sequence, delivery.seed)], self.router.route
            )  # fmt: skip
            await delivery.ack()

    async def settled(self) -> set[str]:
        """Wait until a new mark is reported; return the URLs that are stale, without marks."""
        self.number += 1
        mark = f"mark{self.number}"
        (self.root / mark).write_text("x")
        end = time.monotonic() + 20
        while not await self.store.explain(BASE + mark):
            assert time.monotonic() < end, "no mark"
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        guard = self.source._session._deletion_guard  # type: ignore[union-attr]
        while guard.next_release(time.monotonic()) is not None:  # of a name that was reported before it went
            assert time.monotonic() < end, "deletions are held"
            await asyncio.sleep(0.5)
        query = "SELECT url || name FROM need JOIN directory ON id = directory"
        stale = await self.store._read(lambda c: c.execute(query).fetchall())
        return {url.removeprefix(BASE) for (url,) in stale if "/mark" not in url}


@asynccontextmanager
async def following(root: Path) -> AsyncIterator[Following]:
    """Follow a tree from the end of its first scan."""
    slow = CoalescerSettings(
        quiet_seconds=600, cap_seconds=600, unfinished_quiet_seconds=600, unfinished_cap_seconds=600
    )
    options = StoreOptions(timing=slow)
    async with open_store(f"sqlite:///{root.parent}/state.db", options=options, owner=True) as store:
        made = Following(root, store)
        task = asyncio.create_task(made.record())
        while not made.source.health.ready:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a small site."""
    path = tmp_path / "www"
    (path / "a").mkdir(parents=True)
    for number in range(6):
        (path / f"p{number}.html").write_text("one\n")
    return path


@pytest.mark.parametrize("name", sorted(WRITES))
async def test_a_save_is_one_need(root: Path, name: str) -> None:
    """A page that is there is changed, and nothing but the page is stale: no name that the program used on its way."""
    if name == "git":
        git(root, "p5.html", "first")
    async with following(root) as made:
        await asyncio.to_thread(WRITES[name], root, "p1.html", "changed")
        assert await made.settled() == {"p1.html"}
        assert (root / "p1.html").read_text().strip() == "changed"


async def test_a_backup_that_emacs_keeps_is_a_page_of_its_own(root: Path) -> None:
    """The old file is renamed and stays: whoever asked for that name before was answered that there is none."""
    async with following(root) as made:
        await asyncio.to_thread(emacs, root, "p1.html", "changed", backups="t")
        assert await made.settled() == {"p1.html", "p1.html~"}


@pytest.mark.parametrize("name", sorted(WRITES.keys() - EDITS.keys() | {"rsync", "git"}))
async def test_a_new_file_is_one_need(root: Path, name: str) -> None:
    """The same for a page that was not there."""
    if name == "git":
        git(root, "p5.html", "first")
    async with following(root) as made:
        await asyncio.to_thread(WRITES[name], root, "a/new.html", "text")
        assert await made.settled() == {"a/new.html"}


async def test_a_name_that_was_reported_and_went_needs_nothing(root: Path) -> None:
    """An upload that took a while: its temporary name was recorded, and is forgotten with its end."""
    async with following(root) as made:
        (root / "upload.tmp").write_text("text")
        assert await made.settled() == {"upload.tmp"}
        (root / "upload.tmp").rename(root / "p1.html")
        assert await made.settled() == {"p1.html"}
        (root / "p1.html").unlink()
        assert await made.settled() == {"p1.html"}


@pytest.mark.parametrize("seed", range(2))
async def test_any_saves_end_with_the_true_difference(root: Path, seed: int) -> None:
    """Random programs on random pages, some removed again: what is stale is what differs, or was written again."""
    chance = random.Random(seed)
    git(root, "p5.html", "first")
    before = {path.name: path.read_text() for path in root.glob("p*.html")}
    async with following(root) as made:
        touched = set()
        for number in range(15):
            name = chance.choice(sorted(WRITES))
            there = sorted(path.name for path in root.glob("p*.html"))
            key = chance.choice(there) if name in EDITS else f"p{chance.randrange(9)}.html"
            await asyncio.to_thread(WRITES[name], root, key, f"text {number}")
            touched.add(key)
            if chance.random() < 0.2:
                (root / key).unlink()
        stale = await made.settled()
        after = {path.name: path.read_text() for path in root.glob("p*.html")}
        differs = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert differs <= stale <= touched | {f"p{number}.html" for number in range(6)}
        assert len(stale) <= len(touched)


async def test_a_file_that_stays_counts_whatever_it_is_called(root: Path) -> None:
    """Names that look temporary, as files and as directories."""
    names = ["4913", "notes~", "#list#", "report.part", "x.tmp", ".page.html.Ab12Cd", "sedAb12Cd", "..well"]
    async with following(root) as made:
        for name in names:
            (root / name).write_text("x")
            (root / f"d{name}" / name).mkdir(parents=True)
            (root / f"d{name}" / name / "page.html").write_text("x")
        expected = {*names, *(f"d{name}/{name}/page.html" for name in names)}
        end = time.monotonic() + 20
        while (stale := {key.replace("%23", "#") for key in await made.settled()}) != expected:
            assert time.monotonic() < end, stale ^ expected
