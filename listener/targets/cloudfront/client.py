"""One signed call over one session, and the access key that signs it."""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from typing import Any, Final

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from yarl import URL

from listener.alibaba.replies import scrub
from listener.alibaba.session import ApiSession, read_bounded
from listener.errors import ConfigurationError, Misconfigured, OutcomeUnknown, Unavailable
from listener.targets.cloudfront.answers import KEY_CODES, Request, error_of
from listener.targets.cloudfront.settings import KEY_SECONDS, Settings
from listener.targets.cloudfront.wire import read_failure

__all__ = ["Client"]

ROOT: Final = "/2020-05-31/distribution"
LARGEST_REPLY_BYTES: Final = 8 * 1024 * 1024
"""An answer repeats the paths of its request: 1,000 of less than 1,024 characters, as XML may escape them."""
CONNECTIONS: Final = 4
ROLE_PROVIDERS: Final = ("container-role", "iam-role")
"""Those of AWS's chain that call a service as soon as they are asked."""
CONTAINER_VARIABLES: Final = frozenset({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"})
NO_KEY_HINT: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role"


class Client:
    """Makes calls; keeps one session, and where the key comes from."""

    def __init__(self, settings: Settings, key: ReadOnlyCredentials | None = None) -> None:
        """Keep the settings; open nothing. Without a ``key`` AWS's own chain provides it for each call."""
        self._settings = settings
        self._given = key
        self._chain: Any = None
        self._session = ApiSession(
            settings.endpoint_url,
            connections=CONNECTIONS,
            connect_seconds=settings.connect_seconds,
            answer_seconds=settings.answer_seconds,
            accept="text/xml",
            setting="endpoint_url",
        )

    async def call(self, request: Request) -> bytes:
        """
        Return the body of an answer with success.

        Raises a :class:`~listener.errors.TargetError` by what can be done about it: of what creates an invalidation
        :class:`~listener.errors.OutcomeUnknown` where it may have been accepted, of a call that changes nothing
        :class:`~listener.errors.Unavailable` instead.
        """
        try:
            return await self._call(request)
        except OutcomeUnknown as error:
            if request.sent.urls:
                raise
            raise Unavailable(str(error)) from error

    async def key(self) -> ReadOnlyCredentials:
        """Return the key that is valid now. Raise :class:`~listener.errors.ConfigurationError` where there is none."""
        return self._given or await asyncio.to_thread(self._read_key)

    async def require_key(self) -> None:
        """
        Raise :class:`~listener.errors.ConfigurationError` where no key can be had, or what is set is none.

        Only what is set here is read: a role's service that does not answer at boot may answer a minute later.
        """
        await asyncio.to_thread(self._require_key)

    async def close(self) -> None:
        """Close the session; safe to call twice."""
        await self._session.close()

    async def _call(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(KEY_SECONDS):
                key = await self.key()
        except ConfigurationError as error:
            raise Misconfigured(str(error), hint=error.hint) from error
        except TimeoutError as error:
            raise Unavailable("no AWS key: what provides it does not answer", hint=NO_KEY_HINT) from error
        endpoint = self._settings.endpoint_url
        url = f"{endpoint}{ROOT}/{self._settings.distribution}{request.path}{request.query and '?' + request.query}"
        headers = self._signed(request, url, key)
        with self._session.failures(request.sent.what):
            async with self._session.open().request(
                request.method,
                URL(url, encoded=True),
                data=request.body or None,
                headers=headers,
                skip_auto_headers=["Content-Type"],
                allow_redirects=False,
            ) as response:
                body = await read_bounded(response, LARGEST_REPLY_BYTES)
        self._session.require_proxy_passed(response.status)
        if response.status in (HTTPStatus.OK, HTTPStatus.CREATED):
            return body
        failure = read_failure(response.status, body)
        if failure.code in KEY_CODES:
            self._chain = None  # it may have been rotated
        raise error_of(failure, request.sent, secrets=[part for part in key if part])

    def _signed(self, request: Request, url: str, key: ReadOnlyCredentials) -> dict[str, str]:
        """Return the headers of a signed request."""
        unsigned = AWSRequest(request.method, url, data=request.body)
        SigV4Auth(key, "cloudfront", self._settings.region).add_auth(unsigned)
        return dict(unsigned.headers.items())

    def _read_key(self) -> ReadOnlyCredentials:
        try:
            if self._chain is None:
                session = botocore.session.Session(profile=self._settings.profile or None)
                self._chain = session.get_credentials()
            key = None if self._chain is None else self._chain.get_frozen_credentials()
        except BotoCoreError as error:
            raise ConfigurationError(f"no AWS key: {scrub(str(error))}", hint=NO_KEY_HINT) from error
        if key is None or not key.access_key or not key.secret_key:
            raise ConfigurationError("no AWS key: its chain found none", hint=NO_KEY_HINT)
        return ReadOnlyCredentials(key.access_key, key.secret_key, key.token)

    def _require_key(self) -> None:
        session = botocore.session.Session(profile=self._settings.profile or None)
        try:
            providers = session.get_component("credential_provider").providers
            found = any(one.load() for one in providers if one.METHOD not in ROLE_PROVIDERS)
        except BotoCoreError as error:
            raise ConfigurationError(f"no AWS key: {scrub(str(error))}", hint=NO_KEY_HINT) from error
        may_be_role = os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"
        if not found and not may_be_role and not CONTAINER_VARIABLES.intersection(os.environ):
            raise ConfigurationError("no AWS key: its chain found none", hint=NO_KEY_HINT)
