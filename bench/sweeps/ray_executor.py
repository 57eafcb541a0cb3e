"""Runs on the nodes of a Ray cluster that is up: `sweep --on ray`. Ray is imported only when it is asked for.

Each run is an actor (a `NodeAgent`) on the node that `placement` has chosen for the GPUs, memory and cores of its
forecast, over several nodes one in each bundle of a placement group. The actor launches the run under a supervisor,
which ends it when the actor is gone. A run whose node is lost is launched again, and goes on from its checkpoint where
the sweep's folder is shared.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from bench import console
from bench.errors import BenchError
from bench.sweeps import gathering, placement, supervisor
from bench.sweeps.executors import Ended
from bench.sweeps.jobs import Job, Machine, written_at
from bench.sweeps.node_agent import NodeAgent, Place, remote_run, say_withheld, token_in
from bench.sweeps.ray_cluster import CALL_S, Cluster, Taken, library, reason_of
from bench.sweeps.resources import Need, Resources, why_none_holds
from bench.utils import files

# A call to an actor that waits for its run comes back so often, with what the run has said.
WAIT_S = 2.0
# Runs are placed at most so often, on what is free then.
PLAN_S = 0.4
# A run that Ray does not start where there was room, since others were faster, is placed anew after so long if there is
# room elsewhere; each time it waits twice as long, since an actor may take minutes to begin on a slow disk.
PATIENCE_S, START_S = 15.0, 300.0
# A run whose kind of node is gone, and does not come back, is given up after so long.
NO_NODE_S = 300.0
NODE_ID = "ray.io/node-id"


class RayExecutor:
    """Gives the jobs of a sweep to a Ray cluster.

    jobs: how many at once; None for as many as the cluster's nodes hold.
    """

    def __init__(self, machine: Machine, out: Path, jobs: int | None) -> None:
        self._machine, self._out, self._most = machine, out, jobs
        self._cluster: Cluster | None = None
        self._asked: dict[Path, Resources] = {}
        self._given = list[RayExecution]()
        # Planned in this round, and that of the job which was taken last.
        self._places: dict[Path, placement.Place] = {}
        self._chosen: dict[Path, placement.Place] = {}
        self._unheld_s: dict[Need, float] = {}
        self._patience_s: dict[Path, float] = {}
        self._planned_s = 0.0
        self._opened = contextlib.ExitStack()
        self._token = ("", "")

    def __enter__(self) -> Self:
        """Write the token by which nodes find whether they see the sweep's folder."""
        self._token = self._opened.enter_context(token_in(self._out))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the token; what actors are left end with the sweep."""
        self._opened.close()

    @property
    def cluster(self) -> Cluster:
        """Return the cluster; its nodes are checked when they are first asked for."""
        if self._cluster is None:
            self._cluster = Cluster()
            self._cluster.check()
        return self._cluster

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Look at the nodes: is their software the same, do they hold each run? Raises SetupError where not."""
        from bench.sweeps import forecasts

        nodes = self.cluster.nodes
        self._asked = forecasts.of_jobs(jobs, self._machine, nodes)
        forecasts.refuse_too_large(jobs, self._asked, nodes)
        say_withheld()

    def take(self, waiting: list[Job], running: int) -> Job | None:
        """Take a job that fits on what is free now; the largest first, and each where it fits tightest."""
        self._chosen.clear()
        if self._most is not None and running >= self._most:
            return None
        now = time.monotonic()
        if not self._places and now - self._planned_s >= PLAN_S:
            self._planned_s = now
            self._plan(waiting)
        if not self._places:
            return self._hopeless(waiting)
        first = next(iter(self._places))
        self._chosen[first] = self._places.pop(first)
        return waiting.pop(next(number for number, job in enumerate(waiting) if job.folder == first))

    def _plan(self, waiting: Sequence[Job]) -> None:
        """Place what fits. What is not started in this round is placed anew in the next."""
        self.cluster.look()
        self._given = [one for one in self._given if not one.is_over]
        free = self.cluster.free(one.taken for one in self._given)
        asked = {str(job.folder): self._asked[job.folder] for job in waiting}
        for place in placement.Placement(free, asked, are_empty=False).start():
            self._places[Path(place.run)] = place
        self._note_unheld(waiting)

    def _note_unheld(self, waiting: Sequence[Job]) -> None:
        """Note since when no node, were it empty, would hold a run: nodes come back, or others come."""
        needs, now = dict.fromkeys(Need.of(self._asked[job.folder]) for job in waiting), time.monotonic()
        unheld = placement.unheld(self.cluster.nodes, needs)
        self._unheld_s = {need: self._unheld_s.get(need, now) for need in unheld}

    def _hopeless(self, waiting: list[Job]) -> Job | None:
        """Take a job for which there has been no node for too long; None while there is hope for all."""
        limit = time.monotonic() - NO_NODE_S
        given_up = {need for need, since_s in self._unheld_s.items() if since_s < limit}
        for job in waiting if given_up else []:
            if Need.of(self._asked[job.folder]) in given_up:
                waiting.remove(job)
                return job
        return None

    def start(self, job: Job) -> "RayExecution | GivenUp | None":
        """Ask for the run's actors; None where another process has its log, and so the run."""
        place, asked = self._chosen.pop(job.folder, None), self._asked[job.folder]
        if place is None:
            why = why_none_holds(asked, self.cluster.nodes)
            return GivenUp(job, f"{why}, for {NO_NODE_S:.0f} s")
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = files.lock_file(job.log)
        if log is None:
            return None
        log.close()
        job.before = written_at(job)
        run = remote_run(job, self._machine, asked, self._token)
        nodes = tuple(share.node for share in place.shares)
        patience_s = self._patience_s.get(job.folder, PATIENCE_S)
        self._patience_s[job.folder] = min(2 * patience_s, START_S)
        part = Part(nodes, asked, self.cluster, patience_s)
        self._given.append(RayExecution(job, _actors(run, asked, nodes), part))
        return self._given[-1]

    def flush(self) -> None:
        """Forget places that were not taken in this round: what is free will be looked at anew."""
        self._places.clear()


