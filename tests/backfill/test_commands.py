"""The command over buckets and inventories: what it lists, repairs, shows and requests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from listener.allowances import Day, for_each_kind
from listener.backfill import BackfillPlan, Figures, WantedListing, Watch, read_popularity
from listener.backfill import job as job_module
from listener.cli.backfill_output import audit_lines, follow, picture
from listener.cli.common import print_json
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind
from listener.settings import load_settings
from listener.sources.listing import KeyList
from listener.sources.listing import bucket as bucket_module
from tests.sources.listing.buckets import FakeBucket, a_bucket, denied
from tests.sources.listing.test_inventory import csv_gz, inventory
from tests.stand import KEYS, Stand, until

pytestmark = pytest.mark.looptime(False)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bucket(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBucket]:
    """A bucket of ten objects, which a source of events names for its listing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ak")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk")
    monkeypatch.setattr(bucket_module, "TRIES", 1)
    with a_bucket(*(f"{number}.html" for number in range(10))) as bucket:
        source = '[sources.www]\ntype = "sqs"\nqueue_url = "http://127.0.0.1:9/1/q"\nregion = "us-east-1"\n'
        where = f'url = "s3://site"\nendpoint_url = "http://127.0.0.1:{bucket.port}"\nregion = "us-east-1"\n'
        text = stand.configure().read_text()
        head, rest = text[: text.index("[sources.www]")], text[text.index("[targets.cdn]") :]
        stand.put(f"{head}{source}[sources.www.listing]\n{where}{rest}")
        yield bucket


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "", "ALIBABA_CLOUD_ACCESS_KEY_SECRET not set"),
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "a-wrong-one", "SignatureDoesNotMatch"),
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId"),
    ],
)
def test_credentials_that_never_work_end_it_before_anything_is_listed(
    stand: Stand,
    bucket: FakeBucket,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    words: str,
) -> None:
    """Exit status 2 and one message; nothing is listed, recorded or logged. A dry run sends nothing, and needs none."""
    monkeypatch.setenv(variable, value)
    status, out, err = command("backfill", "--yes")
    assert (status, out, words in err) == (2, "", True), err
    assert bucket.asked == []
    assert len(err.splitlines()) <= 2, err
    assert command("backfill", "--dry-run")[0] == 0


def test_the_bucket_of_a_queue(stand: Stand, bucket: FakeBucket, command: Command) -> None:
    """A source of events is backfilled by the bucket that it names, narrowed as one likes."""
    words = ("--include", "[0-4].html", "--exclude", "3*", "--yes", "--wait", "--json")
    status, out, err = command("backfill", *words)
    assert (status, json.loads(out)["listed"]) == (0, 4), err
    assert sorted(stand.paths()) == [stand.url(f"{number}.html") for number in (0, 1, 2, 4)]
    reported = json.loads(command("backfill", "--prefix", "9", "--dry-run", "--json")[1])
    assert (reported["objects"], reported["what"]) == (1, "s3://site/9")
    assert json.loads(command("backfill", "--since", "1h", "--dry-run", "--json")[1])["objects"] == 0


def test_a_bucket_that_was_not_configured(stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that names none says what to add; --from s3://… lists one all the same."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ak")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    text = stand.configure().read_text()
    head, rest = text[: text.index("[sources.www]")], text[text.index("[targets.cdn]") :]
    stand.put(f'{head}[sources.www]\ntype = "sqs"\nqueue_url = "http://127.0.0.1:9/1/q"\nregion = "us-east-1"\n{rest}')
    status, _, err = command("backfill", "--dry-run")
    assert (status, "[sources.www.listing]" in err) == (2, True)
    with a_bucket("a.html") as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}")
        bucket.objects = {"d/a.html": b"x", "e/b.html": b"x"}
        reported = json.loads(command("backfill", "--from", "s3://site/d/", "--dry-run", "--json")[1])
        assert (reported["objects"], reported["what"]) == (1, "s3://site/d/")


def test_an_inventory(stand: Stand, command: Command, tmp_path: Path) -> None:
    """--from names its manifest; its keys are refreshed, one that differs from its checksum stops it."""
    rows = [f'"site","{name}","v","true","false","1","2026-01-02T03:04:05Z","AB"' for name in ("a.html", "b+c.html")]
    manifest = inventory(tmp_path / "inventory", csv_gz(*rows))
    assert command("backfill", "--from", str(manifest), "--yes", "--wait")[0] == 0
    assert sorted(stand.paths()) == [stand.url("a.html"), stand.url("b c.html")]
    (tmp_path / "inventory" / "data" / "0.bin").write_bytes(b"")
    status, _, err = command("backfill", "--from", str(manifest), "--yes", "--restart")
    assert (status, "MD5" in err) == (1, True)


