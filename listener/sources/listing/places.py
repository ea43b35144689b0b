"""Where something stands: a part of a bucket or of a tree, as a URL or a path names it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from listener.settings import expanded

__all__ = ["Place", "is_bucket", "parse_place"]

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
