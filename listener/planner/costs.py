"""What a cover is chosen from, and what it costs: directories, file tokens and their prices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Bill", "Cover", "CoverTree", "Prices", "free_then"]


class Prices:
    """
    What the next tokens of one currency cost, in steps of rising price.

    A step is ``(tokens, price of each)``; past the last step there are no tokens. Rising prices
    make the total convex, which lets one price stand for the whole scale in a bound.
    """

    __slots__ = ("limit", "steps")

    def __init__(self, steps: Iterable[tuple[float, float]]) -> None:
        """Keep the steps; raise :class:`ValueError` if a price falls."""
        self.steps = [step for step in steps if step[0] > 0]
        if any(a[1] > b[1] for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("token prices must not fall from one step to the next")
        self.limit = sum(tokens for tokens, _ in self.steps)

    def cost(self, tokens: int) -> float:
        """Return what this many tokens cost together; infinite past the last step."""
        total, rest = 0.0, float(tokens)
        for size, price in self.steps:
            if rest <= 0:
                return total
            total += min(size, rest) * price
            rest -= size
        return total if rest <= 0 else math.inf

    def after(self, tokens: int) -> Prices:
        """Return the prices of what is left once this many tokens, the cheapest, are gone."""
        rest, steps = float(tokens), []
        for size, price in self.steps:
            gone = min(size, rest)
            rest -= gone
            if size > gone:
                steps.append((size - gone, price))
        return Prices(steps)

    def conjugate(self, price: float) -> float:
        """Return the most that could be gained by selling tokens at ``price``."""
        return sum(size * (price - own) for size, own in self.steps if own < price)

    def supply(self, price: float) -> float:
        """Return how many tokens are cheaper than ``price``."""
        return sum(size for size, own in self.steps if own < price)

    @property
    def lowest(self) -> float:
        """What the first token costs; infinite without tokens."""
        return self.steps[0][1] if self.steps else math.inf

    @property
    def highest(self) -> float:
        """What the last token costs; infinite without tokens."""
        return self.steps[-1][1] if self.steps else math.inf


def free_then(tokens: float, price: float) -> Prices:
    """Return prices by which ``tokens`` are free and any further one costs ``price``."""
    return Prices([(tokens, 0.0), (math.inf, price)])


@dataclass(frozen=True, slots=True)
class CoverTree:
    """Parallel lists over directories, parents (-1: none) before children."""

    parents: Sequence[int]
    files: Sequence[int]
    """File tokens that a directory's own due needs cost."""
    penalties: Sequence[float]
    """What leaving a directory's own needs that file tokens cannot heal costs."""
    collateral: Sequence[float]
    """What a refresh of the directory evicts; infinite where it may not be refreshed."""


class Cover(NamedTuple):
    """A set of directories, none inside another; whatever is not below one of them is left to files."""

    cost: float
    directories: list[int]
    files: int
    """File tokens that all the rest takes."""
    gap: float = 0.0
    """By how much the cost may exceed the least possible."""


class Bill(NamedTuple):
    """The tree with its prices."""

    tree: CoverTree
    file_prices: Prices
    directory_prices: Prices

    def total(self, directories: int, files: int, cost: float) -> tuple[float, int, int]:
        """Return what a cover costs in all, and its tokens to break ties by."""
        cost += self.file_prices.cost(files) + self.directory_prices.cost(directories)
        return round(cost, 6), directories, files

    def cover(self, chosen: Sequence[bool]) -> Cover:
        """Return the topmost chosen directories as a cover."""
        tree, covered = self.tree, [False] * len(chosen)
        directories: list[int] = []
        files, cost = 0, 0.0
        for v, parent in enumerate(tree.parents):
            if parent >= 0 and covered[parent]:
                covered[v] = True
            elif chosen[v]:
                covered[v] = True
                directories.append(v)
                cost += tree.collateral[v]
            else:
                files += tree.files[v]
                cost += tree.penalties[v]
        return Cover(self.total(len(directories), files, cost)[0], directories, files)
