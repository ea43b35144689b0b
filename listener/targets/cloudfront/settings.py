"""What a configuration may say of a target of type ``cloudfront``."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from listener.egress import service_origin
from listener.settings import Section
from listener.targets.cloudfront.prices import (
    MOST_PATHS_IN_PROGRESS,
    MOST_WILDCARDS_IN_PROGRESS,
    PATHS_PER_SECOND,
    WILDCARDS_PER_SECOND,
)

__all__ = ["KEY_SECONDS", "Limits", "Settings"]

API = "https://cloudfront.amazonaws.com"
KEY_SECONDS = 30.0
"""For the key, which a role's service may have to give."""
SECRETS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})


def _endpoint(text: str) -> str:
    return service_origin(text, example=API)


class Limits(Section):
    """What CloudFront takes at once."""

    form: Literal["rate", "in-progress"] = "rate"
    """
    By ``rate`` for a whole AWS account, as AWS publishes it since 2026; or by what is ``in-progress`` at a
    distribution, as before, and in the China regions.
    """
    paths_per_second: int = Field(PATHS_PER_SECOND, ge=1)
    """With ``rate``: paths; a request has no more of them."""
    wildcards_per_second: float = Field(WILDCARDS_PER_SECOND, gt=0)
    """With ``rate``: paths that end with ``*``."""
    paths_in_progress: int = Field(MOST_PATHS_IN_PROGRESS, ge=1)
    """With ``in-progress``: paths without ``*`` at the end."""
    wildcards_in_progress: int = Field(MOST_WILDCARDS_IN_PROGRESS, ge=1)
    """With ``in-progress``: paths that end with ``*``."""


class Settings(Section):
    """One distribution of CloudFront. The access key comes from AWS's own chain (``AWS_ACCESS_KEY_ID``, roles, …)."""

    distribution: str = Field(pattern=r"^[A-Z0-9]{2,64}$")
    """Id of the distribution, such as ``EDFDVBD6EXAMPLE``; a path is dropped on all its hosts."""
    monthly_dollars: float = Field(0, ge=0, le=1_000_000)
    """
    What the account may spend on paths in a calendar month (UTC), beyond the 1,000 that are free: $0.005 each. 0 never
    pays: what is stale then waits for the next month. Set it alike for all distributions of an account.
    """
    account: str = Field("aws", min_length=1)
    """Distributions of one AWS account share its free paths: give their targets the same name, and others another."""
    profile: str = ""
    """Profile of AWS's own configuration files whose key or role is used; empty: AWS's chain."""
    limits: Limits = Limits()
    """What may be sent at once."""
    endpoint_url: Annotated[str, AfterValidator(_endpoint)] = API
    """
    Where the API is: scheme, host and port; ``https://cloudfront.cn-northwest-1.amazonaws.com.cn`` in China. Plain http
    is for emulators and tests.
    """
    connect_seconds: float = Field(5, gt=0, le=60)
    """For a connection, with its name look-up and TLS."""
    answer_seconds: float = Field(30, gt=0, le=300)
    """For one call."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, table: Any) -> Any:
        """Say where the key belongs, instead of rejecting it as an unknown setting."""
        if isinstance(table, dict) and (found := SECRETS.intersection(table)):
            names = ", ".join(name.upper() for name in sorted(found))
            raise ValueError(f"a key never stands in a configuration: set {names} in the environment instead")
        return table

    @property
    def region(self) -> str:
        """Return the region that calls are signed for: there is one in each part of AWS."""
        is_china = (urlsplit(self.endpoint_url).hostname or "").endswith(".amazonaws.com.cn")
        return "cn-northwest-1" if is_china else "us-east-1"
