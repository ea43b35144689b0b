"""Inventories of S3 and OSS: read whole or not at all, keys decoded as their format wants."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from listener.change import Fingerprint
from listener.errors import ConfigurationError, SourceUnavailable
from listener.sources.listing import InventoryListing, is_manifest
from listener.sources.listing.bucket import Bucket
from listener.sources.listing.inventory import read_manifest
from listener.sources.listing.settings import Place
from tests.sources.listing.buckets import a_bucket

S3_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
OSS_SCHEMA = "Bucket,Key,Size,StorageClass,LastModifiedDate,ETag,IsMultipartUploaded,EncryptionStatus"


def inventory(where: Path, *files: bytes, schema: str = S3_SCHEMA, kind: str = "CSV", **more: Any) -> Path:
    """Write an inventory as stores lay it out; return its manifest."""
    (where / "data").mkdir(parents=True, exist_ok=True)
    (where / "2026-11-22T01-00Z").mkdir(exist_ok=True)
    listed = []
    for number, raw in enumerate(files):
        (where / "data" / f"{number}.bin").write_bytes(raw)
        listed.append({"key": f"inv/site/all/data/{number}.bin", "MD5checksum": hashlib.md5(raw).hexdigest()})
    reported = {"sourceBucket": "site", "destinationBucket": "arn:aws:s3:::reports", "fileFormat": kind}
    reported |= {"fileSchema": schema, "files": listed} | more
    manifest = where / "2026-11-22T01-00Z" / "manifest.json"
    manifest.write_text(json.dumps(reported))
    return manifest


def csv_gz(*rows: str) -> bytes:
    """Return rows as a compressed file."""
    return gzip.compress("".join(row + "\n" for row in rows).encode())


def listing(manifest: Path, **more: Any) -> InventoryListing:
    """Return the listing of a manifest on disk."""
    OPENED.append(InventoryListing("www", Place("file", "", str(manifest)), **more))
    return OPENED[-1]


OPENED: list[InventoryListing] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """Close what a test opened."""
    yield
    while OPENED:
        OPENED.pop().close()


def test_an_inventory_of_s3_as_csv(tmp_path: Path) -> None:
    """Keys decoded once and sorted over all files; older versions, delete markers and folders left out."""
    manifest = inventory(
        tmp_path,
        csv_gz(
            '"site","b/%E6%97%A5+x%2By%2525.jpg","v","true","false","7","2026-01-02T03:04:05.000Z","AB"',
            '"site","old","v","false","false","7","2026-01-02T03:04:05.000Z","AB"',
            '"site","gone","v","true","true","","2026-01-02T03:04:05.000Z",""',
            '"site","folder/","v","true","false","0","2026-01-02T03:04:05.000Z","AB"',
        ),
        csv_gz('"site","a.html","v","true","false","1","2026-01-02T03:04:05.000Z","CD"'),
    )
    at = 1_767_323_045_000_000_000
    found = [(change.key, change.fingerprint) for change in listing(manifest).changes()]
    assert found == [("a.html", Fingerprint(1, at, etag="cd")), ("b/日 x+y%25.jpg", Fingerprint(7, at, etag="ab"))]
    assert [change.key for change in listing(manifest).changes("a.html")] == ["b/日 x+y%25.jpg"]
    assert [change.key for change in listing(manifest, prefix="a").changes()] == ["a.html"]


def test_an_inventory_of_oss(tmp_path: Path) -> None:
    """Other columns, another form of time, no compression needed."""
    row = b'"site","img%2Fa.jpg","3","Standard","2026-01-02T03-04-05Z","FBA9","false","false"\n'
    (change,) = listing(inventory(tmp_path, row, schema=OSS_SCHEMA)).changes()
    assert (change.key, change.fingerprint) == ("img/a.jpg", Fingerprint(3, etag="fba9"))


def test_an_inventory_as_parquet(tmp_path: Path) -> None:
    """Its keys are not encoded."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    table = pa.table(
        {"bucket": ["site"] * 2, "key": ["x%20y", "a"], "size": [5, 6], "last_modified_date": [moment] * 2,
         "e_tag": ["AB", None], "is_latest": [True, True], "is_delete_marker": [False, False]}
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "t")
    manifest = inventory(tmp_path, (tmp_path / "t").read_bytes(), kind="Parquet", schema="message s3.inventory {}")
    found = [(change.key, change.fingerprint) for change in listing(manifest).changes()]
    assert [key for key, _ in found] == ["a", "x%20y"]
    assert found[1][1] == Fingerprint(5, 1_767_323_045_000_000_000, etag="ab")


