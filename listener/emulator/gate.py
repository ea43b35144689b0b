"""
Authentication of calls: signature, key, time stamp and nonce, in both signature versions.

Pure except for the nonces that it remembers; time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from listener.alibaba.signature import Credentials, parse_acs3_authorization, verify_acs3, verify_v1
from listener.emulator.rejections import Rejection
from listener.emulator.tasks import parse_time

__all__ = ["ApiRequest", "Gate"]

TIME_WINDOW_SECONDS = 15 * 60
"""How far a time stamp may be away from the server's time, either way; the vendor's page on signatures."""
MAX_NONCES = 1_000_000
ACS3_REQUIRED = ("x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256")
V1_REQUIRED = ("AccessKeyId", "Signature", "SignatureNonce", "Timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A request as it arrived, decoded."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    query: Sequence[tuple[str, str]]
    form: Sequence[tuple[str, str]]
    body: bytes

    @property
    def header(self) -> dict[str, str]:
        """Headers by lower-case name."""
        return {name.lower(): value.strip() for name, value in self.headers}

    @property
    def parameters(self) -> dict[str, str]:
        """Query and form together."""
        return dict([*self.query, *self.form])

    @property
    def uses_acs3(self) -> bool:
        """True for ACS3-HMAC-SHA256, whose parts are headers; else the older signature, all of it parameters."""
        return "authorization" in self.header

    def action_and_version(self) -> tuple[str, str]:
        """Return action and version, from wherever this signature's clients put them."""
        header, parameters = self.header, self.parameters
        action = header.get("x-acs-action") or parameters.get("Action", "")
        return action, header.get("x-acs-version") or parameters.get("Version", "")


@dataclass(frozen=True, slots=True)
class _Claim:
    """The claims of a request."""

    key_id: str
    token: str | None
    date: str
    nonce: str


class Gate:
    """Admits calls that the account's key signed, recently and only once."""

    def __init__(self, credentials: Credentials) -> None:
        """Know one access key."""
        self._credentials = credentials
        self._nonces: set[str] = set()
        self._nonce_times: deque[tuple[float, str]] = deque()

    def admit(self, request: ApiRequest, now: float) -> None:
        """Admit the call and remember its nonce, or raise :class:`Rejection`."""
        claim = _acs3_claim(request) if request.uses_acs3 else _v1_claim(request)
        if claim.key_id != self._credentials.access_key_id:
            raise Rejection("InvalidAccessKeyId.NotFound")
        _check_time(claim.date, now)
        self._check_signature(request)
        if self._credentials.security_token and claim.token != self._credentials.security_token:
            raise Rejection("InvalidSecurityToken.Expired" if claim.token else "MissingSecurityToken")
        self._use_nonce(claim.nonce, now)

    def _check_signature(self, request: ApiRequest) -> None:
        secret = self._credentials.access_key_secret
        if request.uses_acs3:
            problem = verify_acs3(
                method=request.method,
                path=request.path,
                query=request.query,
                headers=request.headers,
                body=request.body,
                access_key_secret=secret,
            )
        else:
            problem = verify_v1(method=request.method, query=request.query, form=request.form, access_key_secret=secret)
        if problem is not None:
            raise Rejection(problem.value)

    def _use_nonce(self, nonce: str, now: float) -> None:
        while self._nonce_times and (
            self._nonce_times[0][0] < now - 2 * TIME_WINDOW_SECONDS or len(self._nonce_times) >= MAX_NONCES
        ):
            self._nonces.discard(self._nonce_times.popleft()[1])
        if nonce in self._nonces:
            raise Rejection("SignatureNonceUsed")
        self._nonces.add(nonce)
        self._nonce_times.append((now, nonce))


def _acs3_claim(request: ApiRequest) -> _Claim:
    header = request.header
    try:
        key_id = parse_acs3_authorization(header["authorization"]).access_key_id
    except ValueError as error:
        raise Rejection("IncompleteSignature") from error
    for name in ACS3_REQUIRED:
        if not header.get(name):
            raise Rejection("MissingParameter", name=name)
    return _Claim(key_id, header.get("x-acs-security-token"), header["x-acs-date"], header["x-acs-signature-nonce"])


def _v1_claim(request: ApiRequest) -> _Claim:
    parameters: Mapping[str, str] = request.parameters
    for name in V1_REQUIRED:
        if not parameters.get(name):
            raise Rejection("MissingParameter", name=name)
    if parameters.get("SignatureMethod", "HMAC-SHA1") != "HMAC-SHA1":
        raise Rejection("IncompleteSignature")
    names = [name for name, _ in (*request.query, *request.form)]
    if len(names) != len(set(names)):
        raise Rejection("IncompleteSignature")
    return _Claim(
        parameters["AccessKeyId"],
        parameters.get("SecurityToken"),
        parameters["Timestamp"],
        parameters["SignatureNonce"],
    )


def _check_time(text: str, now: float) -> None:
    at = parse_time(text)
    if at is None:
        raise Rejection("InvalidTimeStamp.Format")
    if abs(at - now) > TIME_WINDOW_SECONDS:
        raise Rejection("InvalidTimeStamp.Expired")
