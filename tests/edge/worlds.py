"""Worlds of one object, its origin and a cache, of which the truth is known, to compare verdicts with."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5

from hypothesis import strategies as st

from listener.change import Fingerprint
from listener.edge.answers import read_answer
from listener.edge.verdict import Expected, Verdict, judge

__all__ = ["World", "worlds"]

START = 1_700_000_000.0


@dataclass(frozen=True)
class Version:
    """The object from one change until the next."""

    at: float
    size_bytes: int | None
    """None: it is deleted, or was never there."""
    content: str = ""

    @property
    def digest(self) -> str:
        return md5(self.content.encode(), usedforsecurity=False).hexdigest()


@dataclass
class World:
    """One answer, what it was made from, and what the storage holds."""

    versions: list[Version]
    served: Version
    now: float
    is_bucket: bool
    status: int
    answers_all: bool
    headers: dict[str, str] = field(default_factory=dict)
    matched: str = ""

    @property
    def last(self) -> Version:
        return self.versions[-1]

    @property
    def truth(self) -> str:
        """Whether the cache serves what the origin should serve now."""
        is_absent = self.served.size_bytes is None and self.last.size_bytes is None
        return "fresh" if self.served is self.last or is_absent else "stale"

    def allowed(self) -> set[str]:
        return {"unknown"} if self.status in (301, 403, 503) else {"unknown", self.truth}

    def judged(self) -> Verdict:
        """Return the verdict of the product."""
        last = self.last
        tag = last.digest if self.is_bucket and last.size_bytes is not None else None
        held = None if last.size_bytes is None else Fingerprint(last.size_bytes, int(last.at * 1e9), etag=tag)
        expected = Expected(held, is_deleted=held is None, changed_at=last.at)
        return judge(expected, read_answer(self.status, self.headers.items(), matched=self.matched), now=self.now)

    @classmethod
    def drawn(cls, seed: int) -> World:
        """Return the world of this number."""
        chance = random.Random(seed)
        has_age, lag = chance.random() < 0.7, chance.choice([0.0, 0.0, chance.uniform(0, 20)])
        versions = _versions(chance, least_gap=0.05 if has_age and not lag else 1.5)
        now = versions[-1].at + chance.choice([0.3, 5, 60, 4000, 400_000]) * chance.uniform(0.5, 1.5)
        fetched = now if chance.random() < 0.2 else chance.uniform(versions[0].at, now)
        if chance.random() < 0.4:  # as a refresh leaves it: fetched soon after the last change
            fetched = min(now, versions[-1].at + chance.uniform(0, 10))
        served = max((one for one in versions if one.at <= fetched - lag), key=lambda one: one.at, default=versions[0])
        world = cls(versions, served, now, chance.random() < 0.5, 200, answers_all=chance.random() < 0.2)
        world._answer(chance, fetched=fetched, has_age=has_age)
        return world

    def _answer(self, chance: random.Random, *, fetched: float, has_age: bool) -> None:
        if has_age:
            self.headers["Age"] = str(int(self.now - fetched))
        self.headers["Date"] = formatdate(fetched if chance.random() < 0.5 else self.now, usegmt=True)
        if chance.random() < 0.3:
            self.headers["X-Cache"] = "MISS" if fetched == self.now else "HIT"
        if chance.random() < 0.1:
            self.headers["Vary"] = "Accept-Encoding, Cookie"
        if chance.random() < 0.05:
            self.status = chance.choice([301, 403, 503])
        elif self.served.size_bytes is None:
            self._absent(chance)
        else:
            self._content(chance, self.served.size_bytes)

    def _absent(self, chance: random.Random) -> None:
        self.status = chance.choice([404, 410])
        if self.answers_all and self.served is self.last and "Age" in self.headers:
            self.status = 200
            self.headers["Content-Type"] = "text/html"

    def _content(self, chance: random.Random, size_bytes: int) -> None:
        headers, is_encoded = self.headers, chance.random() < 0.3
        if is_encoded:
            headers["Content-Encoding"] = chance.choice(["gzip", "br"])
        if chance.random() < 0.8:
            headers["Last-Modified"] = formatdate(int(self.served.at), usegmt=True)
        tag = self.served.digest if self.is_bucket else f"{int(self.served.at):x}-{size_bytes:x}"
        if written := _rewritten(chance, tag, is_encoded=is_encoded):
            headers["ETag"] = written
        if self.is_bucket and headers.get("ETag") == f'"{self.last.digest}"' and chance.random() < 0.5:
            self.status, self.matched = 304, self.last.digest
        elif chance.random() < 0.5:
            self.status = 206
            total = chance.randrange(999) if is_encoded else size_bytes
            headers["Content-Range"] = f"bytes 0-0/{total}"
        elif chance.random() < 0.7:
            headers["Content-Length"] = str(chance.randrange(999) if is_encoded else size_bytes)


def _versions(chance: random.Random, *, least_gap: float) -> list[Version]:
    at, found = START, [Version(START, None)]
    for number in range(chance.randint(1, 3)):
        at += least_gap + chance.choice([0.2, 3, 600, 90_000]) * chance.random()
        size_bytes = None if number and chance.random() < 0.25 else chance.choice([7, 7, 7, 8, 0])
        found.append(Version(at, size_bytes, content=f"{chance.random()}"))
    return found[chance.randrange(2) :]


def _rewritten(chance: random.Random, tag: str, *, is_encoded: bool) -> str:
    """Return the tag as a cache passes it on, in one of the ways that are seen; empty where it drops it."""
    if not is_encoded:
        return chance.choice([f'"{tag}"', f'"{tag}"', f'W/"{tag}"', f'"edge-{tag[:5]}"', tag, ""])
    foreign = md5(tag.encode(), usedforsecurity=False).hexdigest()
    suffixed = f'"{tag}{chance.choice(["-gzip", "--gzip", ";gzip", "-br"])}"'
    return chance.choice([f'W/"{tag}"', suffixed, f"W/{suffixed}", f'"{foreign}"', ""])


def worlds() -> st.SearchStrategy[World]:
    """Return any of them."""
    return st.integers(0, 2**40).map(World.drawn)
