"""What tokens cost: convex step prices, of which the first tokens are never dearer than the later ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["Prices", "free_then"]


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