def test_a_repair(stand: Stand, bucket: FakeBucket, command: Command) -> None:
    """What differs from the index is refreshed, nothing else, what is gone too; a second one finds nothing."""
    status, _, err = command("backfill", "--mode", "repair", "--yes")
    assert (status, "seed" in err) == (2, True)
    assert command("backfill", "--mode", "seed", "--yes")[0] == 0
    bucket.objects |= {"0.html": b"longer", "new.html": b"x"}
    del bucket.objects["1.html"]
    reported = json.loads(command("backfill", "--mode", "audit")[1])
    assert (reported["changed"], reported["unknown"], reported["gone"], reported["same"]) == (1, 1, 1, 8)
    assert json.loads(command("backfill", "--mode", "repair", "--dry-run", "--json")[1])["objects"] == 3
    assert command("backfill", "--mode", "repair", "--yes", "--wait")[0] == 0
    assert sorted(stand.paths()) == sorted(stand.url(name) for name in ("0.html", "1.html", "new.html"))
    assert command("backfill", "--mode", "repair", "--yes", "--wait")[0] == 0
    assert len(stand.paths()) == 3


def test_a_repair_of_a_bucket_that_is_empty(stand: Stand, bucket: FakeBucket, command: Command) -> None:
    """Nothing is taken for deleted, exit status 3, with the word that changes that; half a listing ends it."""
    assert command("backfill", "--mode", "seed", "--yes")[0] == 0
    whole, bucket.objects = bucket.objects, {}
    status, out, _ = command("backfill", "--mode", "repair", "--yes")
    assert (status, "--deletions" in out, stand.paths()) == (3, True, [])
    bucket.objects, bucket.page = whole, 4
    bucket.fault = lambda _prefix, after: denied() if after > "5" else None
    status, _, err = command("backfill", "--mode", "repair", "--yes", "--deletions")
    assert (status, "AccessDenied" in err, stand.paths()) == (1, True, [])
    bucket.fault, bucket.objects = (lambda _prefix, _after: None), {}
    assert command("backfill", "--mode", "repair", "--yes", "--deletions", "--wait")[0] == 0
    assert len(stand.paths()) == 10


def test_options_that_do_not_go_together(stand: Stand, command: Command) -> None:
    """Refused with the mode that they belong to."""
    for option in ("--edge", "--deletions"):
        status, _, err = command("backfill", option, "--yes")
        assert (status, option in err) == (2, True)


def test_progress_away_from_a_terminal(stand: Stand) -> None:
    """JSON lines on stderr with every figure, and nothing but the outcome on stdout."""
    stand.configure(target="limits = { batch_urls = 5 }")
    for number in range(40):
        stand.write(f"{number}.html")
    stand.order("slow:2,action=RefreshObjectCaches")
    process = stand.command("backfill", "--yes", "--json")
    until(lambda: len(stand.paths()) >= 4 or process.poll() is not None)
    stand.emulator.faults.clear()
    out, err = process.communicate(timeout=60)
    lines = [json.loads(line) for line in err.splitlines()]
    figures = [line for line in lines if line["event"] == "backfill.progress"]
    assert figures, err
    wanted = {"listed", "total", "planned", "waiting", "sent", "done", "per_second", "seconds_left", "quota_left"}
    assert wanted <= set(figures[0])
    assert json.loads(out)["finished"]


async def test_figures_of_a_moment() -> None:
    """Planned follows what is listed, done what is left; the rate is that of the last half minute."""

    class Store:
        pending, spent = 80, 0

        async def counts(self) -> Any:
            return type("Counts", (), {"pending": self.pending, "in_flight": 0, "failed": 0})

        async def budget(self, *_: object, **__: object) -> Any:
            return type("Budget", (), {"left": 500 - self.spent, "spent": self.spent, "held": 0})

    class Feed:
        listed = 50

    class Target:
        account = "main"
        allowances = for_each_kind(dict.fromkeys(RefreshKind, 500), Day())

    cost = job_module.Cost(objects=100, urls=200)
    store, feed = Store(), Feed()
    watch = Watch(feed, store, BackfillPlan(cost, None), {"cdn": Target()})  # type: ignore[arg-type]
    first = await watch.look(now=0.0)
    assert (first.planned, first.done, first.seconds_left, first.sent) == (100, 20, None, 0)
    store.pending, store.spent, feed.listed = 0, 60, 100
    later = await watch.look(now=10.0)
    assert (later.planned, later.done, later.sent, later.per_second) == (200, 200, 240, 18.0)
    assert (later.seconds_left, later.quota_left["file"]) == (0.0, 440)


