"""What the store reports: counts, stale URLs with reasons, history, sources, accounts and dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from listener.contracts import SourceHealth, Unreadable
from listener.store import letter_lists, letters, overview, report, staleness
from listener.store.access import Access
from listener.store.database import size_bytes
from listener.store.letters import EVERY_LETTER, DeadLetter, Dropped, LetterFilter
from listener.store.suppressed import Suppressed, suppressed_of

__all__ = ["Reports"]


class Reports(Access):
    """The store's answers for commands, JSON, metrics and the status page."""

    async def counts(self) -> report.Counts:
        """Count every need by what becomes of it next."""
        return await self._read(report.counts)

    async def history(self, *, limit: int = 50, url: str | None = None) -> list[dict[str, Any]]:
        """Return the latest attempts, newest first."""
        return await self._read(report.history, limit=limit, url=url)

    async def suppressed(self, url: str) -> Suppressed | None:
        """Return what is kept of this URL's changes for which no refresh was made; ``None`` where there were none."""
        return await self._read(suppressed_of, url)

    async def explain(self, url: str) -> list[dict[str, Any]]:
        """Return every need that makes this URL stale, those of directories above it included; see :func:`why`."""
        return await self._read(overview.why, url)

    async def sources(self) -> dict[str, dict[str, Any]]:
        """Return what each source said of itself last."""
        return await self._read(report.sources)

    async def save_source(self, name: str, health: SourceHealth) -> None:
        """Keep what a source says of itself."""
        await self._write(report.save_source, name, health, now=self.clock.now())

    async def dead_letters(self, wanted: LetterFilter = EVERY_LETTER, *, limit: int = 1_000) -> list[DeadLetter]:
        """Return what was set aside, rejected URLs first; the next page begins ``after`` the last one's id."""
        return await self._read(letter_lists.letters, wanted, limit=limit)

    async def dead_letter(self, id_: str) -> DeadLetter | None:
        """Return the dead letter of this id, if there is one."""
        return await self._read(letter_lists.letter, id_)

    async def dropped_letters(self) -> list[Dropped]:
        """Return what was dropped for lack of room, by source and kind."""
        return await self._read(letter_lists.dropped)

    async def add_dead_letters(self, source: str, messages: Sequence[Unreadable]) -> None:
        """Set messages aside that cannot be read."""
        for start in range(0, len(messages), letters.SLICE_ROWS):
            part = messages[start : start + letters.SLICE_ROWS]
            await self._write(letters.add_messages, source=source, messages=part, now=self.clock.now())

    async def retry(self, url: str | None = None) -> int:
        """Send rejected URLs once more, or one of them."""
        return await self._write(letters.retry, url=url)

    async def discard(self, subject: str | None = None) -> int:
        """Forget what was set aside, or one of it."""
        return await self._write(letters.discard, subject=subject)

    async def oldest(self) -> dict[str, float]:
        """Return by state when its oldest change was, in seconds since the epoch; see :func:`.overview.oldest`."""
        return await self._read(overview.oldest)

    async def ended(self, *, since: float) -> list[overview.Ended]:
        """Return the attempts that ended since then (seconds since the epoch), oldest first."""
        return await self._read(overview.ended, since=since)

    async def spent_by_others(self, *, now: float) -> Mapping[tuple[str, str], int]:
        """Return by account and kind what the live quota counts today beyond what was spent from here."""
        return await self._read(overview.spent_by_others, now=now)

    async def stale(
        self, given: staleness.Surroundings, *, url: str | None = None, limit: int = staleness.MOST_LISTED
    ) -> list[staleness.StaleNeed]:
        """Return the oldest of what is stale, or everything that makes one URL stale, with reasons."""
        if url is None:
            return await self._read(staleness.oldest_stale, given, limit=limit)
        return await self._read(staleness.stale_at, given, url)

    async def accounts(self) -> list[staleness.AccountReport]:
        """Return what each account's sender reported last."""
        return await self._read(staleness.accounts)

    async def save_account(self, account: staleness.AccountReport) -> None:
        """Keep what an account's sender reports."""
        await self._write(staleness.save_account, account, now=self.clock.now())

    async def size_bytes(self) -> int:
        """Return the size of the state file."""
        return await self._read(size_bytes)
