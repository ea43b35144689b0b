"""
Access to an Alibaba Cloud service: settings, and the key that calls are signed with.

The key never stands in a configuration. ``…_ACCESS_KEY_ID``, ``…_ACCESS_KEY_SECRET`` and ``…_SECURITY_TOKEN``
(temporary keys only) are read as :mod:`listener.credentials` says. Or, by setting, in Alibaba's own chain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, Protocol

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from listener.alibaba.replies import scrub
from listener.alibaba.signature import Credentials
from listener.contracts import Credential
from listener.credentials import file_names, read_credential, variants_of
from listener.egress import service_origin
from listener.errors import ConfigurationError

__all__ = [
    "KEY_QUESTIONS",
    "ChainKeys",
    "EnvironmentKeys",
    "KeyInUse",
    "KeySettings",
    "KeySource",
    "Origin",
    "Table",
    "key_source",
    "require_key",
]

SECRETS = frozenset({"access_key_id", "access_key_secret", "security_token"})


def _origin(text: str) -> str:
    return service_origin(text, example="https://cdn.aliyuncs.com")


Origin = Annotated[str, AfterValidator(_origin)]
"""Scheme, host and port of a service."""


class Table(BaseModel):
    """A table of the configuration: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


KEY_QUESTIONS: Final = (
    Credential(
        variable="ALIBABA_CLOUD_ACCESS_KEY_ID",
        text="Access key ID of Alibaba Cloud",
        file=file_names("ALIBABA_CLOUD_ACCESS_KEY_ID")[-1],
        is_secret=False,
    ),
    Credential(
        variable="ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        text="Access key secret of Alibaba Cloud",
        file=file_names("ALIBABA_CLOUD_ACCESS_KEY_SECRET")[-1],
    ),
)
"""What `cdn-listener init` prompts for."""


