"""What a configuration may say of a target of type ``cloudflare``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from listener.credentials import read_credential, variants_of
from listener.egress import service_origin
from listener.errors import ConfigurationError
from listener.settings import Section
from listener.targets.cloudflare.plans import PLANS, Plan, PlanName

__all__ = ["Limits", "Settings", "Subtree", "read_token"]

Subtree = Literal["prefix", "tag", "none"]
API = "https://api.cloudflare.com"
SECRETS = frozenset({"token", "api_token", "key", "api_key"})
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ZONE_ID = re.compile(r"[0-9a-f]{32}")
_TAG = re.compile(r"[!-+\--~]+")


def _endpoint(text: str) -> str:
    return service_origin(text, example=API)


class Limits(Section):
    """What the account may be asked for; unset: the figures of its plan. Zones with one plan share them."""

    requests_per_second: float | None = Field(None, gt=0)
    """Requests by prefix, host or tag, in the long run."""
    bucket_requests: int | None = Field(None, ge=1)
    """How many of them at once."""
    files_per_second: int | None = Field(None, ge=1)
    """URLs of single files."""
    batch_files: int | None = Field(None, ge=1, le=500)
    """URLs of single files in one request."""


class Settings(Section):
    """Zones of one plan in a Cloudflare account. The token is in ``CLOUDFLARE_API_TOKEN``."""

    plan: PlanName = "free"
    """The plan of the zones. Zones with another plan need a target of their own."""
    zones: dict[str, str] = Field({})
    """
    Id of each zone by its domain, such as ``{ "example.com" = "023e…" }``. Empty: zones are looked up by host, for
    which the token needs the permission Zone Read.
    """
    soft: bool = False
    """
    Mark copies as stale instead of dropping them (``invalidate_cache``): Cloudflare then revalidates them.
    What would not be recognized as changed is dropped all the same.
    """
    subtree: Subtree = "prefix"
    """
    How everything below a directory is purged: by ``prefix`` (a whole host by its name), by ``tag``, which the origin
    must send, or ``none``: not at all, so that directories are refreshed file by file.
    """
    tag: str = "{path}"
    """With ``subtree = "tag"``: a directory's tag; ``{path}`` is its path, such as ``/news/``, ``{host}`` its host."""
    tag_levels: int = Field(8, ge=0, le=64)
    """With ``subtree = "tag"``: how many directories deep the origin tags; deeper ones are purged with the last."""
    settles_after_seconds: float = Field(5, ge=0, le=600)
    """When a purge counts as done after it was accepted: Cloudflare calls it instant, and reports nothing more."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] = API
    """Where the API is: scheme, host and port. Plain http is for emulators and tests."""
    environment_prefix: str = Field("CLOUDFLARE", pattern=r"^[A-Z][A-Z0-9_]*$")
    """First part of the variable that holds the token, ``…_API_TOKEN``: another one for a second account."""
    limits: Limits = Limits()
    """Requests to keep to; those of the plan by default."""
    connect_seconds: float = Field(5, gt=0, le=60)
    """For a connection, with its name look-up and TLS."""
    answer_seconds: float = Field(30, gt=0, le=300)
    """For one call."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, table: Any) -> Any:
        """Say where the token belongs, instead of rejecting it as an unknown setting."""
        if isinstance(table, dict) and SECRETS.intersection(table):
            raise ValueError("a token never stands in a configuration: set CLOUDFLARE_API_TOKEN in the environment")
        return table

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        for domain, zone in self.zones.items():
            if not _DOMAIN.fullmatch(domain):
                raise ValueError(f"zones: {domain!r} is no domain in lower case")
            if not _ZONE_ID.fullmatch(zone):
                raise ValueError(f"zones: the id of {domain} is not 32 hexadecimal digits; the zone's overview has it")
        if "{path}" not in self.tag or not _TAG.fullmatch(self.tag):
            raise ValueError("tag: must have {path}, and only printable ASCII characters without blanks and commas")
        if "{" in self.tag.replace("{path}", "").replace("{host}", ""):
            raise ValueError("tag: only {path} and {host} can be filled in")
        return self

    @property
    def variable(self) -> str:
        """Return the variable that holds the token."""
        return f"{self.environment_prefix}_API_TOKEN"

    @property
    def allowed(self) -> Plan:
        """Return the limits to keep to."""
        given = {name: value for name, value in self.limits if value is not None}
        return PLANS[self.plan]._replace(**given)


def read_token(settings: Settings, environment: Mapping[str, str]) -> str:
    """Return the token. Raise :class:`~listener.errors.ConfigurationError` where there is none."""
    name = settings.variable
    if token := read_credential(name, environment):
        return token
    raise ConfigurationError(f"no token: {name} not set or empty", hint=f"set it, or {variants_of(name)}")
