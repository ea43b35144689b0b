"""
The API over HTTP: decodes calls, authenticates and answers them.

The gate checks signature, key, time stamp and nonce, in both signature versions. It is pure except for the nonces that
it remembers; time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from listener.alibaba.signature import Credentials, parse_acs3_authorization, verify_acs3, verify_v1
from listener.allowances import ALIBABA_DAY
from listener.emulator.alibaba.account import CallRates
from listener.emulator.alibaba.actions import Api, Call
from listener.emulator.alibaba.faults import Rejection
from listener.emulator.alibaba.parameters import parse_time
from listener.emulator.faults import Refusal
from listener.emulator.server import MAX_BODY_BYTES, Accepted, ApiReply, ApiServer, Surroundings
from listener.emulator.tasks import TaskRecord

__all__ = ["AlibabaServer", "ApiRequest", "Gate", "journal_line"]

FORM: Final = "application/x-www-form-urlencoded"
HOST_ID: Final = "cdn-listener-emulator"

TIME_WINDOW_SECONDS = 15 * 60
"""How far a time stamp may be away from the server's time, either way; the vendor's page on signatures."""
MAX_NONCES = 1_000_000
ACS3_REQUIRED = ("x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256")
V1_REQUIRED = ("AccessKeyId", "Signature", "SignatureNonce", "Timestamp")


class AlibabaServer(ApiServer[Call]):
    """Answers calls on ``/``."""

    def __init__(self, around: Surroundings, *, api: Api, gate: Gate, help_page: str) -> None:
        """Answer with ``api`` the calls that pass ``gate``; refusals name the ``help_page``."""
        super().__init__(around)
        self._help_page = help_page
        self._api = api
        self._gate = gate

    async def admit(self, request: web.Request) -> Call:
        """Return the call that a request makes. Raise :class:`Rejection`."""
        return self._admit(await _decode(request))

    def _admit(self, request: ApiRequest) -> Call:
        if request.method not in ("GET", "POST"):
            raise Rejection("UnsupportedHTTPMethod")
        action, version = request.action_and_version()
        for name, value in (("Action", action), ("Version", version)):
            if not value:
                raise Rejection("MissingParameter", name=name)
        known = self._api.version_of(action, version)
        if known is None:
            raise Rejection("InvalidAction.NotFound", action=action, version=version)
        self._gate.admit(request, self.now())
        return Call(action=action, version=known, parameters=request.parameters, now=self.now())

    def fail(self, call: Call) -> None:
        """Raise :class:`Rejection` where a fault demands it."""
        now = self.now()
        if fault := self.faults.take("throttle", now, action=call.action):
            seconds = 1.0 if fault.seconds is None else fault.seconds
            raise Rejection("Throttling", retry_after_ms=int(seconds * 1000))
        if self.faults.take("error500", now, action=call.action):
            raise Rejection("InternalError")
        if fault := self.faults.take("error", now, action=call.action):
            raise Rejection(fault.text)

    def answer(self, call: Call, request_id: str) -> ApiReply:
        """Execute the call."""
        # Faults and prefetches may have taken time since the call was admitted.
        call = replace(call, now=self.now())
        reply = self._api.answer(call)
        records = reply.accepted
        accepted = Accepted(records=records, line=journal_line(call, records, request_id)) if records else None
        return ApiReply({**reply.fields, "RequestId": request_id}, accepted)

    def refuse(self, refusal: Refusal, request_id: str) -> web.Response:
        """Return the vendor's body of an error."""
        retry_after_ms = getattr(refusal, "retry_after_ms", None)
        headers = {} if retry_after_ms is None else {"x-acs-retry-after": str(retry_after_ms)}
        body = {
            "RequestId": request_id,
            "HostId": HOST_ID,
            "Code": refusal.code,
            "Message": refusal.message,
            "Recommend": f"{self._help_page}?q={refusal.code}",
        }
        return self.json(refusal.status, body, headers)


async def _decode(request: web.Request) -> ApiRequest:
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Rejection("RequestEntityTooLarge", limit_bytes=MAX_BODY_BYTES) from error
    query = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    is_form = request.content_type == FORM
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True) if is_form else []
    return ApiRequest(
        method=request.method,
        path=request.rel_url.raw_path,
        headers=[(name, value) for name, value in request.headers.items()],
        query=query,
        form=form,
        body=body,
    )


def journal_line(call: Call, records: Sequence[TaskRecord], request_id: str) -> dict[str, Any]:
    """Return the fields of one line."""
    return {
        "at": call.now,
        "window": ALIBABA_DAY.start(call.now),
        "action": call.action,
        "version": call.version.name,
        "kind": records[0].kind.value,
        "force": records[0].force,
        "request_id": request_id,
        "task_ids": list(dict.fromkeys(record.task_id for record in records)),
        "paths": [record.path for record in records],
    }


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
    """Admits calls that the account's key signed, recently and only once, within the rates of their actions."""

    def __init__(self, credentials: Credentials, rates: CallRates) -> None:
        """Know one access key."""
        self._credentials = credentials
        self._rates = rates
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
        self._rates.take(request.action_and_version()[0], now)

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
