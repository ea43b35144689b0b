"""
A bucket of Amazon S3, of a store that speaks like it, or of Alibaba Cloud OSS: listed, and read from. Blocking.

boto3's core signs, finds keys and hosts, and tries again; what ListObjectsV2 answers is read by our own reader,
since its XML tree takes nine tenths of the time; it is imported when first needed, since that takes a while too.
obstore was measured and is not used: it takes ``folder/`` for ``folder`` without a word, so that another URL than the
object's would be refreshed, and ends at the first key that holds a tab or a line break.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from listener.alibaba import EnvironmentKeys
from listener.change import Change, ChangeKind
from listener.egress import connection_advice
from listener.errors import ConfigurationError, ListenerError, SourceUnavailable
from listener.extras import needing
from listener.sources.listing.listing import digest_of
from listener.sources.listing.pages import Fetch, Page, entries_in_order, read_page
from listener.sources.listing.settings import ListingSettings, Place

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


__all__ = ["Bucket", "BucketListing"]

PAGE_KEYS: Final = 1000
"""As many as S3 and OSS list at once."""
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
PAGE_SECONDS: Final = 120.0
"""For a whole page, however slowly it comes."""
LARGEST_PAGE_BYTES: Final = 16 * 1024 * 1024
"""A thousand keys of 1,024 bytes, each byte percent-encoded, with all their fields, have some 4 MB."""
TRIES: Final = 5
_EMPTY: Final = b"<ListBucketResult></ListBucketResult>"
_DENIED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "403", "Forbidden"})
_BAD_KEYS: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "RequestTimeTooSkewed"}
)


class BucketListing:
    """What a bucket holds below a prefix; empty objects whose keys end with ``/`` are folders, and no content."""

    complete = True

    def __init__(
        self,
        root: str,
        settings: ListingSettings,
        *,
        prefix: str = "",
        name: str = "",
        fetch: Fetch | None = None,
    ) -> None:
        """
        Keep what to list.

        Args:
            root: the source whose keys these are.
            settings: the bucket and how to reach it.
            prefix: only keys that start so; by default what the settings' url names.
            name: key of the settings, for messages.
            fetch: requests pages; by default the bucket's client does.
        """
        self.root = root
        self._place = settings.place
        self.prefix = prefix if prefix.startswith(self._place.key) else self._place.key
        self._nothing = not self._place.key.startswith(prefix) and not prefix.startswith(self._place.key)
        self._concurrency = settings.concurrency
        self._bucket = Bucket(name or f"sources.{root}", settings, self._place)
        self._fetch = fetch or self._bucket.page

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"{self._place.scheme}://{self._place.bucket}/{self.prefix}"

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return digest_of(["bucket", self.root, self._place.scheme, self._place.bucket, self.prefix])

    def close(self) -> None:
        """Release the connections to the bucket."""
        self._bucket.close()

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield a change for each object above ``after``, in byte order; raises as :meth:`Bucket.page` does."""
        if self._nothing:
            return
        for page in entries_in_order(self._fetch, prefix=self.prefix, after=after, concurrency=self._concurrency):
            for key, fingerprint in page:
                if fingerprint.size_bytes or not key.endswith("/"):
                    yield Change(self.root, key, ChangeKind.CONTENT, fingerprint)