def test_an_inventory_that_is_not_whole(tmp_path: Path) -> None:
    """A checksum that differs, a file that ends too early, one that is missing: an error, never the half of it."""
    rows = csv_gz(*(f'"site","k{n}","v","true","false","1","2026-01-02T03:04:05Z","AB"' for n in range(5000)))
    manifest = inventory(tmp_path, rows)
    (tmp_path / "data" / "0.bin").write_bytes(rows[:-10])
    with pytest.raises(SourceUnavailable, match="MD5"):
        list(listing(manifest).changes())
    with pytest.raises(SourceUnavailable, match="too early"):
        list(listing(inventory(tmp_path / "b", rows[:-10])).changes())
    with pytest.raises(SourceUnavailable, match="damaged"):
        list(listing(inventory(tmp_path / "c", b"\x1f\x8b" + b"x" * 50)).changes())
    with pytest.raises(SourceUnavailable, match="cells"):
        list(listing(inventory(tmp_path / "d", b'"site","k"\n')).changes())
    (tmp_path / "data" / "0.bin").unlink()
    with pytest.raises(ConfigurationError, match="not there"):
        list(listing(manifest).changes())


def test_an_inventory_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without line breaks, one longer than stated and a nested manifest cost bounded memory and disk."""
    with pytest.raises(SourceUnavailable, match="line of 65536"):
        list(listing(inventory(tmp_path, gzip.compress(b"a" * 200_000))).changes())
    monkeypatch.setattr("listener.sources.listing.inventory._PART_BYTES", 1024)
    row = '"site","a","v","true","false","7","2026-01-02T03:04:05.000Z","AB"\n'
    raw = row.encode() * 1000
    for size, is_whole in ((len(raw), True), (2000, False)):
        files = [{"key": "inv/site/all/data/0.bin", "MD5checksum": hashlib.md5(raw).hexdigest(), "size": size}]
        found = listing(inventory(tmp_path, raw, files=files)).changes()
        if is_whole:
            assert [change.key for change in found] == ["a"]
            continue
        with pytest.raises(SourceUnavailable, match="longer than the manifest states"):
            list(found)
    for text in (b"[" * 90_000, b"[" * 200_000):
        with pytest.raises(ConfigurationError, match="no manifest"):
            read_manifest(text, what="x")


def test_manifests_that_are_none(tmp_path: Path) -> None:
    """Reported with what to name instead; one of another bucket is refused."""
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="no manifest"):
        list(listing(tmp_path / "manifest.json").changes())
    with pytest.raises(ConfigurationError, match="orc"):
        list(listing(inventory(tmp_path, kind="ORC")).changes())
    with pytest.raises(ConfigurationError, match="no Key"):
        list(listing(inventory(tmp_path, schema="Bucket, Size")).changes())
    with pytest.raises(ConfigurationError, match="'other'"):
        list(listing(inventory(tmp_path), listed="other").changes())
    assert is_manifest("s3://b/x/manifest.json")
    assert not is_manifest("keys.txt")


@pytest.mark.looptime(False)
def test_an_inventory_in_its_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest and files are read where the store put them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ak")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk")
    raw = csv_gz('"site","a.html","v","true","false","1","2026-01-02T03:04:05.000Z","CD"')
    manifest = inventory(tmp_path, raw)
    with a_bucket() as bucket:
        bucket.objects = {"inv/manifest.json": manifest.read_bytes(), "inv/site/all/data/0.bin": raw}
        place = Place("s3", "site", "inv/manifest.json")
        client = Bucket("--from", bucket.settings(), Place("s3", "site", ""))
        with closing(InventoryListing("www", place, bucket=client, listed="site")) as found:
            assert [change.key for change in found.changes()] == ["a.html"]