class RayAgent(NodeAgent):
    """A `NodeAgent` that is an actor."""

    def place(self, address: str = "") -> Place:
        """Look whether the run can be launched here; address: Ray's own for this node, if not given."""
        ray = library()

        return super().place(address or ray.util.get_node_ip_address())


@dataclass(kw_only=True)
class Actors:
    """The actors of one run, one on each node. group: their placement group; None for a single one."""

    handles: list[Any]
    group: Any = None

    def remove(self) -> None:
        """Give back what they hold. Their supervisors end what is still running."""
        ray = library()
        from ray.util import remove_placement_group

        for handle in self.handles:
            with contextlib.suppress(Exception):  # it is gone already
                ray.kill(handle)
        if self.group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(self.group)


def _actors(run: Any, asked: Resources, nodes: Sequence[str]) -> Actors:
    """Ask for a run's actors on these nodes, by Ray's ids."""
    ray = library()
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    where = [{NODE_ID: id_} for id_ in nodes]
    needs = {"num_cpus": asked.cpus, "num_gpus": asked.gpus, "memory": asked.host_bytes or None}
    agent: Any = ray.remote(RayAgent)
    common = {**needs, "max_restarts": 0, "max_task_retries": 0}
    if asked.nodes == 1:
        return Actors(handles=[agent.options(**common, label_selector=where[0]).remote(run)])
    bundle = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": asked.host_bytes}
    bundles = [{name: size for name, size in bundle.items() if size} for _ in range(asked.nodes)]
    group = placement_group(bundles, strategy="STRICT_SPREAD", bundle_label_selector=where)
    handles = [
        agent.options(**common, scheduling_strategy=PlacementGroupSchedulingStrategy(group, number)).remote(run)
        for number in range(asked.nodes)
    ]
    return Actors(handles=handles, group=group)


# ---------------------------------------------------------------- one run


@dataclass
class GivenUp:
    """A run for which there is no node any more."""

    job: Job
    why: str

    def poll(self) -> Ended:
        """Return that it was not started, and why."""
        return Ended(returncode=-9, why=self.why)

    def stop(self) -> None:
        """Do nothing: it does not run."""

    def kill(self) -> None:
        """Do nothing: it does not run."""

    def collect(self) -> None:
        """Do nothing: it has written nothing."""


@dataclass(frozen=True)
class Part:
    """The part of a cluster that was chosen for a run. nodes: by Ray's ids. patience_s: until others are looked at."""

    nodes: tuple[str, ...]
    asked: Resources
    cluster: Cluster
    patience_s: float = PATIENCE_S

    def is_elsewhere(self) -> bool:
        """Return whether other nodes have room for the run now, by what Ray says."""
        places = placement.Placement(self.cluster.free(()), {"": self.asked}, are_empty=False).start()
        return any({share.node for share in place.shares} != set(self.nodes) for place in places)


