"""Place runs on nodes: no GPU idles while a waiting run fits, and a run that no node can hold is refused by name.

    placement = Placement(nodes, {"a": Resources(gpus=2, gpu_bytes=20 * 2**30), "b": Resources(gpus=1)})
    for place in placement.start(): ...     # all that fit now
    placement.end("a")                      # its GPUs are free again, and start() gives them to the next

Runs that take most GPUs come first, equal ones in their order, and each goes where it fits tightest; the same input
gives the same places. A sweep on Ray places with it what fits on what is free at the moment;
`scripts/benchmarks/placement.py` simulates thousands of runs.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.errors import SetupError
from bench.sweeps.resources import Need, Node, Resources, why_none_holds

# Runs that are named in a refusal.
MOST_NAMED = 5
# Of a node whose GPUs' memory is unknown.
UNLIMITED = 2**62


@dataclass(frozen=True, kw_only=True)
class Share:
    """A run's part of a node. gpus: numbers of the devices that are its own, from 0."""

    node: str
    gpus: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The places of a run: a share for each of its nodes, the first of them the one with rank zero."""

    run: str
    shares: tuple[Share, ...]


def refusals(nodes: Sequence[Node], runs: Mapping[str, Resources]) -> list[str]:
    """Return a sentence for each need that the nodes can't hold even when all are empty, with the names of its runs."""
    by_need: dict[Need, list[str]] = {}
    for name, asked in runs.items():
        by_need.setdefault(Need.of(asked), []).append(name)
    said = []
    for names in (by_need[need] for need in unheld(nodes, by_need)):
        why = why_none_holds(runs[names[0]], nodes)
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        source = f" ({runs[names[0]].source})" if runs[names[0]].source else ""
        said.append(f"{', '.join(names[:MOST_NAMED])}{more}: {why}{source}")
    return said


def unheld(nodes: Sequence[Node], needs: Iterable[Need]) -> list[Need]:
    """Return the needs that too few of the nodes can hold, even when all are empty."""
    known = list(needs)
    holding = (_rooms(nodes) >= _table([need.row for need in known])[:, None]).all(axis=2).sum(axis=1)
    return [need for need, number in zip(known, holding.tolist(), strict=True) if number < need.nodes]


