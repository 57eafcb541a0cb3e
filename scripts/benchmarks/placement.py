"""Place 10,000 made-up runs on 200 nodes, and check each decision: `python scripts/benchmarks/placement.py`.

The code is that of `sweep --on ray` (`bench.sweeps.placement`); nothing is launched, and durations are drawn. Prints
the seconds that placing took, and how often a GPU idled while a waiting run would have fitted, by a check of its own
that knows only what started and ended where. Exits with 1 where that happened, where a node was given out twice, or
where placing took longer than allowed. A sweep on Ray makes a plan from nothing a few times a second, on what is free
of the nodes then: so long one takes while all runs wait.
"""

import argparse
import heapq
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.sweeps.placement import Place, Placement
from bench.sweeps.resources import Node, Resources

GIB = 2**30
ALLOWED_S = 10.0
# Of runs whose node breaks.
LOST_SHARE = 0.005
# (nodes of 200, GPUs, GiB of each, GiB of the host, cores): from a rack of H100 down to CPUs alone.
NODES = (
    (60, 8, 79.1, 1024, 96),
    (50, 4, 44.4, 256, 48),
    (60, 1, 22.0, 64, 16),
    (20, 2, 11.6, 32, 16),
    (10, 0, 0, 128, 64),
)
# Most runs take one GPU, some several, few several nodes; (share, nodes, GPUs).
SHAPES = ((0.66, 1, 1), (0.1, 1, 2), (0.1, 1, 4), (0.06, 1, 8), (0.03, 2, 8), (0.02, 4, 4), (0.03, 1, 0))


@dataclass
class Simulation:
    """A simulation. log: (run that left its place, whether it must be placed again, places) of each moment."""

    nodes: list[Node]
    runs: dict[str, Resources]
    log: list[tuple[str | None, bool, list[Place]]] = field(default_factory=list)
    placing_s: float = 0.0
    gpu_s: float = 0.0
    last_s: float = 0.0


def machines(count: int) -> list[Node]:
    """Return so many nodes, in the proportions of NODES."""
    whole = sum(row[0] for row in NODES)
    made = []
    for number in range(count):
        place, rows = number * whole // count, list(NODES)
        while place >= rows[0][0]:
            place -= rows.pop(0)[0]
        _, gpus, gib, host, cpus = rows[0]
        made.append(
            Node(name=f"node{number:03}", gpus=gpus, gpu_bytes=round(gib * GIB), host_bytes=host * GIB, cpus=cpus)
        )
    return made


def needs(count: int, kinds: int | None, draw: random.Random) -> dict[str, Resources]:
    """Return so many runs with drawn needs. kinds: how many different ones there are; None: each has its own."""
    drawn = [_need(draw) for _ in range(kinds or count)]
    return {f"run{number:05}": drawn[number % len(drawn)] for number in range(count)}


def _need(draw: random.Random) -> Resources:
    _, nodes, gpus = draw.choices(SHAPES, [share for share, _, _ in SHAPES])[0]
    # What many GPUs are taken for does not fit small ones.
    most = 78 if gpus > 4 else 44 if gpus > 2 or nodes > 1 else 70
    size = round(min(draw.lognormvariate(2.3, 0.8), most) * GIB) if gpus else 0
    host = round(draw.uniform(4, 6) * max(gpus, 1) * GIB)
    return Resources(nodes=nodes, gpus=gpus, gpu_bytes=size, host_bytes=host, cpus=4 * max(gpus, 1))


def simulate(nodes: list[Node], runs: dict[str, Resources], draw: random.Random) -> Simulation:
    """Run until nothing is left; each run takes a drawn time; some are lost, and placed once more."""
    done = Simulation(nodes=nodes, runs=runs)
    begun = time.perf_counter()
    placement = Placement(nodes, runs)
    done.placing_s += time.perf_counter() - begun
    ends: list[tuple[float, str, bool]] = []
    now_s, left, is_lost, lost = 0.0, None, False, set[str]()
    while True:
        begun = time.perf_counter()
        started = placement.start()
        done.placing_s += time.perf_counter() - begun
        done.log.append((left, is_lost, started))
        for place in started:
            length_s = draw.lognormvariate(7.0, 1.0)
            breaks = place.run not in lost and draw.random() < LOST_SHARE
            done.gpu_s += length_s * sum(len(share.gpus) for share in place.shares)
            heapq.heappush(ends, (now_s + length_s, place.run, breaks))
        if not ends:
            break
        now_s, left, is_lost = heapq.heappop(ends)
        begun = time.perf_counter()
        placement.end(left, again=is_lost)
        done.placing_s += time.perf_counter() - begun
        lost |= {left} if is_lost else set()
    assert placement.is_done
    done.last_s = now_s
    return done


