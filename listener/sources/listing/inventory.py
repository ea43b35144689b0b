"""
Inventories: what a bucket held, as the store itself wrote it down (Amazon S3 Inventory, OSS inventory).

A manifest names the columns and the files, each with its MD5. Files are read as they come, CSV (gzip) or Parquet,
and their keys are sorted on disk, since no inventory promises an order. In CSV keys are percent-encoded; in
Parquet they are as they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from urllib.parse import unquote_plus

from listener.change import Change, ChangeKind, Fingerprint
from listener.errors import ConfigurationError, SourceUnavailable
from listener.sources.listing.bucket import Bucket
from listener.sources.listing.listing import digest_of
from listener.sources.listing.pages import Entry, etag_of, time_ns
from listener.sources.listing.settings import Place
from listener.sources.listing.spool import Spool
from listener.text import MAX_OBJECTS, is_too_large, whole_number

__all__ = ["InventoryListing", "Manifest", "is_manifest", "read_manifest"]

MOST_MANIFEST_BYTES: Final = 64 * 1024 * 1024
MOST_LINE_CHARACTERS: Final = 64 * 1024
"""A key of 1,024 bytes, each percent-encoded, and fifteen more fields have some 5,000."""
_PART_BYTES: Final = 1 << 20
_ZIPPED_PART_BYTES: Final = 16 * 1024
"""What is left of a part is copied at the end of each gzip member, and a member may have 20 bytes."""
_COLUMNS: Final = {
    "key": "key",
    "size": "size",
    "lastmodifieddate": "modified",
    "lastmodified": "modified",
    "etag": "etag",
    "islatest": "latest",
    "isdeletemarker": "marker",
}


class DataFile(NamedTuple):
    """One file of an inventory."""

    key: str
    md5: str
    """Hexadecimal; empty where the manifest has none."""
    size_bytes: int | None = None
    """None where the manifest has none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says."""

    bucket: str
    """The bucket that was listed."""
    destination: str
    """The bucket that holds the files."""
    kind: str
    """``csv`` or ``parquet``."""
    columns: tuple[str, ...]
    files: tuple[DataFile, ...]


def is_manifest(name: str) -> bool:
    """Return whether a path or URL names a manifest, rather than a list of keys."""
    return name.rpartition("/")[2].lower() == "manifest.json"


def read_manifest(raw: bytes, *, what: str) -> Manifest:
    """Return what a manifest says. Raise :class:`~listener.errors.ConfigurationError` for anything else."""
    try:
        if is_too_large(raw):
            raise ValueError(f"more than {MAX_OBJECTS} objects and lists")  # noqa: TRY301 - reported like other errors
        manifest = json.loads(raw)
        kind = str(manifest["fileFormat"]).lower()
        files = tuple(_data_file(one) for one in manifest["files"])
        columns = tuple(map(_column, str(manifest.get("fileSchema", "")).split(",")))
        bucket, destination = str(manifest["sourceBucket"]), str(manifest["destinationBucket"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"{what}: no manifest of an inventory ({type(error).__name__}: {error})", hint="name its manifest.json"
        ) from None
    if kind not in ("csv", "parquet"):
        raise ConfigurationError(f"{what}: an inventory as {kind} is not read", hint="order it as CSV or Parquet")
    if kind == "csv" and "key" not in columns:
        raise ConfigurationError(f"{what}: its fileSchema names no Key", hint="name its manifest.json")
    return Manifest(bucket, destination, kind, columns, files)


def _data_file(entry: Mapping[str, Any]) -> DataFile:
    size = whole_number(str(entry.get("size", "")))
    return DataFile(str(entry["key"]), str(entry.get("MD5checksum", "")).lower(), size)


def _column(word: str) -> str:
    return _COLUMNS.get(word.strip().replace("_", "").lower(), "")


class InventoryListing:
    """What an inventory names; read once, at the first look."""

    complete = False  # what was written since it was made is not in it

    def __init__(
        self, root: str, place: Place, *, prefix: str = "", bucket: Bucket | None = None, listed: str | None = None
    ) -> None:
        """
        Keep where the manifest is.

        Args:
            root: the source whose keys these are.
            place: of the manifest.
            prefix: only keys that start so.
            bucket: reads files where the manifest is in a bucket.
            listed: the bucket that it must be of; None where that is not known.
        """
        self.root = root
        self.prefix = prefix
        self._place = place
        self._bucket = bucket
        self._listed = listed
        self._spool: Spool | None = None

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"inventory {self._place.url}"

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return digest_of(["inventory", self.root, self._place.url, self.prefix])

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield a change for each object above ``after``, in byte order; the first time everything is read before."""
        if self._spool is None:
            self._spool = self._read()
        for key, fingerprint in self._spool.entries(after):
            yield Change(self.root, key, ChangeKind.CONTENT, fingerprint)

    def close(self) -> None:
        """Release the table of keys, and the connections to the bucket."""
        if self._spool is not None:
            self._spool.close()
        if self._bucket is not None:
            self._bucket.close()

    # -- reading -------------------------------------------------------------------------------------

    def _read(self) -> Spool:
        raw = b"".join(self._parts(self._place.key, MOST_MANIFEST_BYTES))
        manifest = read_manifest(raw, what=self._place.url)
        if self._listed is not None and manifest.bucket != self._listed:
            raise ConfigurationError(
                f"{self._place.url} lists bucket {manifest.bucket!r}, and source {self.root} is {self._listed!r}",
                hint="name the source that it belongs to",
            )
        spool = Spool()
        try:
            for one in manifest.files:
                with tempfile.TemporaryFile() as file:
                    self._fetch(one, file)
                    rows = _csv_rows(file, manifest.columns) if manifest.kind == "csv" else _parquet_rows(file)
                    spool.add(entry for row in rows if (entry := _entry(row)) and entry.key.startswith(self.prefix))
        except BaseException:
            spool.close()
            raise
        return spool

    def _fetch(self, one: DataFile, file: IO[bytes]) -> None:
        """Copy a file of the inventory; what differs from its checksum was only half written, or changed."""
        found = hashlib.md5(usedforsecurity=False)
        for part in self._parts(self._key_of(one.key), None):
            found.update(part)
            file.write(part)
            if one.size_bytes is not None and file.tell() > one.size_bytes:
                raise SourceUnavailable(f"{one.key}: is longer than the manifest states", hint="fetch the file again")
        if one.md5 and found.hexdigest() != one.md5:
            raise SourceUnavailable(f"{one.key}: its MD5 is not that of the manifest", hint="fetch the file again")
        file.seek(0)

    def _key_of(self, key: str) -> str:
        """Return where a data file is: next to the manifest in its bucket, or somewhere near a copy on disk."""
        if self._place.scheme != "file":
            return key
        here = Path(self._place.key).parent
        name = key.rpartition("/")[2]
        places = [here / key, here / "data" / name, here.parent / "data" / name, here / name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ConfigurationError(f"{self._place.key}: its file {name} is not there", hint=f"put it into {here}")
        return str(found)

    def _parts(self, key: str, most_bytes: int | None) -> Iterator[bytes]:
        size = 0
        for part in _file_parts(key) if self._bucket is None else self._bucket.parts(key):
            size += len(part)
            if most_bytes is not None and size > most_bytes:
                raise ConfigurationError(f"{key} is too large for a manifest", hint="name its manifest.json")
            yield part


def _file_parts(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path like any other
            while part := file.read(_PART_BYTES):
                yield part
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


Row = Mapping[str, Any]


def _csv_rows(file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    names = [(at, name) for at, name in enumerate(columns) if name]
    text = io.TextIOWrapper(_plain(file), "utf-8", newline="")
    try:
        for cells in csv.reader(_lines(text)):
            if len(cells) <= names[-1][0]:
                raise SourceUnavailable(f"an inventory's row has {len(cells)} cells", hint="the file is damaged")
            row: dict[str, Any] = {name: cells[at] for at, name in names}
            row["key"] = unquote_plus(row["key"], errors="surrogateescape")
            yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceUnavailable(f"a file of the inventory is damaged: {error}", hint="fetch it again") from None
    finally:
        text.detach()  # the file is its opener's to close


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yield lines of a bounded length: a few kilobytes of gzip may be gigabytes without a line break."""
    while line := text.readline(MOST_LINE_CHARACTERS):
        if len(line) == MOST_LINE_CHARACTERS:
            raise SourceUnavailable(
                f"a file of the inventory has a line of {MOST_LINE_CHARACTERS} characters or more",
                hint="the file is damaged",
            )
        yield line


class _Unzipped(io.RawIOBase):
    """The bytes of a gzip file; of one that ends too early an error, and not its half."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(31)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            raw = self._inflate.unconsumed_tail or self._inflate.unused_data or self._file.read(_ZIPPED_PART_BYTES)
            if self._inflate.eof:
                if not raw:
                    return 0
                self._inflate = zlib.decompressobj(31)
            elif not raw:
                raise SourceUnavailable("a file of the inventory ends too early", hint="fetch it again")
            try:
                self._left = self._inflate.decompress(raw, _PART_BYTES)
            except zlib.error as error:
                raise SourceUnavailable(f"a file of the inventory is damaged: {error}") from None
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _plain(file: IO[bytes]) -> IO[bytes]:
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return io.BufferedReader(_Unzipped(file)) if zipped else file


def _parquet_rows(file: IO[bytes]) -> Iterator[Row]:
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra, heavy, and only for this
    except ImportError:
        raise ConfigurationError(
            "an inventory as Parquet needs the package pyarrow", hint="pip install 'cdn-listener[listing]'"
        ) from None
    try:
        table = ParquetFile(file)
        names = {name: _column(name) for name in table.schema_arrow.names if _column(name)}
        for batch in table.iter_batches(batch_size=10_000, columns=list(names)):
            for row in batch.to_pylist():
                yield {names[name]: value for name, value in row.items()}
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise SourceUnavailable(f"a file of the inventory is damaged: {error}") from None


def _entry(row: Row) -> Entry | None:
    """Return the object of a row; None for what is no content: older versions, delete markers, folders."""
    key = row.get("key")
    if not key or _is(row.get("marker"), "true") or _is(row.get("latest"), "false"):
        return None
    size = row.get("size")
    if str(key).endswith("/") and str(size) in ("0", "None", ""):
        return None
    modified = row.get("modified")
    at = modified.isoformat() if isinstance(modified, datetime) else str(modified or "")
    return Entry(str(key), Fingerprint(whole_number(str(size)), time_ns(at), etag=etag_of(str(row.get("etag") or ""))))


def _is(value: object, word: str) -> bool:
    return str(value).lower() == word
