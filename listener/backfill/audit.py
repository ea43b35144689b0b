"""A listing compared with the index: what the listener does not know, knows otherwise, or knows though it is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from listener.change import Fingerprint
from listener.contracts import IndexView
from listener.sources.listing import Comparison, Drift, Listing

__all__ = ["audit"]


class _NothingKnown:
    """The index where there is no state file yet."""

    async def sequence(self) -> int:
        return 0

    async def directory(self, _root: str, _directory: str, /) -> Mapping[str, Fingerprint]:
        return {}

    async def directory_page(
        self,
        _root: str,
        _directory: str,
        _after: str | None,
        /,
        *,
        limit: int,  # noqa: ARG002
    ) -> Sequence[tuple[str, Fingerprint]]:
        return []

    async def contents(self, _root: str, _directories: Sequence[str], /) -> Mapping[str, Mapping[str, Fingerprint]]:
        return {}

    async def objects(self, _root: str, _keys: Sequence[str], /) -> Mapping[str, Fingerprint]:
        return {}

    async def directories(self, _root: str, _prefix: str = "", /) -> Sequence[str]:
        return []

    async def seeded(self, _root: str, /) -> bool:
        return False

    async def mark_seeded(self, _root: str, /) -> None:
        return


async def audit(listing: Listing, index: IndexView | None) -> Drift:
    """Compare the listing with the index, which is empty without one; nothing is changed."""
    known: Any = _NothingKnown()
    with closing(Comparison(listing, index or known)) as comparison:
        async for _ in comparison.findings():
            pass
        return comparison.drift