class Placement:
    """Runs that wait, and nodes with what is free of them.

    Runs with equal needs are one kind. For each kind and node it is known whether the node has room for a run of that
    kind now; only nodes that gave something, or got it back, are looked at again.
    """

    def __init__(self, nodes: Sequence[Node], runs: Mapping[str, Resources], *, are_empty: bool = True) -> None:
        """Raise SetupError, before anything starts, with the name of each run that the nodes can't hold.

        are_empty: False where the nodes are what is free of them now, on which a run may have to wait.
        """
        if len({node.name for node in nodes}) < len(nodes):
            raise SetupError("two nodes have the same name; each needs its own")
        if are_empty and (said := refusals(nodes, runs)):
            raise SetupError("\n".join([*said, "nothing was started"]))
        self._need = {name: Need.of(asked) for name, asked in runs.items()}
        self._order = {name: number for number, name in enumerate(runs)}
        self._kinds = sorted(
            set(self._need.values()), key=lambda need: (need.size, need.nodes, need.cpus), reverse=True
        )
        # Kinds of one size have one number, in which the order of the runs decides.
        sizes = [need.size for need in self._kinds]
        self._rank = np.array(
            [0, *np.cumsum([one != other for one, other in itertools.pairwise(sizes)])], dtype=np.int64
        )
        self._kind_of = {need: kind for kind, need in enumerate(self._kinds)}
        self._waiting: list[deque[str]] = [deque() for _ in self._kinds]
        for name, need in self._need.items():
            self._waiting[self._kind_of[need]].append(name)
        self._placed: dict[str, Place] = {}
        self._names = [node.name for node in nodes]
        self._devices = {node.name: list(range(node.gpus)) for node in nodes}
        # [4, kinds] and [nodes, 4]: GPUs, bytes of a GPU, bytes of the host, cores.
        self._asked = _table([need.row for need in self._kinds]).T.copy()
        self._free = _rooms(nodes)
        self._num_nodes = np.array([need.nodes for need in self._kinds], dtype=np.int64)
        self._num_waiting = np.array([len(names) for names in self._waiting], dtype=np.int64)
        self._has_room = np.zeros((len(nodes), len(self._kinds)), dtype=bool)
        self._num_rooms = np.zeros(len(self._kinds), dtype=np.int64)
        self._look_again(range(len(nodes)))

    @property
    def is_done(self) -> bool:
        """Return whether nothing waits and nothing runs."""
        return not self._placed and not self._num_waiting.any()

    def start(self) -> list[Place]:
        """Return the places of all waiting runs that fit now; what is left waiting fits nowhere."""
        places: list[Place] = []
        while True:
            ready = np.flatnonzero((self._num_rooms >= self._num_nodes) & (self._num_waiting > 0))
            if not len(ready):
                return places
            places.append(self._start(self._first(ready)))

    def _first(self, ready: npt.NDArray[np.int64]) -> int:
        """Return the kind that comes next: the largest; of equal sizes that of the earliest run."""
        ranks = self._rank[ready]
        equal = ready[: np.searchsorted(ranks, ranks[0], side="right")].tolist()
        return int(min(equal, key=lambda kind: self._order[self._waiting[kind][0]]))

    def _start(self, kind: int) -> Place:
        need, rooms = self._kinds[kind], np.flatnonzero(self._has_room[:, kind])
        # The tightest: the fewest free GPUs, of the least memory, then the least memory and cores; then the first.
        free = self._free[rooms]
        chosen = rooms[np.lexsort((rooms, free[:, 3], free[:, 2], free[:, 1], free[:, 0]))][: need.nodes]
        shares = []
        for number in chosen:
            devices = self._devices[self._names[number]]
            shares.append(Share(node=self._names[number], gpus=tuple(devices[: need.gpus])))
            del devices[: need.gpus]
        self._free[chosen] -= _taken(need)
        self._num_waiting[kind] -= 1
        place = Place(run=self._waiting[kind].popleft(), shares=tuple(shares))
        self._placed[place.run] = place
        self._look_again(chosen.tolist())
        return place

    def end(self, run: str, *, again: bool = False) -> None:
        """Give back what a run has taken. again: it has no result, and is the next of its kind that gets a place."""
        place, need = self._placed.pop(run), self._need[run]
        for share in place.shares:
            self._devices[share.node] = sorted([*self._devices[share.node], *share.gpus])
        numbers = [self._names.index(share.node) for share in place.shares]
        self._free[numbers] += _taken(need)
        if again:
            kind = self._kind_of[need]
            self._waiting[kind].appendleft(run)
            self._num_waiting[kind] += 1
        self._look_again(numbers)

    def _look_again(self, numbers: Iterable[int]) -> None:
        """Note for each kind whether these nodes have room for it."""
        for number in numbers:
            gpus, gpu_bytes, host_bytes, cpus = self._free[number]
            # The rarest room first. One comparison of all four would be several times slower.
            now = self._asked[0] <= gpus
            now &= self._asked[1] <= gpu_bytes
            now &= self._asked[2] <= host_bytes
            now &= self._asked[3] <= cpus
            self._num_rooms += now
            self._num_rooms -= self._has_room[number]
            self._has_room[number] = now


def _rooms(nodes: Sequence[Node]) -> npt.NDArray[np.int64]:
    """Return what is free of empty nodes, in the order of the tables."""
    return _table(
        [
            (node.gpus, UNLIMITED if node.gpu_bytes is None else node.gpu_bytes, node.host_bytes, node.cpus)
            for node in nodes
        ]
    )


def _table(rows: list[tuple[int, int, int, int]]) -> npt.NDArray[np.int64]:
    # More than all that there is would not fit into 64 bits.
    return np.array([[min(size, UNLIMITED) for size in row] for row in rows], dtype=np.int64).reshape(-1, 4)


def _taken(need: Need) -> npt.NDArray[np.int64]:
    """Return what a run takes of a node. GPUs are its own alone, and the memory of those that are left is the same."""
    return np.array([need.gpus, 0, need.host_bytes, need.cpus], dtype=np.int64)