def test_the_picture() -> None:
    """Every figure stands in it, in words that people use."""
    figures = Figures(
        listed=600_000, total=1_000_000, planned=598_000, waiting=590_000, sent=8_000, done=7_500, per_second=31.25,
        seconds_left=9_000.0, quota_left={"file": 1_000, "directory": 97},
    )  # fmt: skip
    console = Console(file=io.StringIO(), record=True, width=80)
    console.print(picture(figures))
    text = console.export_text()
    for word in ("600,000 of 1,000,000", "598,000", "8,000", "7,500 of", "file 1,000", "31.2", "2 h 30 min", "590,000"):
        assert word in text, word
    assert callable(follow)


def test_weights_and_logs(stand: Stand) -> None:
    """Weights add up, requests count, bases and prefixes are undone; a listing comes in their order, then the rest."""
    stand.configure(site='prefix = "public/"')
    sites = load_settings(stand.config, {}).sites
    weights = read_popularity(
        [b"3 public/b", b'"GET /a%20c?x HTTP/1.1" 304 0', b'"POST /b HTTP/1.1" 200 1', b"x"], sites
    )
    assert weights == {"public/b": 3, "public/a c": 1}
    listing = WantedListing(KeyList("www", [b"public/z", b"public/a c", b"public/b", b"public/d/"]), weights)
    order = [change.key for change in listing.changes()]
    assert order == ["public/b", "public/a c", "public/z"]
    for at, key in enumerate(order):
        assert [change.key for change in listing.changes(key)] == order[at + 1 :]
    other = WantedListing(
        KeyList("www", [b"public/z", b"public/a c", b"public/b", b"public/d/"]), read_popularity([], sites)
    )
    assert other.digest() != listing.digest()
    listing.close()
    other.close()
    with pytest.raises(ConfigurationError):
        read_popularity([b"nothing"], sites)


def test_a_request_counts_for_whatever_key_it_may_have_been_served_from(stand: Stand) -> None:
    """A folder's index document, and with clean URLs the page behind a name without its ending."""
    stand.configure(site='strip_suffixes = [".html"]')
    sites = load_settings(stand.config, {}).sites
    log = [b'"GET /about HTTP/1.1" 200 1', b'"GET /blog/ HTTP/1.1" 200 1']
    listed = [b"z.html", b"about.html", b"blog/index.html", b"about/index.html"]
    listing = WantedListing(KeyList("www", listed), read_popularity(log, sites))
    assert [change.key for change in listing.changes()][-1] == "z.html"
    listing.close()


def test_an_audit_for_people() -> None:
    """A terminal gets counts, examples and the command that mends it; where nothing differs, nothing to do."""
    same = {"same": 7, "changed": 0, "unknown": 0, "gone": 0, "examples": []}
    assert not any("repair" in line for line in audit_lines(same))
    edge = {"asked": 3, "listed": 9, "fresh": 2, "stale": 1, "unknown": 0, "examples": []}
    reported = list(audit_lines({**same, "changed": 1, "gone": 2, "examples": ["a.html", "\x1b[2Jü"], "edge": edge}))
    assert reported[0] == "listed 8; unchanged: 7"
    assert "  a.html" in reported
    assert "  \\x1b[2Jü" in reported, "a hostile key commands no terminal"
    assert any("--mode repair" in line for line in reported)
    assert reported[-1] == "fetched 3 of 9 from the edge: fresh 2, stale 1, unknown 0"


def test_json_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A control character that JSON allows as it is, like the one-character CSI, stands escaped; letters do not."""
    print_json({"key": "\x9b2J\x7f.html"})
    assert capsys.readouterr().out == '{\n  "key": "\\u009b2J\\u007f.html"\n}\n'
    print_json({"key": "ü/日本.html"})
    assert "ü/日本.html" in capsys.readouterr().out


def test_an_audit_on_a_terminal(stand: Stand, bucket: FakeBucket) -> None:
    """A person is not shown JSON, and --json always is."""
    bucket.objects |= {"new.html": b"x"}
    words = [sys.executable, "-m", "listener", "backfill", "--mode", "audit"]
    environment = {**os.environ, **KEYS, "LISTENER_CONFIG": str(stand.config), "TERM": "dumb", "COLUMNS": "120"}
    for more, expected in (([], "--mode repair"), (["--json"], '"unknown"')):
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            process = subprocess.Popen([*words, *more], cwd=stand.root, env=environment, stdout=theirs)
            os.close(theirs)
            shown = b""
            with contextlib.suppress(OSError):  # EIO is how a terminal ends
                while part := terminal.read(4096):
                    shown += part
            assert process.wait(60) == 0
        assert expected in shown.decode()
