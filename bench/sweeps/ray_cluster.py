"""Look at a Ray cluster that is up: its nodes, whether their software is that of the sweep, and what is free of them.

with connected(address) as num_gpus:
    cluster = Cluster()
    cluster.check()                   # SetupError for other software, before anything starts
    cluster.look()                    # nodes that came or went since
    cluster.free({"a": asked}, ...)   # of all nodes, now: what neither this sweep nor anybody else has taken
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench import console
from bench.errors import SetupError
from bench.sweeps import node_check
from bench.sweeps.resources import Node, Resources
from bench.utils import files

AUTO = "auto"
# The beginning of HTTP/2, with an empty frame of settings, and the kind of frame that is answered (RFC 9113, 3.4).
SETTINGS = 4
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
CONNECT_S, CALL_S = 10.0, 120.0
# How often the head is called, and after which silence the sweep ends.
HEARD_S, SILENT_S = 5.0, 30.0


def library() -> Any:
    """Return the library, not all of whose functions have types. Raises ImportError without it."""
    import ray

    return ray


def reason_of(error: Exception) -> str:
    """Return the first line of what an error says, or its name; of one on a node, what that said there."""
    error = getattr(error, "cause", None) or error
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[int]:
    """Connect to a cluster that is up, and yield the number of its GPUs. Raises SetupError where none answers."""
    # Nothing is reported to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = library()
    except ImportError as error:
        raise SetupError("--on ray: Ray is not installed; pip install 'finetune-bench[ray]'") from error
    at = _refuse_silent(address or os.environ.get("RAY_ADDRESS") or AUTO)
    try:
        # Workers search the sweep's folder for modules, which is no place for them.
        with contextlib.chdir(files.ROOT):
            ray.init(address=at, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:500]
        raise SetupError(
            f"--on ray: no cluster at address {at!r} that this machine belongs to ({reason}); start one with `ray "
            "start --head` here and `ray start --address=HOST:6379` on each other node, and name it by --address"
        ) from error
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    whole = Resources(gpus=gpus, host_bytes=int(has.get("memory", 0)), cpus=int(has.get("CPU", 0)))
    nodes = len(_alive())
    console.say(f"on the Ray cluster at {at}: {nodes} node{'s' if nodes > 1 else ''} with {whole.words()}")
    try:
        with _ended_with_its_head(at):
            yield gpus
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _ended_with_its_head(address: str) -> Iterator[None]:
    """End this process with a sentence when the cluster's head is gone; Ray's own way is to abort it after a minute."""
    is_over = threading.Event()

    def _watch() -> None:
        heard_s = time.monotonic()
        while time.monotonic() - heard_s < SILENT_S:
            if is_over.wait(HEARD_S):
                return
            if _why_silent(address) is None:
                heard_s = time.monotonic()
        console.complain(
            f"error: the Ray cluster at {address} has not answered for {SILENT_S:.0f} s. Its runs end by themselves, "
            "with a checkpoint where their folder is shared. Start the cluster and repeat this command: what is "
            "finished is left out"
        )
        console.out.show_cursor()
        console.flush()
        os._exit(1)  # the main thread may hang in a call to the cluster, and nothing of it is half-written

    watcher = threading.Thread(target=_watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S)


def _why_silent(address: str) -> str | None:
    try:
        _connection(address).close()
    except (OSError, UnicodeError, ValueError) as error:  # no name of a host, such as one with two dots
        return str(getattr(error, "strerror", None) or error)
    return None


def _why_no_head(address: str) -> str | None:
    """Return why no head of a cluster is at an address; None where one may be. It speaks HTTP/2, as gRPC does.

    With another service Ray would wait for minutes, and then end this process.
    """
    if (reason := _why_silent(address)) or os.environ.get("RAY_USE_TLS", "0") != "0":
        return reason
    try:
        with _connection(address) as stream:
            stream.sendall(GREETING)
            answer = stream.recv(4)
    except OSError as error:
        return f"what listens there does not answer as Ray does: {error.strerror or error}"
    return None if len(answer) == 4 and answer[3] == SETTINGS else "what listens there is not Ray"


def _refuse_silent(address: str) -> str:
    """Return an address as HOST:PORT, of Ray's own choice for "auto".

    Raises SetupError for one where no Ray listens, which Ray would try again and again for minutes.
    """
    if address.startswith("ray://"):
        raise SetupError(
            f"--address {address}: that is Ray's client, through which no node of the cluster is chosen; run the sweep "
            "on a machine of the cluster, with --address HOST:6379 or without"
        )
    if address == "local":
        raise SetupError("--address local: that would start a cluster; for this machine alone leave out --on ray")
    if address == AUTO:
        return _own_cluster()
    host, colon, port = address.rpartition(":")
    if not host or not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SetupError(f"--address {address}: expected HOST:PORT of a Ray cluster, such as 10.0.0.1:6379, or auto")
    if reason := _why_no_head(address):
        raise SetupError(
            f"--on ray: no cluster at {address} ({reason}); start one with `ray start --head --port={port}` there"
        )
    return address


def _own_cluster() -> str:
    """Return the address of the cluster that this machine belongs to, as Ray finds it."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(AUTO)
        reason = "Ray finds none" if found is None else _why_no_head(found)
    except (ConnectionError, ValueError) as error:
        found, reason = None, reason_of(error)
    if found is None or reason:
        raise SetupError(
            f"--on ray: no cluster that this machine belongs to ({f'{found}: ' if found else ''}{reason}); start one "
            "with `ray start --head` here and `ray start --address=HOST:6379` on each other node, or name one by "
            "--address"
        )
    return str(found)


