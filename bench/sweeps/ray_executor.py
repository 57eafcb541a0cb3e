"""Runs on the nodes of a Ray cluster that is up: `sweep --on ray`. Ray is imported only when it is asked for.

Each run is an actor (a `NodeAgent`) that takes the GPUs, memory and cores of its forecast, over several nodes one in
each bundle of a placement group. The actor launches the run under a supervisor, which ends it when the actor is gone.
A run whose node is lost is launched again, and goes on from its checkpoint where the sweep's folder is shared.
"""

import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

from bench import console
from bench.errors import BenchError, SetupError
from bench.sweeps import gathering, node_check, supervisor
from bench.sweeps.executors import Ended
from bench.sweeps.jobs import Job, Machine, written_at
from bench.sweeps.node_agent import NodeAgent, Place, remote_run, token_in
from bench.sweeps.resources import Need, Node, Resources, why_none_holds
from bench.utils import files

AUTO = "auto"
# A call to an actor that waits for its run comes back so often, with what the run has said.
WAIT_S = 2.0
CONNECT_S, CALL_S = 10.0, 120.0
# Runs of one kind that wait in Ray's queue, for a node to take at once.
MOST_WAITING = 8
# A run whose kind of node is gone, and does not come back, is given up after so long.
NO_NODE_S = 300.0
NODE_ID = "ray.io/node-id"


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """A node of the cluster. id: Ray's."""

    id: str
    node: Node


class RayExecutor:
    """Gives the jobs of a sweep to a Ray cluster.

    asked: a job's folder -> what it takes. jobs: how many at once; None for as many as the cluster's nodes hold.
    """

    def __init__(self, machine: Machine, out: Path, jobs: int | None) -> None:
        self._machine, self._out, self._most = machine, out, jobs
        self._asked: dict[Path, Resources] = {}
        self._nodes, self._given = list[RayNode](), list[RayExecution]()
        self._opened = contextlib.ExitStack()
        self._token = ("", "")

    def __enter__(self) -> Self:
        """Write the token by which nodes find whether they see the sweep's folder."""
        self._token = self._opened.enter_context(token_in(self._out))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the token; what actors are left end with the sweep."""
        self._opened.close()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Look at the nodes: is their software the same, do they hold each run? Raises SetupError where not."""
        from bench.sweeps import forecasts

        self._nodes = self._nodes or _checked_nodes()
        nodes = [one.node for one in self._nodes]
        self._asked = forecasts.of_jobs(jobs, self._machine, nodes)
        forecasts.refuse_too_large(jobs, self._asked, nodes)

    def take(self, waiting: list[Job], running: int) -> Job | None:
        """Take the largest job of a kind of which but few wait in Ray's queue, so that no node waits for a job."""
        if self._most is not None and running >= self._most:
            return None
        self._given = [one for one in self._given if one.is_waiting]
        queued = Counter(Need.of(one.asked) for one in self._given)
        kinds = [Need.of(self._asked[job.folder]) for job in waiting]
        open_kinds = [kind for kind in dict.fromkeys(kinds) if queued[kind] < MOST_WAITING]
        return waiting.pop(kinds.index(max(open_kinds, key=lambda kind: kind.size))) if open_kinds else None

    def start(self, job: Job) -> "RayExecution | None":
        """Ask for the run's actors; None where another process has its log, and so the run."""
        log = None
        with contextlib.suppress(OSError):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            log = files.lock_file(job.log)
        if log is None:
            return None
        log.close()
        asked = self._asked[job.folder]
        job.before = written_at(job)
        run = remote_run(job, self._machine, asked, self._token)
        self._given.append(RayExecution(job, _actors(run, asked, self._fitting(asked)), asked))
        return self._given[-1]

    def _fitting(self, asked: Resources) -> list[str] | None:
        """Return the nodes whose GPUs are large enough; None where all of them are, so that a new node is taken too."""
        fitting = [one.id for one in self._nodes if not asked.lacking(one.node)]
        small = [one for one in self._nodes if one.node.gpus and replace(asked, cpus=0, host_bytes=0).lacking(one.node)]
        return fitting if asked.gpus and small else None

    def flush(self) -> None:
        """Do nothing: Ray has each run as soon as it is started."""


