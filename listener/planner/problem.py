"""What a cover is chosen from and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from listener.planner.prices import Prices

__all__ = ["Bill", "Cover", "Tree"]


@dataclass(frozen=True, slots=True)
class Tree:
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

    tree: Tree
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