def _probe() -> Any:
    """Return a function that tells of a node's software; it is sent whole, since the node may lack this package."""

    def _look() -> dict[str, Any]:
        try:
            from bench.sweeps import node_check as there
        except Exception as error:
            return {"missing": f"{type(error).__name__}: {error}"}
        return {"fingerprint": there.fingerprint(), "gpu_bytes": there.gpu_bytes()}

    return _look


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A run's part of the nodes named by Ray's ids. is_asked_for: Ray has not given it yet, as far as is known."""

    nodes: tuple[str, ...]
    asked: Resources
    is_asked_for: bool


class Cluster:
    """The nodes that are up and have the same software as the sweep. Each is named by Ray's id."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._names: dict[str, str] = {}
        self._asked: dict[str, Any] = {}
        self._refused: set[str] = set()
        self._looked_s = time.monotonic()

    def check(self) -> None:
        """Look at all nodes; on the first of them the large libraries are imported, to see whether they can be.

        Raises SetupError for nodes without the same software, naming each.
        """
        wrong = []
        alive = _alive()
        looked = {id_: _on(id_, _probe()) for id_ in alive}
        for id_, reference in looked.items():
            problem = self._add(alive[id_], *_answer(reference))
            wrong += [problem] if problem else []
        if self._nodes and not wrong:
            first = next(iter(self._nodes))
            broken, reason = _answer(_on(first, node_check.why_not_importable))
            if broken or reason:
                wrong.append(f"{self.name(first)}: the libraries can't be imported: {broken or reason}")
        if wrong:
            raise SetupError(
                "\n".join(wrong) + "\nnothing was started: install the same versions on all nodes, and start Ray from "
                "that environment"
            )

    @property
    def nodes(self) -> list[Node]:
        """Return the nodes as they are when nothing runs on them, with names for people."""
        return [replace(node, name=self.name(id_)) for id_, node in self._nodes.items()]

    def name(self, id_: str) -> str:
        """Return what people call a node, with the beginning of Ray's id."""
        return self._names.get(id_, f"node {id_[:8]}")

    def has(self, ids: Iterable[str]) -> bool:
        """Return whether all of these nodes are up, as far as the last look has shown."""
        return all(id_ in self._nodes for id_ in ids)

    def look(self) -> None:
        """Take in, now and then, which nodes came and went. One with other software is named once and not used."""
        if time.monotonic() - self._looked_s < CONNECT_S:
            return
        self._looked_s = time.monotonic()
        alive = _alive()
        self._nodes = {id_: node for id_, node in self._nodes.items() if id_ in alive}
        self._asked = {id_: reference for id_, reference in self._asked.items() if id_ in alive}
        for id_ in [id_ for id_ in alive if id_ not in self._nodes and id_ not in self._refused]:
            if id_ not in self._asked:
                self._asked[id_] = _on(id_, _probe())
            elif library().wait([self._asked[id_]], timeout=0)[0]:
                problem = self._add(alive[id_], *_answer(self._asked.pop(id_)))
                if problem:
                    self._refused.add(id_)
                    console.complain(f"warning: a node that came later is not used: {problem}")

    def leave_out(self, ids: Iterable[str], problem: str) -> None:
        """Use nodes no more, which is said. Raises SetupError where none is left then."""
        self._refused |= set(ids)
        self._nodes = {id_: node for id_, node in self._nodes.items() if id_ not in self._refused}
        if not self._nodes:
            raise SetupError(problem)
        console.complain(f"warning: a node is not used any more: {problem}")

    def _add(self, node: Mapping[str, Any], told: Mapping[str, Any], reason: str | None) -> str | None:
        """Take a node in by the answer to a probe; return why not."""
        made = _node(node, told)
        differing = node_check.problems(node_check.fingerprint(), told.get("fingerprint", {}))
        if reason is not None:
            return f"{made.name} does not answer: {reason}"
        if "missing" in told:
            return f"{made.name} has no finetune-bench ({told['missing']})"
        if differing:
            return f"{made.name}: {'; '.join(differing)}"
        self._nodes[node["NodeID"]] = replace(made, name=node["NodeID"])
        self._names[node["NodeID"]] = made.name
        return None

    def free(self, taken: Iterable[Taken]) -> list[Node]:
        """Return what is free of each node, by Ray's id: beside this sweep's runs, and what others have on it.

        Ray tells what is free with a delay, so what the sweep itself has taken, or asked for, counts at once.
        """
        from ray._private import state

        library_state: Any = state
        told, taken = library_state.available_resources_per_node(), list(taken)
        return [
            _free(node, told.get(id_, {}), [one for one in taken if id_ in one.nodes])
            for id_, node in self._nodes.items()
        ]