# ---------------------------------------------------------------- the cluster


def _ray() -> Any:
    """Return the library, not all of whose functions have types. Raises ImportError without it."""
    import ray

    return ray


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[int]:
    """Connect to a cluster that is up, and yield the number of its GPUs. Raises SetupError where none answers."""
    # Nothing is reported to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = _ray()
    except ImportError as error:
        raise SetupError("--on ray: Ray is not installed; pip install 'finetune-bench[ray]'") from error
    at = address or os.environ.get("RAY_ADDRESS") or AUTO
    _refuse_silent(at)
    try:
        # Workers search the sweep's folder for modules, which is no place for them.
        with contextlib.chdir(files.ROOT):
            ray.init(address=at, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = _reason(error)
        raise SetupError(
            f"--on ray: no cluster at address {at!r} that this machine belongs to ({reason}); start one with `ray "
            "start --head` here and `ray start --address=HOST:6379` on each other node, and name it by --address"
        ) from error
    try:
        yield int(ray.cluster_resources().get("GPU", 0))
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raise SetupError for an address where nothing listens, which Ray would try again and again for a minute."""
    if address.startswith("ray://"):
        raise SetupError(
            f"--address {address}: that is Ray's client, through which no node of the cluster is chosen; run the sweep "
            "on a machine of the cluster, with --address HOST:6379 or without"
        )
    host, colon, port = address.rpartition(":")
    if address == AUTO or address == "local":
        if address == "local":
            raise SetupError("--address local: that would start a cluster; for this machine alone leave out --on ray")
        return
    if not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SetupError(f"--address {address}: expected HOST:PORT of a Ray cluster, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or error
        raise SetupError(
            f"--on ray: no cluster at {address} ({reason}); start one with `ray start --head --port={port}` there"
        ) from error


def _probe() -> Any:
    """Return a function that tells of a node's software; it is sent whole, since the node may lack this package."""

    def _look() -> dict[str, Any]:
        try:
            from bench.sweeps import node_check as there
        except Exception as error:
            return {"missing": f"{type(error).__name__}: {error}"}
        return {"fingerprint": there.fingerprint(), "gpu_bytes": there.gpu_bytes()}

    return _look


def _checked_nodes() -> list[RayNode]:
    """Return the cluster's nodes; on the first of them the large libraries are imported, to see whether they can be.

    Raises SetupError for nodes without the same software, naming each.
    """
    ray = _ray()

    alive = [node for node in ray.nodes() if node["Alive"]]
    looked = [_on(node["NodeID"], _probe()) for node in alive]
    wrong, nodes = [], []
    for node, reference in zip(alive, looked, strict=True):
        told, reason = _answer(reference)
        nodes.append(_node(node, told))
        differing = node_check.problems(node_check.fingerprint(), told.get("fingerprint", {}))
        if reason is not None:
            wrong.append(f"{nodes[-1].node.name} does not answer: {reason}")
        elif "missing" in told:
            wrong.append(f"{nodes[-1].node.name} has no finetune-bench ({told['missing']})")
        elif differing:
            wrong.append(f"{nodes[-1].node.name}: {'; '.join(differing)}")
    if nodes and not wrong:
        broken, reason = _answer(_on(nodes[0].id, node_check.why_not_importable))
        if broken or reason:
            wrong.append(f"{nodes[0].node.name}: the libraries can't be imported: {broken or reason}")
    if wrong:
        raise SetupError(
            "\n".join(wrong) + "\nnothing was started: install the same versions on all nodes, and start Ray from that "
            "environment"
        )
    return nodes


def _on(node: str, function: Any) -> Any:
    """Call a function on a node, whatever else is going on there."""
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(function).remote()


def _answer(reference: Any) -> tuple[Any, str | None]:
    """Return (what a call has returned, None), or ({}, why it returned nothing)."""
    ray = _ray()

    try:
        return ray.get(reference, timeout=CALL_S + node_check.IMPORT_S), None
    except Exception as error:  # of many kinds, all of which say that the node answers nothing of use
        return {}, _reason(error)


def _node(node: Mapping[str, Any], told: Mapping[str, Any]) -> RayNode:
    has = node["Resources"]
    return RayNode(
        id=node["NodeID"],
        node=Node(
            name=f"node {node['NodeName']} ({node['NodeID'][:8]})",
            gpus=int(has.get("GPU", 0)),
            gpu_bytes=told.get("gpu_bytes"),
            host_bytes=int(has.get("memory", 0)),
            cpus=int(has.get("CPU", 0)),
        ),
    )


class RayAgent(NodeAgent):
    """A `NodeAgent` that is an actor."""

    def place(self, address: str = "") -> Place:
        """Look whether the run can be launched here; address: Ray's own for this node, if not given."""
        ray = _ray()

        return super().place(address or ray.util.get_node_ip_address())


@dataclass(kw_only=True)
class Actors:
    """The actors of one run, one on each node. group: their placement group; None for a single one."""

    handles: list[Any]
    group: Any = None

    def remove(self) -> None:
        """Give back what they hold. Their supervisors end what is still running."""
        ray = _ray()
        from ray.util import remove_placement_group

        for handle in self.handles:
            with contextlib.suppress(Exception):  # it is gone already
                ray.kill(handle)
        if self.group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(self.group)


def _actors(run: Any, asked: Resources, only: list[str] | None) -> Actors:
    """Ask for a run's actors. only: the nodes that it may be on; None for any."""
    ray = _ray()
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    where = {} if only is None else {NODE_ID: f"in({','.join(only)})"}
    needs = {"num_cpus": asked.cpus, "num_gpus": asked.gpus, "memory": asked.host_bytes or None}
    agent: Any = ray.remote(RayAgent)
    common = {**needs, "max_restarts": 0, "max_task_retries": 0}
    if asked.nodes == 1:
        return Actors(handles=[agent.options(**common, **({"label_selector": where} if where else {})).remote(run)])
    bundle = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": asked.host_bytes}
    bundles = [{name: size for name, size in bundle.items() if size} for _ in range(asked.nodes)]
    selectors: Any = [where] * asked.nodes if where else None
    group = placement_group(bundles, strategy="STRICT_SPREAD", bundle_label_selector=selectors)
    handles = [
        agent.options(**common, scheduling_strategy=PlacementGroupSchedulingStrategy(group, number)).remote(run)
        for number in range(asked.nodes)
    ]
    return Actors(handles=handles, group=group)


# ---------------------------------------------------------------- one run


class RayExecution:
    """A run on a cluster. It is placed, launched, waited for; then its files are gathered."""

    def __init__(self, job: Job, actors: Actors, asked: Resources) -> None:
        self.job, self._actors, self.asked = job, actors, asked
        self._places: list[Place] = []
        self._calls: list[Any] = [handle.place.remote() for handle in actors.handles]
        self._codes: dict[int, Mapping[str, Any]] = {}
        self._log: IO[bytes] | None = None
        self._is_over = False
        self._is_withdrawn, self._since_s, self._looked_s = False, time.monotonic(), time.monotonic()

    @property
    def is_waiting(self) -> bool:
        """Return whether no node has taken it yet."""
        return not self._places and not self._is_over

    def poll(self) -> Ended | None:
        """Return how the run ended; None before. Raises SetupError for a node with other software than the sweep's."""
        ray = _ray()
        from ray.exceptions import RayError, RayTaskError

        if self._is_withdrawn:
            return Ended(is_unstarted=True)
        try:
            ready, open_calls = ray.wait(self._calls, num_returns=len(self._calls), timeout=0)
            if not self._places:
                if open_calls:
                    return self._unplaced()
                self._launch(ray.get(ready))
                return None
            return self._next(ready)
        except RayTaskError as error:  # of the agent: it is there, and could not do its work
            return Ended(returncode=1, why=str(error.cause).strip())
        except RayError as error:
            reason = _reason(error)
            where = self._places[0].host if self._places else "its node"
            return Ended(returncode=-9, lost=f"{where} was lost ({type(error).__name__}: {reason:.200})")

    def _unplaced(self) -> Ended | None:
        """Look now and then whether there still is a node that holds the run; None while there is hope."""
        ray = _ray()

        now = time.monotonic()
        if now - self._looked_s < CONNECT_S:
            return None
        self._looked_s = now
        nodes = [_node(node, {}).node for node in ray.nodes() if node["Alive"]]
        why = why_none_holds(self.asked, nodes)
        if why is None:
            self._since_s = now
        elif now - self._since_s > NO_NODE_S:
            return Ended(returncode=-9, why=f"{why}, for {NO_NODE_S:.0f} s")
        return None

    def _launch(self, places: list[Place]) -> None:
        refused = [f"{place.host}: {place.refused}" for place in places if place.refused]
        if refused:
            raise SetupError("\n".join(refused))
        first = places[0]
        self._calls = [
            handle.launch.remote(rank, first.address, first.port) for rank, handle in enumerate(self._actors.handles)
        ]
        self._places = places
        if not first.is_shared:
            self._log = files.lock_file(self.job.log)
            if self._log is not None:
                self._log.truncate()
        self.job.state, self.job.started_s = "running", time.monotonic()
        if not console.is_live():
            shared = "" if first.is_shared else "; its files are fetched when it ends"
            console.say(f"started: {self.job.name} on {first.host} (log: {self.job.log}{shared})")

    def _next(self, ready: list[Any]) -> Ended | None:
        """Take what has come back of the calls, and call again where the run goes on."""
        ray = _ray()

        for number, call in enumerate(self._calls):
            if number in self._codes or call not in ready:
                continue
            ended, said = ray.get(call)
            if number == 0 and self._log is not None:
                self._log.write(said)
                self._log.flush()
            if ended is None:
                self._calls[number] = self._actors.handles[number].wait.remote(WAIT_S)
            else:
                self._codes[number] = ended
        if len(self._codes) < len(self._calls):
            return None
        first = self._codes[0]
        lost = [str(told["lost"]) for told in self._codes.values() if "lost" in told]
        if lost:
            return Ended(returncode=-9, lost=lost[0])
        if "failed" in first:
            return Ended(returncode=1, why=f"{self._places[0].host}: {first['failed']}")
        if first["ended"] == supervisor.TAKEN:
            return Ended(is_taken=True)
        return Ended(returncode=int(first["ended"]))

    def stop(self) -> None:
        """Tell the run to write a checkpoint and end; one that is still to be placed is not started at all."""
        self._order(supervisor.STOP)

    def kill(self) -> None:
        """Kill its processes."""
        self._order(supervisor.KILL)

    def _order(self, word: str) -> None:
        if not self._places:
            self._is_withdrawn = True
            return
        for handle in self._actors.handles:
            with contextlib.suppress(Exception):  # its node is lost, which the next poll finds
                handle.order.remote(word)

    def collect(self) -> None:
        """Fetch what the run wrote, or check that the shared folder shows it, and give its resources back.

        Raises DataError where it did not come as the node wrote it.
        """
        ray = _ray()
        from ray.exceptions import RayError

        try:
            if (
                len(self._codes) == len(self._calls)
                and self._codes[0].get("ended", supervisor.TAKEN) != supervisor.TAKEN
            ):
                self._gather(ray, self._actors.handles[0])
        except RayError as error:
            reason = _reason(error)
            raise BenchError(
                f"{self._places[0].host} was lost before its files were fetched ({reason:.200}); repeat the sweep"
            ) from error
        finally:
            self._is_over = True
            if self._log is not None:
                self._log.close()
                self._log = None
            self._actors.remove()

    def _gather(self, ray: Any, agent: Any) -> None:
        if self._log is not None:
            self._log.write(ray.get(agent.rest_of_log.remote(), timeout=CALL_S))
            self._log.flush()
        listing = ray.get(agent.listing.remote())
        if self._places[0].is_shared:
            gathering.check(self.job.folder, listing)
        elif listing:
            gathering.gather(self.job.folder, listing, lambda *piece: ray.get(agent.read.remote(*piece)))
        for handle in self._actors.handles:
            ray.get(handle.clean.remote(), timeout=CALL_S)
