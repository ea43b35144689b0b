"""Which attempts go into one request: pure grouping and splitting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from listener.contracts import KindLimits
from listener.refresh import Attempt, Priority, RefreshKind

__all__ = ["Batch", "host_of", "into_batches", "split"]


FEW = 50


class Batch(NamedTuple):
    """Attempts that one request can carry: of one target, kind and force."""

    target: str
    kind: RefreshKind
    force: bool
    attempts: tuple[Attempt, ...]
    priority: Priority = Priority.LIVE
    """Whether all others go first."""

    @property
    def ids(self) -> list[int]:
        """Return the attempts' ids."""
        return [attempt.id for attempt in self.attempts]

    @property
    def urls(self) -> list[str]:
        """Return the attempts' URLs."""
        return [attempt.url for attempt in self.attempts]

    def of(self, attempts: Iterable[Attempt]) -> Batch:
        """Return a batch of the same request with only these attempts."""
        return self._replace(attempts=tuple(attempts))


def host_of(url: str) -> str:
    """Return the host of a URL, with its port where it has one: what a CDN calls its domain."""
    return urlsplit(url).netloc


def into_batches(attempts: Sequence[Attempt], limits: KindLimits, *, most: int | None = None) -> Iterator[Batch]:
    """
    Yield batches of attempts of one target, kind and force, in their order.

    A host with many of them gets batches of its own: it neither waits for the limits of another
    host nor is refused for one. Hosts with few share.

    Args:
        attempts: what is to be sent.
        limits: what one request may hold.
        most: a lower bound on URLs in one request than the limits', if any.
    """
    by_host: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_host.setdefault(host_of(attempt.url), []).append(attempt)
    few = [attempt for group in by_host.values() if len(group) < FEW for attempt in group]
    for group in (few, *(group for group in by_host.values() if len(group) >= FEW)):
        yield from _filled(group, limits, most)


def _filled(attempts: Sequence[Attempt], limits: KindLimits, most: int | None) -> Iterator[Batch]:
    urls_limit = min(limits.batch_urls, most or limits.batch_urls)
    part: list[Attempt] = []
    hosts: set[str] = set()
    size = 0
    for attempt in attempts:
        host = host_of(attempt.url)
        length = len(quote(attempt.url, safe="")) + 3
        full = len(part) >= urls_limit or (host not in hosts and len(hosts) >= limits.batch_domains)
        if part and (full or (limits.batch_bytes is not None and size + length > limits.batch_bytes)):
            yield _batch(part)
            part, hosts, size = [], set(), 0
        part.append(attempt)
        hosts.add(host)
        size += length
    if part:
        yield _batch(part)


def _batch(attempts: Sequence[Attempt]) -> Batch:
    first = attempts[0]
    return Batch(first.target, first.kind, first.force, tuple(attempts))


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Return the two halves of a batch of at least two."""
    middle = len(batch.attempts) // 2
    return batch.of(batch.attempts[:middle]), batch.of(batch.attempts[middle:])