class KeySettings(Table):
    """Where the access key comes from; see :func:`key_source`."""

    credentials: Literal["environment", "default-chain"] = "environment"
    """Where the access key comes from: environment and files, or Alibaba's own chain (RAM roles, profiles, …)."""
    environment_prefix: str = Field("ALIBABA_CLOUD", pattern=r"^[A-Z][A-Z0-9_]*$")
    """First part of the variables that hold the key: another one for a second account."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, table: Any) -> Any:
        """Say where the key belongs, instead of rejecting it as an unknown setting."""
        if isinstance(table, dict) and (found := SECRETS.intersection(table)):
            names = ", ".join(f"ALIBABA_CLOUD_{name.upper()}" for name in sorted(found))
            raise ValueError(f"a key never stands in a configuration: set {names} in the environment instead")
        return table


log = structlog.get_logger()

KEY_SECONDS = 60.0
"""How long a key is used before its source is asked again: chains renew temporary keys minutes ahead."""
CHAIN_SECONDS = 30.0
"""The chain queries a metadata service, which may take seconds where there is none."""


class KeySource(Protocol):
    """Gives the key that is valid now."""

    async def read(self) -> Credentials:
        """Return the key. Raise :class:`~listener.errors.ConfigurationError`, naming what to set, if there is none."""
        ...


def key_source(settings: KeySettings, environment: Mapping[str, str]) -> KeySource:
    """Return the source that the setting ``credentials`` names."""
    if settings.credentials == "default-chain":
        return ChainKeys()
    return EnvironmentKeys(environment, settings.environment_prefix)


async def require_key(settings: KeySettings, environment: Mapping[str, str]) -> None:
    """
    Raise :class:`~listener.errors.ConfigurationError` when no usable key is configured.

    The chain's services are not called: one that does not answer at boot may answer a minute later.
    """
    if settings.credentials == "default-chain":
        await asyncio.to_thread(_import_client)
    else:
        await EnvironmentKeys(environment, settings.environment_prefix).read()


class EnvironmentKeys:
    """The key from variables and files; read each time, so that a rotated file takes effect."""

    def __init__(self, environment: Mapping[str, str], prefix: str = "ALIBABA_CLOUD") -> None:
        """Keep where to look; read nothing."""
        self._environment = environment
        self._prefix = prefix

    async def read(self) -> Credentials:
        """Return the key. Raise :class:`~listener.errors.ConfigurationError` for a missing or unusable part."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Credentials:
        names = [f"{self._prefix}_{part}" for part in ("ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "SECURITY_TOKEN")]
        found = {name: read_credential(name, self._environment) for name in names}
        missing = [name for name in names[:2] if not found[name]]
        if missing:
            hint = f"set it, or {variants_of(missing[0])}; for roles and profiles set credentials = 'default-chain'"
            raise ConfigurationError(f"no access key: {' and '.join(missing)} not set or empty", hint=hint)
        key_id, secret, token = (found[name] for name in names)
        return Credentials(key_id, secret, token or None)


class ChainKeys:
    """
    The key from Alibaba's own chain: environment, RRSA, CLI profile, credentials file, ECS role, URI.

    The package of the extra ``credentials`` is imported with the first read, in a thread: it keeps and
    renews temporary keys by itself.
    """

    def __init__(self, make_client: Callable[[], Any] | None = None) -> None:
        """Keep how to make the chain's client; import nothing."""
        self._make_client = make_client or _import_client
        self._client: Any = None

    async def read(self) -> Credentials:
        """Return the key that is valid now. Raise :class:`~listener.errors.ConfigurationError` where there is none."""
        try:
            async with asyncio.timeout(CHAIN_SECONDS):
                return await asyncio.to_thread(self._read)
        except TimeoutError:
            what = "Alibaba's credential chain did not answer"
            raise ConfigurationError(what, hint="see `cdn-listener check`") from None

    def _read(self) -> Credentials:
        if self._client is None:
            self._client = self._make_client()
        try:
            key = self._client.get_credential()
        except Exception as error:  # noqa: BLE001 - its providers let through whatever their transports raise
            message = f"Alibaba's credential chain found no key: {scrub(str(error))}"
            raise ConfigurationError(
                message, hint="give the machine a RAM role, or set credentials = 'environment'"
            ) from None
        if not key.access_key_id or not key.access_key_secret:
            raise ConfigurationError("Alibaba's credential chain gave an empty key", hint="check its configuration")
        return Credentials(key.access_key_id, key.access_key_secret, key.security_token or None)


def _import_client() -> Any:
    try:
        from alibabacloud_credentials.client import Client  # noqa: PLC0415 - an extra, heavy, and only for this
    except ImportError as error:
        hint = "pip install 'cdn-listener[credentials]'"
        raise ConfigurationError(
            "credentials = 'default-chain' needs the package alibabacloud-credentials", hint=hint
        ) from error
    logging.getLogger("credentials").handlers.clear()  # it hangs its own on: what is logged here is ours to say
    return Client()


class KeyInUse:
    """The key that calls are signed with: read once a minute, so that a rotated one is noticed without a restart."""

    def __init__(self, source: KeySource) -> None:
        """Keep where to ask; read nothing."""
        self._source = source
        self._key: Credentials | None = None
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def current(self, *, renew: bool = False) -> Credentials:
        """
        Return the key; with ``renew``, after asking its source now.

        Raises :class:`~listener.errors.ConfigurationError` when there is none. A source that fails for a while does
        not stop a key that was valid.
        """
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if renew or self._key is None or now - self._read_at >= KEY_SECONDS:
                self._key = await self._read(keep=None if renew else self._key)
                self._read_at = now
            return self._key

    async def _read(self, *, keep: Credentials | None) -> Credentials:
        try:
            return await self._source.read()
        except ConfigurationError as error:
            if keep is None:
                raise
            log.warning("alibaba.key_not_read", problem=str(error))
            return keep