def _free(node: Node, told: Mapping[str, float], taken: list[Taken]) -> Node:
    own, asked_for = _sum(taken), _sum([one for one in taken if one.is_asked_for])
    by_ray = (int(told.get("GPU", 0)), int(told.get("memory", 0)), int(told.get("CPU", 0)))
    whole = (node.gpus, node.host_bytes, node.cpus)
    gpus, host_bytes, cpus = (
        max(0, min(all_ - ours, now - coming))
        for all_, ours, now, coming in zip(whole, own, by_ray, asked_for, strict=True)
    )
    return replace(node, gpus=gpus, host_bytes=host_bytes, cpus=cpus)


def _sum(taken: list[Taken]) -> tuple[int, int, int]:
    """Return GPUs, bytes of the host and cores that runs take of a node."""
    asked = [one.asked for one in taken]
    return sum(one.gpus for one in asked), sum(one.host_bytes for one in asked), sum(one.cpus for one in asked)


def _alive() -> dict[str, Mapping[str, Any]]:
    return {node["NodeID"]: node for node in library().nodes() if node["Alive"]}


def _on(node: str, function: Any) -> Any:
    """Call a function on a node, whatever else is going on there."""
    ray = library()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(function).remote()


def _answer(reference: Any) -> tuple[Any, str | None]:
    """Return (what a call has returned, None), or ({}, why it returned nothing)."""
    ray = library()

    try:
        return ray.get(reference, timeout=CALL_S + node_check.IMPORT_S), None
    except Exception as error:  # of many kinds, all of which say that the node answers nothing of use
        return {}, reason_of(error)


def _node(node: Mapping[str, Any], told: Mapping[str, Any]) -> Node:
    has = node["Resources"]
    return Node(
        name=f"node {node['NodeName']} ({node['NodeID'][:8]})",
        gpus=int(has.get("GPU", 0)),
        gpu_bytes=told.get("gpu_bytes"),
        host_bytes=int(has.get("memory", 0)),
        cpus=int(has.get("CPU", 0)),
    )
