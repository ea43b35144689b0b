"""What a configuration may say of a target of type ``http-purge``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from listener.egress import service_origin
from listener.settings import Section

__all__ = ["Preset", "Settings", "Subtree"]

Preset = Literal["varnish", "nginx", "squid", "trafficserver", "custom"]
Subtree = Literal["ban", "xkey", "none"]
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})


def _server(text: str) -> str:
    return service_origin(text, example="http://10.0.0.5:6081")


Server = Annotated[str, AfterValidator(_server)]
Token = Annotated[str, Field(pattern=_NAME.pattern.join("^$"))]


class Settings(Section):
    """Caches with the same content: each purge goes to each of them."""

    servers: list[Server] = Field(min_length=1)
    """Address of each cache: scheme, host and port, such as ``http://10.0.0.5:6081``."""
    preset: Preset = "varnish"
    """
    What they are. It decides which request purges a URL and which answers mean that it was purged: ``varnish``,
    ``squid`` and ``trafficserver`` get ``PURGE`` on the URL itself, ``nginx`` on a purge location; for ``custom`` the
    settings below decide.
    """
    method: Token | Literal[""] = ""
    """Method of a purge; empty: ``PURGE``."""
    path: str = Field("", pattern=r"^(/[^{}\s]*\{path\}[^{}\s]*|\{path\}[^{}\s]*)?$")
    """
    Where a purge is sent: ``{path}`` stands for the path and the query of the URL. Empty: ``/purge{path}`` with nginx,
    else ``{path}``.
    """
    host: str = Field("", pattern=r"^[A-Za-z0-9.:\[\]_-]*$")
    """
    The ``Host`` by which the caches know the content, where it is not that of the URL: a CDN before them may fetch by
    the name of the origin. Empty: that of the URL.
    """
    headers: dict[str, SecretStr] = Field({})
    """Headers of every request, such as a password that the caches demand."""
    soft: bool = False
    """
    Mark files as stale instead of dropping them: the next visitor gets the old copy once more while the cache fetches
    the new one. What would not be recognized as changed is dropped all the same. Needs ``varnish`` or ``custom``.
    """
    soft_header: Token = "X-Soft"
    """Header that requests it, with the value ``1``."""
    subtree: Subtree | None = None
    """
    How everything below a directory is purged: ``ban`` by a request with a prefix, ``xkey`` by one with the directory
    as surrogate key, ``none``: not at all, so that directories are refreshed file by file. Default: ``ban`` with
    Varnish, else ``none``.
    """
    ban_method: Token = "BAN"
    """Method of a ban."""
    ban_header: Token = "X-Ban-Prefix"
    """Header of a ban: a regular expression of the path, to be matched at its start."""
    xkey_method: Token = "PURGEKEYS"
    """Method of a purge by key."""
    xkey_header: Token = "xkey"
    """Header of a purge by key: host and path of the directory, such as ``www.example.com/news/``."""
    done: list[int] = Field([])
    """With ``custom``: the HTTP statuses that mean that a URL is not cached any more; empty: 200, 204 and 404."""
    connections: int = Field(4, ge=1, le=64)
    """Connections to each cache, each with one purge at a time."""
    connect_seconds: float = Field(3, gt=0, le=60)
    """For a connection."""
    answer_seconds: float = Field(10, gt=0, le=60)
    """For one purge."""

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if len(set(self.servers)) < len(self.servers):
            raise ValueError("servers: one is named twice")
        for name in self.headers:
            if not _NAME.fullmatch(name):
                raise ValueError(f"headers: {name!r} is no name of a header")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"headers: {name} is set for each request; remove it (see `host`)")
        for name, value in self.headers.items():
            if not value.get_secret_value().isprintable():
                raise ValueError(f"headers: the value of {name} has a character that no header may have")
        if self.preset not in ("varnish", "custom"):
            self._refuse({"soft": self.soft, "subtree": self.subtree not in (None, "none")})
        if self.done and self.preset != "custom":
            raise ValueError("done: only with preset = 'custom'; the other presets know what their answers mean")
        if any(not 200 <= status <= 599 for status in self.done):
            raise ValueError("done: an HTTP status is from 200 to 599")
        return self

    def _refuse(self, given: dict[str, Any]) -> None:
        for name, is_set in given.items():
            if is_set:
                raise ValueError(f"{name}: {self.preset} cannot do that; set preset = 'custom' if yours can")

    @property
    def subtree_by(self) -> Subtree:
        """Return how directories are purged."""
        return self.subtree or ("ban" if self.preset == "varnish" else "none")
