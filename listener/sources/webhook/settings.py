"""What can be set for a source of type ``webhook``; token and secret come from the environment, like every secret."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    field_serializer,
    model_validator,
)

from listener.redaction import MASK
from listener.settings import FilePath, Listed, host_and_port
from listener.sources.events import EventSettings

__all__ = ["WebhookSettings"]

_TOPIC: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
MOST_PLAIN_PATH_CHARACTERS: Final = 16
"""A longer path may hold 64 random bits."""
_HOST: Final = re.compile(r"[a-z0-9.-]+(:\d{1,5})?")

AUTHENTICATION: Final = (
    "token", "secret", "sns_topics", "eventbridge_accounts", "opaque_data", "credential_header",
    "signature_header", "timestamp_header", "certificate_hosts",
)  # fmt: skip
"""Settings by which requests are authenticated."""


def _address(listen: str) -> str:
    host_and_port(listen)
    return listen


def _path(path: str) -> str:
    if not path.startswith("/") or not path.isascii() or any(c in path for c in " ?#%\\") or not path.isprintable():
        raise ValueError("must start with / and hold neither blanks nor ? # % \\")
    return path


def _url(url: str) -> str:
    if url and not re.fullmatch(r"https?://[!-~]+", url):
        raise ValueError("must be a URL that starts with https:// or http://")
    return url


def _matching(pattern: re.Pattern[str], form: str) -> AfterValidator:
    def check(value: str) -> str:
        if value and not pattern.fullmatch(value):
            raise ValueError(f"must be {form}")
        return value

    return AfterValidator(check)


Header = Annotated[str, _matching(_HEADER, "the name of a header")]
Secret = Annotated[SecretStr, Field(min_length=1)]


class WebhookSettings(EventSettings):
    """``[sources.NAME]`` with ``type = "webhook"``: events that stores and clouds send by HTTP."""

    type: Literal["webhook"] = "webhook"
    """Selects this source."""

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:9181"
    """``host:port`` to listen on; several sources may share one, each with a path of its own. A socket that systemd
    holds for this address is taken over, so that nobody is refused during a restart."""

    path: Annotated[str, AfterValidator(_path), Field(repr=False)] = "/"
    """The path of this source's URL. Where a sender can prove nothing (Alibaba Cloud MNS), make it a secret:
    a path that is the only proof, or longer than 16 characters, is shown as ``/***``."""

    token: Secret | None = None
    """What senders must give as ``Authorization: Bearer …``, alone, or as the password of HTTP's Basic scheme. Set it
    by LISTENER_SOURCES__NAME__TOKEN, by …_TOKEN_FILE, or as systemd credential ``sources.NAME.token``."""

    credential_header: Annotated[Header, Field(min_length=1)] = "Authorization"
    """Another header that holds the token, alone: ``X-Api-Key`` of an API destination of Amazon EventBridge."""

    opaque_data: bool = False
    """Look for the token in each record's opaqueData instead, which is all that Ceph's topics can send."""

    secret: Secret | None = None
    """Key of an HMAC-SHA256 over the body, instead of a token; set like it."""

    signature_header: Annotated[Header, Field(min_length=1)] = "X-Hub-Signature-256"
    """The header with that HMAC, in hexadecimal digits or Base64, with or without ``sha256=`` before it."""

    timestamp_header: Header = ""
    """The header with the time of sending, in seconds since the epoch, where the sender gives one: it is signed too,
    as ``<time>.<body>``, and requests older than ``replay_seconds`` are rejected. Without it, a recorded request stays
    valid for ever."""

    replay_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How far a signed time may be from ours, and how long a signed body is remembered: the same one again within this
    time is answered and not recorded, if its records say when they happened."""

    anonymous: bool = False
    """Accept requests without any credential: any client that can reach the port is trusted. Cannot be combined with
    a setting of authentication."""

    sns_topics: Annotated[tuple[Annotated[str, _matching(_TOPIC, "the ARN of an SNS topic")], ...], Listed] = ()
    """Topics of Amazon SNS that may send here, by ARN: their signatures are verified and their subscriptions
    confirmed. Others are refused."""

    sns_replay_seconds: Annotated[float, Field(gt=0, le=2_592_000)] = 3600.0
    """How old a message of SNS may be: it keeps its first time while SNS tries again, by default within an hour."""

    eventbridge_accounts: Annotated[tuple[Annotated[str, Field(pattern=r"^\d{1,32}$")], ...], Listed] = ()
    """Accounts of Alibaba Cloud whose EventBridge may send here, by id. Needs ``token``, which the HTTP target in
    EventBridge must have too, and ``public_url``: without both every event is rejected."""

    public_url: Annotated[str, AfterValidator(_url), Field(repr=False)] = ""
    """The URL that senders were given, exactly: Alibaba Cloud EventBridge signs it, and ``check --print-setup`` prints
    it."""

    certificate_hosts: Annotated[tuple[Annotated[str, _matching(_HOST, "host or host:port")], ...], Listed] = ()
    """Further hosts than the vendors' own from which signing certificates may be fetched, by https."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """The largest body. Notifications have at most a few hundred thousand bytes; beyond: 413."""

    request_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long a client may take to send its request, and as long again for the body; beyond: 408."""

    commit_seconds: Annotated[float, Field(gt=0, le=600)] = 4.0
    """How long a request waits for its commit; beyond: 503. Less than the 5 seconds after which EventBridge and MNS
    give up, since they would not see the answer."""

    max_connections: Annotated[int, Field(ge=16, le=100_000)] = 1000
    """Connections at once. When all are taken, whoever has sent nothing for longest makes room."""

    tls_certificate: FilePath | None = None
    """PEM file with the certificate and its chain: https instead of http. It is read at each start and reload."""

    tls_key: FilePath | None = None
    """PEM file with the certificate's private key."""

    @model_validator(mode="before")
    @classmethod
    def _explain_removed(cls, table: Any) -> Any:
        if isinstance(table, dict) and "mns_topics" in table:
            raise ValueError(
                "mns_topics was removed, because the key with which MNS signs can be broken: let a queue subscribe"
                ' to the topic and read it with type = "mns"; or set anonymous = true and a secret path'
            )
        return table

    @model_validator(mode="after")
    def _one_way_to_sign(self) -> Self:
        if self.token is not None and self.secret is not None:
            raise ValueError("set token or secret, not both")
        proofs = [name for name in AUTHENTICATION if name in self.model_fields_set and getattr(self, name)]
        if self.anonymous and proofs:
            raise ValueError(f"anonymous = true would let every client past {proofs[0]}: remove one of them")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    @property
    def shown_path(self) -> str:
        """The path as people may see it: masked where it may be a secret."""
        is_secret = self.anonymous or len(self.path) > MOST_PLAIN_PATH_CHARACTERS
        return f"/{MASK}" if is_secret and self.path != "/" else self.path

    @field_serializer("path", when_used="json")
    def _show_path(self, _: str) -> str:
        return self.shown_path

    @field_serializer("public_url", when_used="json")
    def _show_public_url(self, url: str) -> str:
        if not url or self.shown_path == self.path:
            return url
        host = re.match(r"https?://[^/]+", url)
        return f"{host[0] if host else ''}/{MASK}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.listen)

    @property
    def is_authenticated(self) -> bool:
        """Whether there is any way to authenticate a request, or none is asked for."""
        return bool(self.token or self.secret or self.sns_topics or self.eventbridge_accounts or self.anonymous)
