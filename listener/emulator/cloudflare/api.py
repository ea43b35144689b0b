"""Cloudflare's API: zones, purges by URL, prefix, host and tag, and the limits of a plan."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiohttp import web

from listener.emulator.cloudflare.faults import LISTS, PURGES, Problem
from listener.emulator.faults import Refusal
from listener.emulator.server import Accepted, ApiReply, ApiServer, Surroundings
from listener.emulator.tasks import CacheKey, cache_key, is_below
from listener.errors import ConfigurationError
from listener.rates import Bucket
from listener.targets.cloudflare.plans import MOST_OPERATIONS, PLANS, PlanName

__all__ = ["Accept", "CloudflareServer", "Zone", "parse_zone"]

ROOT: Final = "/client/v4"
MOST_SLASHES: Final = 31
MOST_ZONES: Final = 50
"""In one page of a list."""


class Zone(NamedTuple):
    """One zone of the account."""

    name: str
    """A domain; its subdomains belong to it."""
    id: str

    def holds(self, host: str) -> bool:
        """Return whether a host, with or without a port, belongs to it."""
        return is_below(host, self.name)


def parse_zone(text: str) -> Zone:
    """Read ``NAME[=ID]``; without an id it has one of its own."""
    name, _, given = text.lower().partition("=")
    if not re.fullmatch(r"[a-z0-9.:-]+", name) or (given and not re.fullmatch(r"[0-9a-f]{32}", given)):
        raise ConfigurationError(
            f"The zone {text!r} cannot be read.", hint="Its form is NAME[=ID], with an ID of 32 hexadecimal digits."
        )
    return Zone(name, given or hashlib.sha256(name.encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudflareCall:
    """A call with the right token."""

    action: str
    zone: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


Accept = Callable[[Zone, str, Sequence[tuple[str, CacheKey]], bool], Accepted]
"""Keeps what has passed every check: the zone, by what, the items, and whether copies are dropped."""


class CloudflareServer(ApiServer[CloudflareCall]):
    """Answers calls below ``/client/v4``."""

    def __init__(
        self, around: Surroundings, *, plan: PlanName, token: str, zones: Sequence[Zone], accept: Accept
    ) -> None:
        """Serve these zones of one account to the holder of the token."""
        super().__init__(around)
        limits = PLANS[plan]
        self._token = token
        self._zones = zones
        self._accept = accept
        self._most_files = limits.batch_files
        self.requests = Bucket(limits.bucket_requests, limits.requests_per_second)
        self.files = Bucket(limits.files_per_second, limits.files_per_second)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        return [
            web.post(f"{ROOT}/zones/{{zone}}/{{action:{'|'.join(PURGES)}}}", self.handle),
            web.get(f"{ROOT}/zones/{{zone}}", self.handle),
            web.get(f"{ROOT}/zones", self.handle),
            web.get(f"{ROOT}/user/tokens/verify", self.handle),
        ]

    async def admit(self, request: web.Request) -> CloudflareCall:
        """Return the call. Raise :class:`Problem` for a wrong token, or a body that is no JSON."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            raise Problem("6003")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise Problem("1000")
        action, zone = request.match_info.get("action", ""), request.match_info.get("zone", "")
        if not action:
            plain = "verify" if request.path.endswith("/verify") else "list_zones"
            return CloudflareCall(action="get_zone" if zone else plain, zone=zone, query=dict(request.query))
        try:
            body = await request.json()
        except web.HTTPRequestEntityTooLarge as error:
            raise Problem("413") from error
        except ValueError as error:
            raise Problem("1012") from error
        return CloudflareCall(action=action, zone=zone, body=body)

    def fail(self, call: CloudflareCall) -> None:
        """Raise :class:`Problem` where a fault demands it."""
        now = self.now()
        if fault := self.faults.take("throttle", now, action=call.action):
            raise Problem("1134", retry_after_seconds=1.0 if fault.seconds is None else fault.seconds)
        if self.faults.take("error500", now, action=call.action):
            raise Problem("10001")
        if fault := self.faults.take("error", now, action=call.action):
            raise Problem(fault.text, zone=call.zone)

    def answer(self, call: CloudflareCall, request_id: str) -> ApiReply:
        """Execute the call."""
        if call.action == "verify":
            return _success({"id": hashlib.sha256(self._token.encode()).hexdigest()[:32], "status": "active"})
        if call.action == "list_zones":
            return self._list(call.query)
        zone = next((zone for zone in self._zones if zone.id == call.zone), None)
        if zone is None:
            raise Problem("7003", zone=call.zone)
        if call.action == "get_zone":
            return _success(_shown(zone))
        return self._purge(call, zone, request_id)

    def _list(self, query: Mapping[str, str]) -> ApiReply:
        found = [zone for zone in self._zones if query.get("name", zone.name) == zone.name]
        size, page = min(int(query.get("per_page", 20)), MOST_ZONES), int(query.get("page", 1))
        shown = found[(page - 1) * size : page * size]
        info = {"page": page, "per_page": size, "count": len(shown), "total_count": len(found)}
        reply = _success([_shown(zone) for zone in shown])
        return ApiReply({**reply.body, "result_info": info})

    def _purge(self, call: CloudflareCall, zone: Zone, request_id: str) -> ApiReply:
        by, items = _items(call.body)
        hard = PURGES[call.action]
        if self.faults.take("plan-lacks", self.now(), matches=lambda fault: fault.text == by):
            raise Problem("1107", what=by)
        most = self._most_files if by == "files" else MOST_OPERATIONS
        if len(items) > most:
            raise Problem("1094", most=most, what=by)
        keys = [(item, self._key(zone, by, item)) for item in items]
        self._spend(by, len(items))
        accepted = self._accept(zone, by, keys, hard)
        line = {**accepted.line, "action": call.action, "request_id": request_id}
        return ApiReply(_success({"id": zone.id}).body, Accepted(records=accepted.records, line=line))

    def _key(self, zone: Zone, by: str, item: str) -> CacheKey:
        """Return where an item takes effect. Raise :class:`Problem` for one that is malformed or of another zone."""
        if self.faults.any("malformed") and self.faults.take_containing("malformed", item, self.now()):
            raise Problem("1016", item=item)
        if by == "tags":
            if not item or not re.fullmatch(r"[!-+\--~]{1,1024}", item):
                raise Problem("1017", item=item, what="tag")
            return CacheKey(zone.name, f"#{item.lower()}")
        if by == "purge_everything":
            return CacheKey(zone.name, "#")
        try:
            key = cache_key(item if by == "files" else f"https://{item}")
        except ValueError as error:
            raise Problem("1016", item=item) from error
        wrong = {
            "files": "*" in item,
            "prefixes": item.count("/") > MOST_SLASHES or "?" in item or "/" not in item,
            "hosts": "/" in item,
        }
        if wrong[by] or not zone.holds(key.host):
            raise Problem("1016" if by == "files" else "1017", item=item, what=by)
        return key

    def _spend(self, by: str, items: int) -> None:
        bucket, amount = (self.files, items) if by == "files" else (self.requests, 1)
        wait = bucket.wait_seconds(amount, self.now())
        if wait > 0:
            raise Problem("1134", retry_after_seconds=wait)
        bucket.take(amount, self.now())

    def refuse(self, refusal: Refusal, request_id: str) -> web.Response:
        """Return the vendor's body of an error."""
        wait = getattr(refusal, "retry_after_seconds", None)
        headers = {"CF-Ray": request_id} | ({} if wait is None else {"Retry-After": str(max(1, math.ceil(wait)))})
        errors = [{"code": int(refusal.code), "message": refusal.message}]
        return self.json(refusal.status, {"success": False, "errors": errors, "messages": [], "result": None}, headers)


def _items(body: object) -> tuple[str, Sequence[str]]:
    if not isinstance(body, dict) or len(body) != 1:
        raise Problem("1012")
    by, value = next(iter(body.items()))
    if by == "purge_everything" and value is True:
        return by, ["*"]
    if by not in LISTS or not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise Problem("1012")
    return by, value


def _success(result: Any) -> ApiReply:
    return ApiReply({"success": True, "errors": [], "messages": [], "result": result})


def _shown(zone: Zone) -> dict[str, Any]:
    return {"id": zone.id, "name": zone.name, "status": "active", "paused": False, "type": "full"}