class Bucket:
    """One bucket; its client is made with the first call, and may be used from many threads."""

    def __init__(self, name: str, settings: ListingSettings, place: Place) -> None:
        """Keep what to reach; ``name`` is the key of the settings (``sources.NAME``), for messages."""
        with needing("s3", what=f"{name}: a bucket"):
            if find_spec("botocore") is None:
                raise ImportError("botocore", name="botocore")
        self._name = name
        self._settings = settings
        self._place = place
        self._client: Any = None
        self._lock = threading.Lock()

    def page(self, prefix: str, after: str, *, folders: bool = False) -> Page:
        """
        Return the page of keys that start so and come after that one, as :class:`segments.Fetch` says.

        Raises :class:`~listener.errors.ConfigurationError` for a key, bucket or endpoint that cannot be right, and
        :class:`~listener.errors.SourceUnavailable` for anything else, after some tries.
        """
        wanted: dict[str, Any] = {"Prefix": prefix, "StartAfter": after} if after else {"Prefix": prefix}
        if folders:
            wanted["Delimiter"] = "/"
        with self._naming_errors(f"{self._place.url}: listing {prefix!r}"):
            answer = self._made().list_objects_v2(
                Bucket=self._place.bucket, MaxKeys=PAGE_KEYS, EncodingType="url", **wanted
            )
        return read_page(answer["Listing"])

    def parts(self, key: str, part_bytes: int = 1 << 20) -> Iterator[bytes]:
        """Yield an object's bytes in parts; raises as :meth:`page` does."""
        with self._naming_errors(f"{self._place.scheme}://{self._place.bucket}/{key}"):
            yield from self._made().get_object(Bucket=self._place.bucket, Key=key)["Body"].iter_chunks(part_bytes)

    def close(self) -> None:
        """Release the connections; safe to call twice, and a later call makes new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _made(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def _make(self) -> Any:
        from botocore import handlers  # noqa: PLC0415
        from botocore.session import Session  # noqa: PLC0415

        from listener.sources.bounded_boto import bound_answers  # noqa: PLC0415

        given = self._settings
        oss = self._place.scheme == "oss"
        keys = {} if given.anonymous or not oss else _alibaba_keys()
        client = Session().create_client(
            "s3", region_name=given.region, endpoint_url=self._endpoint(), config=self._config(), **keys
        )
        bound_answers(client, most_bytes=LARGEST_PAGE_BYTES, seconds=PAGE_SECONDS)
        events = client.meta.events
        # Its own look for errors behind status 200 builds the whole tree; ours does the same for listings.
        events.unregister("before-parse.s3.*", getattr(handlers, "_handle_200_error", None))
        events.register("before-parse.s3.ListObjectsV2", _keep_listing)
        return client

    def _endpoint(self) -> str | None:
        given = self._settings
        if given.endpoint_url or self._place.scheme != "oss":
            return given.endpoint_url
        if not given.region:
            raise ConfigurationError(
                f"{self._name}: an oss:// bucket needs its region", hint='set region = "oss-cn-hangzhou"'
            )
        return f"https://s3.oss-{given.region.removeprefix('oss-')}.aliyuncs.com"

    def _config(self) -> Any:
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        given = self._settings
        addressing = given.addressing
        if addressing == "auto" and self._place.scheme == "oss":
            addressing = "virtual"  # OSS takes nothing else
        elif addressing == "auto" and given.endpoint_url:
            addressing = "path"
        return Config(
            s3={"addressing_style": addressing},
            signature_version=UNSIGNED if given.anonymous else None,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "max_attempts": TRIES},
            max_pool_connections=given.concurrency + 1,
        )

    @contextmanager
    def _naming_errors(self, what: str) -> Iterator[None]:
        """Turn botocore's errors into ours: what was asked for, what came back, what to do."""
        from botocore import exceptions  # noqa: PLC0415

        try:
            yield
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
            raise ConfigurationError(
                f"{self._name}: there is no key for {self._place.scheme}://{self._place.bucket}",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role; "
                "anonymous = true for a public bucket",
            ) from None
        except exceptions.NoRegionError:
            raise ConfigurationError(f"{self._name}: no region is set", hint='set region = "…"') from None
        except exceptions.ClientError as error:
            raise self._refused(what, error) from None
        except exceptions.BotoCoreError as error:
            url = self._client.meta.endpoint_url if self._client else self._endpoint() or ""
            advice = connection_advice(error, url, setting="endpoint_url")
            cause = f"{advice.cause}: " if advice.cause else ""
            raise SourceUnavailable(f"{self._name}: {what}: {cause}{error}", hint=advice.hint) from None

    def _refused(self, what: str, error: ClientError) -> ListenerError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = f"{self._name}: {what}: {code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
        if code == "NoSuchBucket":
            return ConfigurationError(message, hint="correct the url, or the region")
        if code in _BAD_KEYS:
            return ConfigurationError(message, hint="correct the access key, or the clock of this machine")
        if code in _DENIED:
            return SourceUnavailable(message, hint="allow s3:ListBucket on the whole bucket (oss:ListObjects on OSS)")
        return SourceUnavailable(message)


def _keep_listing(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Put the answer aside for our reader; half an answer becomes an error, and is asked for again."""
    if response_dict["status_code"] != 200:
        return
    body = response_dict["body"]
    if not body.rstrip().endswith(b"</ListBucketResult>"):
        response_dict["status_code"] = 500
        return
    customized_response_dict["Listing"] = body
    response_dict["body"] = _EMPTY


def _alibaba_keys() -> dict[str, str]:
    """Return the key that the targets of the same vendor use; called in threads only."""
    key = asyncio.run(EnvironmentKeys(os.environ).read())
    found = {"aws_access_key_id": key.access_key_id, "aws_secret_access_key": key.access_key_secret}
    return found | ({"aws_session_token": key.security_token} if key.security_token else {})
