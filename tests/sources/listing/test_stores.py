"""Buckets as they are: a real S3 server, and one whose faults can be ordered, through the real client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from listener.change import key_to_bytes
from listener.errors import ConfigurationError, SourceUnavailable
from listener.sources.listing import BucketListing, ListingSettings
from listener.sources.listing import bucket as bucket_module
from tests.sources.listing.buckets import GOLDEN, FakeBucket, a_bucket, denied, in_order
from tests.sources.seaweedfs import BUCKET, SeaweedFS, seaweedfs

pytestmark = pytest.mark.looptime(False)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ak")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(bucket_module, "TRIES", 2)


@pytest.fixture
def bucket() -> Iterator[FakeBucket]:
    """A bucket of 300 objects in seven folders."""
    with a_bucket(*(f"d{number % 7}/{number:04}" for number in range(300))) as bucket:
        bucket.page = 20
        yield bucket


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server."""
    with seaweedfs(tmp_path_factory.mktemp("weed") / "home", endpoint="http://127.0.0.1:9", token="t") as store:
        yield store


def keys(settings: ListingSettings, *, prefix: str = "", after: str = "") -> list[str]:
    """Return the keys that are listed."""
    return [change.key for change in BucketListing("www", settings, prefix=prefix).changes(after)]


def test_a_real_store_with_every_golden_key(store: SeaweedFS) -> None:
    """Each key comes out as it was put, folders as consoles make them do not; from any key on; below a prefix."""
    put = []
    for key in GOLDEN:
        try:
            store.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
        except Exception as error:  # noqa: BLE001 - a store may refuse a key, and says so
            assert "Invalid" in str(error), key
        else:
            put.append(key)
    store.s3.put_object(Bucket=BUCKET, Key="folder/", Body=b"")
    store.s3.put_object(Bucket=BUCKET, Key="folder/a", Body=b"12345")
    settings = ListingSettings(url=f"s3://{BUCKET}", endpoint_url=store.s3.meta.endpoint_url, region="us-east-1")
    answer = store.s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    held = in_order(one["Key"] for one in answer if one["Key"] != "folder/")
    assert len(set(put) & set(held)) >= len(GOLDEN) - 5, "the store itself changes some"
    for concurrency in (1, 4):
        assert keys(settings.model_copy(update={"concurrency": concurrency})) == held
    assert keys(settings, after=held[3]) == held[4:]
    assert keys(settings, prefix="folder/") == ["folder/a"]
    (change,) = BucketListing("www", settings, prefix="folder/").changes()
    reported = next(one for one in answer if one["Key"] == "folder/a")
    assert change.fingerprint is not None
    assert change.fingerprint[:2] == (5, int(reported["LastModified"].timestamp()) * 1_000_000_000)
    assert change.fingerprint.etag == reported["ETag"].strip('"')


def test_an_empty_bucket_and_one_that_is_not_there(store: SeaweedFS) -> None:
    """Nothing is listed of the one; the other is an error, and never an empty listing."""
    store.s3.create_bucket(Bucket="empty")
    url = store.s3.meta.endpoint_url
    assert keys(ListingSettings(url="s3://empty", endpoint_url=url, region="us-east-1")) == []
    with pytest.raises(ConfigurationError, match="NoSuchBucket"):
        keys(ListingSettings(url="s3://nothing-here", endpoint_url=url, region="us-east-1"))


