"""
Where the access key comes from; it never stands in a configuration.

For each of ``…_ACCESS_KEY_ID``, ``…_ACCESS_KEY_SECRET`` and ``…_SECURITY_TOKEN`` (temporary keys only), in
this order: the variable, the file that ``<variable>_FILE`` names, the file of the variable's lower-case
name in ``$CREDENTIALS_DIRECTORY`` (systemd's LoadCredential). Or, by setting, Alibaba's own chain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from listener.alibaba.replies import scrub
from listener.alibaba.settings import KeySettings
from listener.alibaba.signature import Credentials
from listener.errors import ConfigurationError
from listener.settings import expanded

__all__ = ["ChainKeys", "EnvironmentKeys", "KeyInUse", "KeySource", "key_source", "require_key"]

log = structlog.get_logger()

KEY_SECONDS = 60.0
"""How long a key is used before its source is asked again: chains renew temporary keys minutes ahead."""
LONGEST_VALUE_BYTES = 16_384
"""A file larger than this is no key; a temporary token has a few hundred bytes."""
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
        found = {name: self._value(name) for name in names}
        missing = [name for name in names[:2] if not found[name]]
        if missing:
            variants = f"{missing[0]}_FILE or $CREDENTIALS_DIRECTORY/{missing[0].lower()}"
            hint = f"set it, or {variants}; for roles and profiles set credentials = 'default-chain'"
            raise ConfigurationError(f"no access key: {' and '.join(missing)} not set or empty", hint=hint)
        key_id, secret, token = (found[name] for name in names)
        return Credentials(key_id, secret, token or None)

    def _value(self, name: str) -> str:
        value = self._environment.get(name, "").strip() or self._from_file(name)
        if not all("!" <= char <= "~" for char in value):
            what = f"{name} holds a blank, a control or a non-ASCII character"
            raise ConfigurationError(what, hint="copy the key again")
        return value

    def _from_file(self, name: str) -> str:
        if named := self._environment.get(f"{name}_FILE", ""):
            return _contents(expanded(Path(named)), f"{name}_FILE")
        directory = self._environment.get("CREDENTIALS_DIRECTORY", "")
        path = Path(directory, name.lower())
        return _contents(path, "$CREDENTIALS_DIRECTORY") if directory and path.exists() else ""


def _contents(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_VALUE_BYTES + 1)
        if len(raw) > LONGEST_VALUE_BYTES:
            raise ConfigurationError(f"{path} ({variable}) is too large to be a key", hint=f"correct {variable}")
        return raw.decode().strip()
    except OSError as error:
        what = f"cannot read {path}: {error.strerror}"
        raise ConfigurationError(what, hint=f"correct {variable} or the file") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} ({variable}) is not text", hint=f"correct {variable}") from None


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

    async def renewed(self, used: Credentials) -> bool:
        """Ask the source for another key than the one that was refused; the same one again would fail again."""
        return await self.current(renew=True) != used

    async def _read(self, *, keep: Credentials | None) -> Credentials:
        try:
            return await self._source.read()
        except ConfigurationError as error:
            if keep is None:
                raise
            log.warning("alibaba.key_not_read", problem=str(error))
            return keep
