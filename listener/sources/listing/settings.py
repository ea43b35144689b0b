"""Options of a listing: which bucket or tree, how to reach it, how often to compare it with the index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from listener.settings import expanded

__all__ = ["ListingSettings", "Place", "is_bucket", "parse_place"]

_SCHEMES = ("s3", "oss")


class Place(NamedTuple):
    """A URL in its parts."""

    scheme: str
    """``s3``, ``oss`` or ``file``."""
    bucket: str
    """Empty for files."""
    key: str
    """The rest: a prefix or a key in the bucket, a path of the file system."""

    @property
    def url(self) -> str:
        """Return it as it is written."""
        return self.key if self.scheme == "file" else f"{self.scheme}://{self.bucket}/{self.key}"


def is_bucket(text: str) -> bool:
    """Return whether a text names something in an object store, rather than a path."""
    return text.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def parse_place(text: str) -> Place:
    """Return the parts of a URL or path. Raise ``ValueError`` for anything else."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "file", text
    if scheme == "file":
        rest = str(expanded(Path(rest)))
        if not Path(rest).is_absolute():
            raise ValueError("must be s3://bucket, oss://bucket or an absolute path")
        return Place("file", "", rest)
    bucket, _, key = rest.partition("/")
    if scheme not in _SCHEMES or not bucket or any(char in bucket for char in "?#@:"):
        raise ValueError("must be s3://bucket, oss://bucket or an absolute path")
    return Place(scheme, bucket, key)


class ListingSettings(BaseModel):
    """
    ``[sources.NAME]`` with ``type = "listing"``: a bucket or a tree that tells nothing by itself, listed now and then.

    The same keys stand in ``[sources.NAME.listing]`` of a source of another type (``sqs``, ``mns``, ``webhook``):
    there they name the bucket that its events come from, so that a backfill can list it, and so that what no event
    reported is found. Keys and secrets come from AWS's own chain (``AWS_ACCESS_KEY_ID``, profiles, roles), for ``oss://``
    from ``ALIBABA_CLOUD_ACCESS_KEY_ID`` and ``ALIBABA_CLOUD_ACCESS_KEY_SECRET`` or the files that ``…_FILE`` names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["listing"] = "listing"
    """Selects this source."""

    url: str
    """What is listed: ``s3://bucket``, ``oss://bucket``, or the path of a directory; ``s3://bucket/part/`` lists
    only that part. Keys are those of the whole bucket all the same."""

    endpoint_url: str | None = None
    """Where a store other than Amazon's answers, as in ``https://minio.example.com:9000``; for ``oss://`` by default
    the S3-compatible endpoint of the region."""

    region: str | None = None
    """The store's region, as in ``eu-central-1`` or ``oss-cn-hangzhou``; by default what AWS's chain says."""

    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket stands in the path or in the host's name. ``auto``: in the path where ``endpoint_url`` is
    given, since few such stores have a name for each bucket."""

    anonymous: bool = False
    """List without a key, where the bucket is public."""

    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """How many requests list at once; each holds a page or two. One gives some 3,000 to 10,000 keys a second."""

    interval_seconds: Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)] = 86400.0
    """How often everything is listed and compared with the index; 0: at the start only. A day: a listing of ten
    million objects takes 10,000 requests."""

    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """By which share the interval varies, so that many listeners do not list one store at once."""

    max_delete_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """When more than this share of the known objects is missing at once, nothing is taken for deleted, and it is
    reported: a wrong bucket, an emptied one and a store that answers with half look alike."""

    min_delete_count: Annotated[int, Field(ge=0)] = 100
    """So many objects may be missing at once whatever their share, unless nothing at all is left."""

    @field_validator("url")
    @classmethod
    def _is_a_place(cls, url: str) -> str:
        parse_place(url)
        return url

    @field_validator("endpoint_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return url

    @property
    def place(self) -> Place:
        """Return the url in its parts."""
        return parse_place(self.url)

    def at(self, place: Place) -> ListingSettings:
        """Return the same settings for another place of the same store."""
        changed: dict[str, Any] = {"url": place.url}
        return self.model_copy(update=changed)