@dataclass
class Verdict:
    """The findings of a check. moments: that were looked at. idle, twice: how often a rule was broken."""

    moments: int = 0
    idle: int = 0
    twice: int = 0
    never: int = 0


def check(done: Simulation, every: int) -> Verdict:
    """Follow the log in plain Python, and look at each moment for a waiting run that would have fitted.

    every: of so many moments one is looked at.
    """
    found, free = Verdict(), {node.name: [set(range(node.gpus)), node.host_bytes, node.cpus] for node in done.nodes}
    sizes = {node.name: node.gpu_bytes or 0 for node in done.nodes}
    waiting, where = Counter(done.runs.values()), dict[str, Place]()
    for moment, (left, is_lost, started) in enumerate(done.log):
        if left is not None:
            _move(free, where.pop(left), done.runs[left], 1)
            waiting[done.runs[left]] += is_lost
        for place in started:
            found.twice += not _fits(place, free, sizes, done.runs[place.run])
            _move(free, place, done.runs[place.run], -1)
            where[place.run] = place
            waiting[done.runs[place.run]] -= 1
        if moment % every == 0:
            found.moments += 1
            found.idle += _could_start(free, sizes, {need for need, count in waiting.items() if count})
    found.never = sum(map(abs, waiting.values())) + len(where)
    return found


def _fits(place: Place, free: dict[str, list], sizes: dict[str, int], need: Resources) -> bool:
    names = [share.node for share in place.shares]
    return len(set(names)) == need.nodes == len(names) and all(
        len(share.gpus) == len(set(share.gpus)) == need.gpus
        and set(share.gpus) <= free[share.node][0]
        and (not need.gpus or sizes[share.node] >= need.gpu_bytes)
        and free[share.node][1] >= need.host_bytes
        and free[share.node][2] >= need.cpus
        for share in place.shares
    )


def _move(free: dict[str, list], place: Place, need: Resources, sign: int) -> None:
    for share in place.shares:
        gpus, host, cpus = free[share.node]
        gpus = gpus | set(share.gpus) if sign > 0 else gpus - set(share.gpus)
        free[share.node] = [gpus, host + sign * need.host_bytes, cpus + sign * need.cpus]


def _could_start(free: dict[str, list], sizes: dict[str, int], asked: set[Resources]) -> int:
    """Return for how many needs that are waiting there is room now."""
    rows = [(len(gpus), sizes[name], host, cpus) for name, (gpus, host, cpus) in free.items()]
    with_gpus = [row for row in rows if row[0]]
    count = 0
    for need in asked:
        rooms = sum(
            gpus >= need.gpus and (not need.gpus or size >= need.gpu_bytes) and host >= need.host_bytes
            and cpus >= need.cpus
            for gpus, size, host, cpus in (with_gpus if need.gpus else rows)
        )  # fmt: skip
        count += rooms >= need.nodes
    return count


def plan_s(nodes: list[Node], runs: dict[str, Resources]) -> float:
    """Return how long a plan takes on what is free of these nodes, as a sweep on Ray makes it again and again."""
    begun = time.perf_counter()
    Placement(nodes, runs, are_empty=False).start()
    return time.perf_counter() - begun


def main() -> int:
    """Simulate both cases, and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=13)
    options = parser.parse_args()
    broken, cases = False, []
    for name, kinds, every in (("40 needs", 40, 1), ("each its own", None, 200)):
        draw = random.Random(options.seed)
        done = simulate(machines(options.nodes), needs(options.runs, kinds, draw), draw)
        found = check(done, every)
        gpus = sum(node.gpus for node in done.nodes)
        busy = done.gpu_s / (done.last_s * gpus)
        print(
            f"{name}: {options.runs} runs on {options.nodes} nodes with {gpus} GPUs placed in {done.placing_s:.2f} s; "
            f"idle-while-fits violations = {found.idle} at {found.moments} of {len(done.log)} moments; given out "
            f"twice: {found.twice}; never ended: {found.never}; GPUs busy {busy:.0%} of the time until the last end; "
            f"one plan from nothing {plan_s(done.nodes, done.runs):.2f} s",
            flush=True,
        )
        broken |= bool(found.idle or found.twice or found.never) or done.placing_s > ALLOWED_S
        cases.append({"case": name, "placing_s": done.placing_s, **vars(found)})
    print(json.dumps({"benchmark": "placement", "runs": options.runs, "nodes": options.nodes, "cases": cases}))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