class RayExecution:
    """A run on a cluster. It is placed, launched, waited for; then its files are gathered."""

    def __init__(self, job: Job, actors: Actors, part: Part) -> None:
        self.job, self._actors, self._part = job, actors, part
        self._places: list[Place] = []
        self._calls: list[Any] = [handle.place.remote() for handle in actors.handles]
        self._codes: dict[int, Mapping[str, Any]] = {}
        self._log: IO[bytes] | None = None
        self.is_over = False
        self._is_withdrawn, self._since_s, self._looked_s = False, time.monotonic(), 0.0

    @property
    def taken(self) -> Taken:
        """Return what it takes of its nodes."""
        return Taken(nodes=self._part.nodes, asked=self._part.asked, is_asked_for=not self._places)

    def poll(self) -> Ended | None:
        """Return how the run ended; None before. Raises SetupError where no node can run it."""
        ray = library()
        from ray.exceptions import RayError, RayTaskError

        if self._is_withdrawn:
            return Ended(is_unstarted=True)
        try:
            ready, open_calls = ray.wait(self._calls, num_returns=len(self._calls), timeout=0)
            if not self._places:
                if open_calls:
                    return self._unplaced()
                return self._launch(ray.get(ready))
            return self._next(ready)
        except RayTaskError as error:  # of the agent: it is there, and could not do its work
            return Ended(returncode=1, why=str(error.cause).strip())
        except RayError as error:
            reason = reason_of(error)
            where = self._places[0].host if self._places else "its node"
            return Ended(returncode=-9, lost=f"{where} was lost ({type(error).__name__}: {reason:.200})")

    def _unplaced(self) -> Ended | None:
        """Return that it is to be placed anew where its nodes are gone, or were taken by others; else None."""
        cluster, nodes = self._part.cluster, self._part.nodes
        cluster.look()  # also where no other run waits
        names = ", ".join(map(cluster.name, nodes))
        if not cluster.has(nodes):
            return Ended(is_unstarted=True, lost=f"{names} was gone before it took the run")
        now = time.monotonic()
        waited_s, is_due = now - self._since_s, now - self._looked_s > WAIT_S
        if waited_s > self._part.patience_s and is_due:
            self._looked_s = now
            if waited_s > START_S or self._part.is_elsewhere():
                return Ended(is_unstarted=True, lost=f"{names} did not take the run in {waited_s:.0f} s")
        return None

    def _launch(self, places: list[Place]) -> Ended | None:
        """Launch the run; return that it is to be placed anew where a node, that came later perhaps, can't run it."""
        nodes = self._part.nodes
        refused = {id_: place for id_, place in zip(nodes, places, strict=True) if place.refused}
        if refused:
            why = "\n".join(f"{place.host}: {place.refused}" for place in refused.values())
            self._part.cluster.leave_out(refused, why)
            return Ended(is_unstarted=True, lost=why)
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
        return None

    def _next(self, ready: list[Any]) -> Ended | None:
        """Take what has come back of the calls, and call again where the run goes on."""
        ray = library()

        for number, call in enumerate(self._calls):
            if number in self._codes or call not in ready:
                continue
            ended, said = ray.get(call)
            if number == 0:
                self._note(said)
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

    def _note(self, said: bytes) -> None:
        """Add output to the log. A disk that is full ends neither the run nor the sweep, and is named once."""
        if self._log is None:
            return
        try:
            self._log.write(said)
            self._log.flush()
        except OSError as error:
            console.complain(f"warning: {self.job.log} goes no further: {error.strerror or error}")
            self._close()

    def _close(self) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError):  # what could not be written is written once more
                self._log.close()
            self._log = None

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
        ray = library()
        from ray.exceptions import RayError

        try:
            if (
                len(self._codes) == len(self._calls)
                and self._codes[0].get("ended", supervisor.TAKEN) != supervisor.TAKEN
            ):
                self._gather(ray, self._actors.handles[0])
        except RayError as error:
            reason = reason_of(error)
            raise BenchError(
                f"{self._places[0].host}: its files could not be fetched ({type(error).__name__}: {reason:.200}); "
                "repeat the sweep"
            ) from error
        finally:
            self.is_over = True
            self._close()
            self._actors.remove()

    def _gather(self, ray: Any, agent: Any) -> None:
        while self._log is not None and (said := ray.get(agent.rest_of_log.remote(), timeout=CALL_S)):
            self._note(said)
        listing = ray.get(agent.listing.remote())
        if self._places[0].is_shared:
            gathering.check(self.job.folder, listing)
        elif listing:
            gathering.gather(self.job.folder, listing, lambda *piece: ray.get(agent.read.remote(*piece)))
        for handle in self._actors.handles:
            ray.get(handle.clean.remote(), timeout=CALL_S)