def test_a_wrong_key(store: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that names the setting; the secret is in no message."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    url = store.s3.meta.endpoint_url
    with pytest.raises(ConfigurationError, match=r"sources\.www.*SignatureDoesNotMatch") as caught:
        keys(ListingSettings(url=f"s3://{BUCKET}", endpoint_url=url, region="us-east-1"))
    assert "wrong-secret" not in str(caught.value) + caught.value.hint


def test_no_key_at_all(bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that says what to set; a public bucket is listed without one."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="no key"):
        keys(bucket.settings())
    assert len(keys(bucket.settings(anonymous=True))) == 300


def test_a_prefix_that_is_denied(bucket: FakeBucket) -> None:
    """What comes before it is listed, then it ends, with what to allow; nothing behind it is taken for missing."""
    bucket.fault = lambda _prefix, after: denied() if "d3/" <= after < "d4/" else None
    found = []
    with pytest.raises(SourceUnavailable, match="AccessDenied") as caught:
        for change in BucketListing("www", bucket.settings(concurrency=4)).changes():
            found.append(change.key)
    assert "s3:ListBucket" in caught.value.hint
    assert found == in_order(bucket.objects)[: len(found)]
    assert found[-1] < "d4/"


def test_a_server_that_fails_now_and_then(bucket: FakeBucket) -> None:
    """Errors that pass, half an answer among them, are tried again: the listing is whole."""
    seen: set[str] = set()

    def once(_prefix: str, after: str) -> tuple[int, bytes] | None:
        if after in seen:
            return None
        seen.add(after)
        return (503, b"<Error><Code>SlowDown</Code></Error>") if len(seen) % 2 else (200, b"<ListBucketResult><Con")

    bucket.fault = once
    bucket.page = 150
    assert keys(bucket.settings(concurrency=1)) == in_order(bucket.objects)


def test_a_server_that_is_gone(bucket: FakeBucket) -> None:
    """An error that names the endpoint."""
    settings = bucket.settings().model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:9"):
        keys(settings)


def test_a_page_without_end(bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of an answer is read than a page can have, of an error neither."""
    monkeypatch.setattr(bucket_module, "TRIES", 1)
    for status, start in ((200, b"<ListBucketResult>"), (403, b"<Error><Code>")):
        bucket.fault = lambda _prefix, _after, status=status, start=start: (
            status,
            start + b" " * bucket_module.LARGEST_PAGE_BYTES,
        )
        with pytest.raises(SourceUnavailable, match=r"more than \d+ bytes"):
            keys(bucket.settings(concurrency=1))


def test_golden_keys_and_bytes_that_are_no_text(bucket: FakeBucket) -> None:
    """As the store holds them, also where it does not encode what it lists."""
    wanted = [*GOLDEN, "no-utf8-\udcff\udcfe"]
    bucket.objects = dict.fromkeys(wanted, b"x")
    assert keys(bucket.settings(concurrency=1)) == sorted(wanted, key=key_to_bytes)
    bucket.encodes = False
    bucket.objects = dict.fromkeys(["50%25", "a+b", "a&b"], b"x")
    assert keys(bucket.settings(concurrency=4)) == ["50%25", "a&b", "a+b"]


def test_what_the_url_names_is_all_that_is_listed(bucket: FakeBucket) -> None:
    """A part of the bucket; a prefix within it narrows further, one next to it leaves nothing."""
    part = bucket.settings(url="s3://site/d1/")
    assert {key[:3] for key in keys(part)} == {"d1/"}
    assert keys(part, prefix="d1/00") == [key for key in keys(part) if key.startswith("d1/00")]
    assert keys(part, prefix="d2/") == []
    assert len(keys(part, prefix="d")) == len(keys(part))


def test_oss_by_its_own_keys(monkeypatch: pytest.MonkeyPatch, bucket: FakeBucket) -> None:
    """An oss:// bucket is listed with the vendor's key; without a region or an endpoint it says what is missing."""
    with pytest.raises(ConfigurationError, match="ALIBABA_CLOUD_ACCESS_KEY_ID"):
        keys(ListingSettings(url="oss://site", region="oss-cn-hangzhou"))
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "secret")
    with pytest.raises(ConfigurationError, match="region"):
        keys(ListingSettings(url="oss://site"))
    settings = bucket.settings(url="oss://site", addressing="path")
    assert len(keys(settings)) == 300


@pytest.mark.parametrize("url", ["site", "ftp://site", "s3://", "s3:///x", "relative/path"])
def test_urls_that_are_none(url: str) -> None:
    """Refused where they stand."""
    with pytest.raises(ValueError, match="s3://bucket"):
        ListingSettings(url=url)
