"""The smallest cut of a small network: a maximum flow by Dinic's method (1970)."""

from __future__ import annotations

from collections import deque

__all__ = ["INFINITE", "SINK", "SOURCE", "Network"]

SOURCE, SINK = 0, 1
INFINITE = 10**9  # the capacity of an edge that is never cut


class Network:
    """A directed network: nodes 0 (the source), 1 (the sink) and those of `node`; edges with whole capacities."""

    def __init__(self) -> None:
        self.edges: list[list[int]] = [[], []]  # by node; edge ^ 1 is the same edge backwards
        self.to: list[int] = []
        self.free: list[int] = []  # capacity that is left

    def node(self) -> int:
        """A new node."""
        self.edges.append([])
        return len(self.edges) - 1

    def edge(self, tail: int, head: int, capacity: int) -> None:
        """An edge from one node to another."""
        for node, target, room in ((tail, head, capacity), (head, tail, 0)):
            self.edges[node].append(len(self.to))
            self.to.append(target)
            self.free.append(room)

    def source_side(self) -> list[bool]:
        """By node, whether it lies on the source's side of the smallest cut, of several the one nearest to the source.

        It takes the flow: to be called once.
        """
        while (level := self._levels())[SINK] >= 0:
            self._fill(level)
        return [distance >= 0 for distance in level]

    def _levels(self) -> list[int]:
        """By node, the edges with free capacity on the shortest way from the source; -1 where there is no way."""
        to, free = self.to, self.free
        level = [-1] * len(self.edges)
        level[SOURCE] = 0
        waiting = deque([SOURCE])
        while waiting:
            node = waiting.popleft()
            for edge in self.edges[node]:
                if level[to[edge]] < 0 and free[edge]:
                    level[to[edge]] = level[node] + 1
                    waiting.append(to[edge])
        return level

    def _fill(self, level: list[int]) -> None:
        """Send flow along edges that lead one level on, until none gets to the sink."""
        edges, to, free = self.edges, self.to, self.free
        at = [0] * len(edges)  # the edge of each node that is tried next
        path: list[int] = []
        node = SOURCE
        while True:
            if node == SINK:
                room = min(free[edge] for edge in path)
                for edge in path:
                    free[edge] -= room
                    free[edge ^ 1] += room
                full = next(k for k, edge in enumerate(path) if not free[edge])
                node = to[path[full] ^ 1]
                del path[full:]
                continue
            own = edges[node]
            while at[node] < len(own):
                edge = own[at[node]]
                if free[edge] and level[to[edge]] == level[node] + 1:
                    break
                at[node] += 1
            if at[node] < len(own):
                path.append(edge)
                node = to[edge]
            elif path:
                node = to[path.pop() ^ 1]
                at[node] += 1
            else:
                return
