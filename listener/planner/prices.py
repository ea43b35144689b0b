"""Rising prices of the units of an allowance, and what files and directories cost together at the prices of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Currency", "Prices", "Tariff"]


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

    def cost(self, tokens: float) -> float:
        """Return what this many tokens cost together; infinite past the last step."""
        total, rest = 0.0, float(tokens)
        for size, price in self.steps:
            if rest <= 0:
                return total
            total += min(size, rest) * price
            rest -= size
        return total if rest <= 0 else math.inf

    def after(self, tokens: float) -> Prices:
        """Return the prices of what is left once this many tokens, the cheapest, are gone."""
        rest, steps = float(tokens), []
        for size, price in self.steps:
            gone = min(size, rest)
            rest -= gone
            if size > gone:
                steps.append((size - gone, price))
        return Prices(steps)

    def parted(self, units: int) -> Prices:
        """Return the prices of units of which each token is so many."""
        return self if units == 1 else Prices([(tokens * units, price / units) for tokens, price in self.steps])

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


class Currency(NamedTuple):
    """The units of one allowance: what they cost, and how many of them a refresh takes."""

    prices: Prices
    file: int = 0
    directory: int = 0


@dataclass(frozen=True, slots=True)
class Tariff:
    """
    What files and directories cost together, in all currencies; a kind that takes units of none is free.

    A file need may wait instead, for ``waiting``; it does where its units would cost more. The total is convex, and
    never falls with the number of either.
    """

    currencies: Sequence[Currency]
    waiting: float = math.inf
    """What leaving one file need costs; infinite where none may wait."""

    def cost(self, files: int, directories: int) -> float:
        """Return the least that so many file needs and directory refreshes cost; infinite where units are lacking."""
        sent = self.sent(files, directories)
        if sent < 0:
            return math.inf
        total = sum(self._cost(one, sent, directories) for one in self.currencies if one.file)
        if files > sent:
            total += (files - sent) * self.waiting
        return total + sum(one.prices.cost(one.directory * directories) for one in self.currencies if not one.file)

    @staticmethod
    def _cost(one: Currency, files: int, directories: int) -> float:
        return one.prices.cost(one.file * files + one.directory * directories)

    def sent(self, files: int, directories: int) -> int:
        """Return how many file needs are sent when the rest may wait; negative where directories lack units."""
        most: float = files
        for one in self.currencies:
            if one.file:
                most = min(most, _fitting(one.prices.limit - one.directory * directories, one.file))
        if most <= 0 or self._is_cheap(int(most), directories):
            return int(most)
        low, high = 0, int(most) - 1  # sent at a price below waiting, and the most that may be
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._is_cheap(middle, directories) else (low, middle - 1)
        return low

    def _is_cheap(self, files: int, directories: int) -> bool:
        """Return whether the last of so many files costs no more than waiting would."""
        paid = [one for one in self.currencies if one.file]
        if sum(one.file * one.prices.highest for one in paid if one.prices.steps) <= self.waiting:
            return True
        last = sum(self._cost(one, files, directories) - self._cost(one, files - 1, directories) for one in paid)
        return last <= self.waiting

    def after(self, files: int) -> Tariff:
        """Return the tariff of what is left once this many files are sent."""
        return Tariff(
            [one._replace(prices=one.prices.after(one.file * files)) for one in self.currencies], self.waiting
        )

    def at(self, prices: Sequence[float]) -> tuple[float, float]:
        """Return what a file and a directory cost where each currency's units have one price."""
        pairs = list(zip(self.currencies, prices, strict=True))
        file = sum(one.file * price for one, price in pairs if one.file)
        directory = sum(one.directory * price for one, price in pairs if one.directory)
        return min(self.waiting, file), directory

    @property
    def file_price(self) -> float:
        """What the next file costs, or leaving it."""
        return self.at([one.prices.lowest for one in self.currencies])[0]

    @property
    def directory_price(self) -> float:
        """What the next directory costs; infinite without units."""
        return self.at([one.prices.lowest for one in self.currencies])[1]

    @property
    def most_directories(self) -> float:
        """How many directories there are units for."""
        most = (_fitting(one.prices.limit, one.directory) for one in self.currencies if one.directory)
        return min(most, default=math.inf)


def _fitting(units: float, each: int) -> float:
    return units if math.isinf(units) else units // each
