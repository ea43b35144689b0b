"""CloudFront's API: CreateInvalidation, GetInvalidation, ListInvalidations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from listener.emulator.cloudfront.account import Account, Invalidation
from listener.emulator.cloudfront.faults import Problem
from listener.emulator.cloudfront.signature import AccessKey, require_signature
from listener.emulator.cloudfront.wire import Batch, error_document, invalidation_document, list_document, read_batch
from listener.emulator.faults import Refusal
from listener.emulator.server import Accepted, ApiReply, ApiServer, Surroundings

__all__ = ["Accept", "CloudFrontServer"]

ROOT: Final = "/2020-05-31/distribution/{distribution}/invalidation"
MOST_PATH_CHARACTERS: Final = 4_000
MOST_ITEMS: Final = 100
"""In one page of a list."""
_PATH: Final = re.compile(r"/[!-&(-}]*")
"""Printable ASCII without ``'`` and ``~``, which the service refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFrontCall:
    """A call that was signed with the right key."""

    action: str
    distribution: str
    invalidation: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Accept = Callable[[Invalidation], Accepted]
"""Lets an invalidation take effect when its time has come."""


class CloudFrontServer(ApiServer[CloudFrontCall]):
    """Answers calls about invalidations."""

    def __init__(
        self,
        around: Surroundings,
        *,
        key: AccessKey,
        signing_clock: Callable[[], float],
        distributions: Sequence[str],
        account: Account,
        accept: Accept,
    ) -> None:
        """Serve these distributions to the holder of the key."""
        super().__init__(around)
        self._key = key
        self._signing_clock = signing_clock
        self._distributions = frozenset(distributions)
        self._account = account
        self._accept = accept

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        return [
            web.post(ROOT, self.handle),
            web.get(ROOT, self.handle),
            web.get(f"{ROOT}/{{invalidation}}", self.handle),
        ]

    async def admit(self, request: web.Request) -> CloudFrontCall:
        """Return the call. Raise :class:`Problem` where its signature is wrong."""
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise Problem("BatchTooLarge", paths="?", most="?") from error
        require_signature(request, body, self._key, self._signing_clock())
        invalidation = request.match_info.get("invalidation", "")
        reads = "GetInvalidation" if invalidation else "ListInvalidations"
        return CloudFrontCall(
            action="CreateInvalidation" if request.method == "POST" else reads,
            distribution=request.match_info["distribution"],
            invalidation=invalidation,
            query=dict(request.query),
            body=body,
        )

    def fail(self, call: CloudFrontCall) -> None:
        """Raise :class:`Problem` where a fault demands it."""
        now = self.now()
        for name, code in (
            ("throttle", "Throttling"),
            ("busy", "TooManyInvalidationsInProgress"),
            ("error500", "InternalError"),
        ):
            if self.faults.take(name, now, action=call.action):
                raise Problem(code)
        if fault := self.faults.take("error", now, action=call.action):
            raise Problem(fault.text, action=call.action, distribution=call.distribution)

    def answer(self, call: CloudFrontCall, request_id: str) -> ApiReply:
        """Execute the call."""
        if call.distribution not in self._distributions:
            raise Problem("NoSuchDistribution")
        now = self.now()
        if call.action == "GetInvalidation":
            found = self._account.find(call.distribution, call.invalidation)
            return _reply(200, invalidation_document(found, now))
        if call.action == "ListInvalidations":
            return self._list(call, now)
        batch = read_batch(call.body)
        self._require_paths(batch)
        if known := self._account.repeated(call.distribution, batch.reference, batch.paths):
            return _reply(201, invalidation_document(known, now))
        self._account.admit(call.distribution, batch.paths, now)
        made = self._account.create(call.distribution, batch.reference, batch.paths, now)
        accepted = self._accept(made)
        line = {**accepted.line, "action": call.action, "request_id": request_id}
        location = f"{ROOT.format(distribution=call.distribution)}/{made.id}"
        reply = _reply(201, invalidation_document(made, now), location=location)
        return ApiReply(reply.body, Accepted(records=accepted.records, line=line))

    def _list(self, call: CloudFrontCall, now: float) -> ApiReply:
        marker, asked = call.query.get("Marker", ""), call.query.get("MaxItems", str(MOST_ITEMS))
        if not asked.isdecimal() or int(asked) < 1:
            raise Problem("InvalidArgument")
        every, most = self._account.newest_first(call.distribution), min(int(asked), MOST_ITEMS)
        first = next((place for place, one in enumerate(every) if one.id == marker), -1) + 1
        shown = every[first : first + most]
        next_marker = shown[-1].id if first + most < len(every) else ""
        return _reply(200, list_document(shown, marker=marker, most=most, next_marker=next_marker, now=now))

    def _require_paths(self, batch: Batch) -> None:
        """Raise :class:`Problem` for a path that the service refuses; it says of none which."""
        if not batch.paths:
            raise Problem("InvalidArgument")
        is_any = self.faults.any("malformed")
        for path in batch.paths:
            is_wrong = len(path) > MOST_PATH_CHARACTERS or not _PATH.fullmatch(path)
            if is_wrong or (is_any and self.faults.take_containing("malformed", path, self.now())):
                raise Problem("InvalidArgument")

    def respond(self, reply: ApiReply, request_id: str) -> web.Response:
        """Return an answer in XML."""
        headers = {"x-amzn-RequestId": request_id} | reply.body["headers"]
        return self.xml(reply.body["status"], reply.body["document"], headers)

    def refuse(self, refusal: Refusal, request_id: str) -> web.Response:
        """Return the vendor's body of an error."""
        document = error_document(refusal.code, refusal.message, refusal.status, request_id)
        return self.xml(refusal.status, document, {"x-amzn-RequestId": request_id})


def _reply(status: int, document: bytes, *, location: str = "") -> ApiReply:
    body: dict[str, Any] = {"status": status, "document": document, "headers": {}}
    if location:
        body["headers"] = {"Location": f"https://cloudfront.amazonaws.com{location}"}
    return ApiReply(body)
