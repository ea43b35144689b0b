"""The plain cover: again and again refresh whole whichever directory saves file tokens most cheaply."""

from __future__ import annotations

import heapq
import math

from listener.planner.costs import Bill, Cover

__all__ = ["greedy_cover"]


def greedy_cover(bill: Bill) -> Cover:
    """Return the cheapest cover met on the way from files alone to the widest directories."""
    return _Greedy(bill).run()


class _Greedy:
    """What each directory with all below costs at present, and a heap of directories by cost of a token saved."""

    def __init__(self, bill: Bill) -> None:
        tree = bill.tree
        self.bill = bill
        self.files = list(tree.files)
        self.cost = list(tree.penalties)
        self.directories = [0] * len(self.files)
        self.latest = [math.inf] * len(self.files)
        self.closed = [False] * len(self.files)
        self.children: list[list[int]] = [[] for _ in self.files]
        for v in range(len(self.files) - 1, -1, -1):
            parent = tree.parents[v]
            if parent >= 0:
                self.files[parent] += self.files[v]
                self.cost[parent] += self.cost[v]
                self.children[parent].append(v)
        roots = [v for v, parent in enumerate(tree.parents) if parent < 0]
        self.sums = [sum(self.directories), sum(self.files[v] for v in roots), sum(self.cost[v] for v in roots)]

    def run(self) -> Cover:
        """Refresh directories whole one after the other; keep the cheapest state."""
        heap = [item for v in range(len(self.files)) if (item := self._item(v))]
        heapq.heapify(heap)
        taken: list[int] = []
        best, best_length = self._total(), 0
        while heap:
            item = heapq.heappop(heap)
            v = item[1]
            if self.closed[v] or self.latest[v] != item[0]:
                continue
            taken.append(v)
            for above in self._take(v):
                if not self.closed[above] and (again := self._item(above)):
                    heapq.heappush(heap, again)
            total = self._total()
            if total < best:
                best, best_length = total, len(taken)
        return self._cover(taken[:best_length])

    def _total(self) -> tuple[float, int, int]:
        directories, files, cost = self.sums
        return self.bill.total(int(directories), int(files), cost)

    def _item(self, v: int) -> tuple[float, int] | None:
        """Return the collateral that refreshing ``v`` whole adds for each file token that it saves."""
        collateral = self.bill.tree.collateral[v]
        if math.isinf(collateral):
            return None
        added = collateral - self.cost[v]
        saved = self.files[v] + max(0, self.directories[v] - 1)
        if added > 0 and not saved:
            self.latest[v] = math.inf
            return None
        self.latest[v] = added / saved if added > 0 else added
        return self.latest[v], v

    def _take(self, v: int) -> list[int]:
        """Refresh ``v`` whole; return the directories above it."""
        delta = (1 - self.directories[v], -self.files[v], self.bill.tree.collateral[v] - self.cost[v])
        stack = [v]
        while stack:
            below = stack.pop()
            self.closed[below] = True
            stack.extend(child for child in self.children[below] if not self.closed[child])
        self.sums = [old + change for old, change in zip(self.sums, delta, strict=True)]
        above, path = v, []
        while above >= 0:
            self.directories[above] += int(delta[0])
            self.files[above] += int(delta[1])
            self.cost[above] += delta[2]
            path.append(above)
            above = self.bill.tree.parents[above]
        return path[1:]

    def _cover(self, taken: list[int]) -> Cover:
        chosen = [False] * len(self.files)
        for v in taken:
            chosen[v] = True
        return self.bill.cover(chosen)
