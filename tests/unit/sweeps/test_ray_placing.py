"""Runs of a sweep on Ray are placed on what is free of its nodes, by the code that is simulated; without a cluster."""

import errno
import os
import socket
import threading

import pytest

from bench.errors import SetupError
from bench.sweeps import node_check, ray_cluster, ray_executor
from bench.sweeps.node_agent import Place
from bench.sweeps.ray_cluster import Cluster, Taken
from bench.sweeps.resources import Resources
from tests.helpers import libraries
from tests.helpers.cases import together
from tests.helpers.one_run import CPU, one_job

libraries.needed("ray")
GIB = 2**30
SMALL, LARGE = Resources(gpus=1, gpu_bytes=10 * GIB, cpus=2), Resources(gpus=4, gpu_bytes=10 * GIB, cpus=2)


class Ray:
    """Of Ray what is asked about nodes: what they have, and what is free of them."""

    def __init__(self, monkeypatch):
        self.has, self.available, self.probes = {}, {}, {}
        monkeypatch.setattr(ray_cluster, "library", lambda: self)
        monkeypatch.setattr("ray._private.state.available_resources_per_node", lambda: self.available)
        imported = node_check.why_not_importable
        monkeypatch.setattr(ray_cluster, "_on", lambda id_, asked: None if asked is imported else id_)
        monkeypatch.setattr(ray_cluster, "_answer", lambda id_: self.probes.get(id_, (None, None)))

    def add(self, id_, gpus=4, cores=64, gib=24, fingerprint=None):
        self.has[id_] = {"GPU": gpus, "CPU": cores, "memory": 256 * GIB}
        self.available[id_] = dict(self.has[id_])
        own = node_check.fingerprint() if fingerprint is None else fingerprint
        self.probes[id_] = {"fingerprint": own, "gpu_bytes": gib * GIB}, None

    def nodes(self):
        return [
            {"NodeID": id_, "NodeName": f"host-{id_}", "Alive": True, "Resources": has} for id_, has in self.has.items()
        ]

    def wait(self, references, timeout):
        return references, []


@pytest.fixture
def ray(monkeypatch):
    monkeypatch.setattr(ray_cluster, "CONNECT_S", 0.0)
    made = Ray(monkeypatch)
    made.add("a")
    made.add("b", gpus=2)
    return made


@pytest.fixture
def cluster(ray):
    found = Cluster()
    found.check()
    return found


def gpus(nodes):
    return {node.name: node.gpus for node in nodes}


def test_what_is_free_knows_own_runs_at_once_and_what_others_have(ray, cluster):
    assert gpus(cluster.free([])) == {"a": 4, "b": 2}
    # Asked for, and Ray tells nothing of it yet; then it does; then it is over, and Ray still tells of it.
    assert gpus(cluster.free([Taken(nodes=("a",), asked=SMALL, is_asked_for=True)])) == {"a": 3, "b": 2}
    ray.available["a"]["GPU"] = 3
    assert gpus(cluster.free([Taken(nodes=("a",), asked=SMALL, is_asked_for=False)])) == {"a": 3, "b": 2}
    assert gpus(cluster.free([])) == {"a": 3, "b": 2}
    # Others have all of b, of which Ray then names no GPU at all.
    del ray.available["b"]["GPU"]
    assert gpus(cluster.free([])) == {"a": 3, "b": 0}


def test_nodes_that_come_later_are_checked_and_those_that_go_are_not_used(ray, cluster, capsys):
    ray.add("c")
    ray.add("other", fingerprint={"code": "another"})
    for _ in range(2):  # asked, then answered
        cluster.look()
    assert sorted(gpus(cluster.free([]))) == ["a", "b", "c"]
    said = capsys.readouterr().err.replace("\n", " ")
    assert "a node that came later is not used: node host-other" in said
    del ray.has["a"]
    cluster.look()
    cluster.look()
    assert sorted(gpus(cluster.nodes)) == ["node host-b (b)", "node host-c (c)"]
    assert not cluster.has(["a", "b"])
    assert capsys.readouterr().err == ""


@pytest.fixture
def executor(ray, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "PLAN_S", 0.0)
    monkeypatch.setattr(ray_executor, "_actors", lambda run, asked, nodes: ray_executor.Actors(handles=[]))
    made = ray_executor.RayExecutor(CPU, tmp_path, None)
    made._cluster = cluster
    return made


def test_the_largest_run_comes_first_and_goes_where_it_fits(executor, tmp_path):
    small, large, more = waiting = [one_job(tmp_path, seed) for seed in (13, 14, 15)]
    executor._asked = {small.folder: SMALL, large.folder: LARGE, more.folder: SMALL}
    started = {}
    while (job := executor.take(waiting, len(started))) is not None:
        started[job.folder] = executor.start(job).taken.nodes
    executor.flush()
    assert list(started.items()) == [(large.folder, ("a",)), (small.folder, ("b",)), (more.folder, ("b",))]
    last = one_job(tmp_path, 16)
    executor._asked[last.folder] = SMALL
    assert executor.take([last], 3) is None  # all GPUs are taken
    executor._given[0].is_over = True
    assert executor.take([last], 2) is last


def test_a_run_that_another_process_has_keeps_no_place(executor, tmp_path):
    waiting = [one_job(tmp_path, seed) for seed in (13, 14)]
    first, second = waiting
    executor._asked = {job.folder: SMALL for job in waiting}
    assert executor.take(waiting, 0) is first  # and it is not started
    assert executor.take(waiting, 0) is second
    assert executor.start(second).taken.nodes == ("b",)
    executor.flush()
    assert executor.take([first], 1) is first
    assert executor.start(first).taken.nodes == ("b",)


def test_no_more_run_at_once_than_were_asked_for(executor, tmp_path):
    executor._most = 1
    waiting = [one_job(tmp_path, seed) for seed in (13, 14)]
    executor._asked = {job.folder: SMALL for job in waiting}
    assert executor.take(waiting, 0) is not None
    assert executor.take(waiting, 1) is None


def test_a_run_whose_nodes_are_gone_is_placed_anew_and_in_the_end_given_up(ray, executor, tmp_path, monkeypatch):
    (job,) = waiting = [one_job(tmp_path)]
    executor._asked = {job.folder: LARGE}
    assert executor.take(waiting, 0) is job
    run = executor.start(job)
    run._calls = ["a call that waits"]
    monkeypatch.setattr(ray_executor, "library", lambda: ray)
    monkeypatch.setattr(ray, "wait", lambda calls, num_returns=1, timeout=0: ([], calls), raising=False)
    assert run.poll() is None
    del ray.has["a"]
    executor.flush()
    assert executor.take([job], 0) is None
    ended = run.poll()
    assert ended.is_unstarted
    assert ended.lost == "node host-a (a) was gone before it took the run"
    monkeypatch.setattr(ray_executor, "NO_NODE_S", 0.0)
    waiting = [job]
    executor.flush()
    assert executor.take(waiting, 0) is job
    assert "none of 1 nodes holds that" in executor.start(job).poll().why
    assert waiting == []


def test_a_run_that_others_were_faster_than_is_placed_where_there_is_room(ray, executor, tmp_path, monkeypatch):
    (job,) = waiting = [one_job(tmp_path)]
    executor._asked = {job.folder: SMALL}
    monkeypatch.setattr(ray_executor, "library", lambda: ray)
    monkeypatch.setattr(ray, "wait", lambda calls, num_returns=1, timeout=0: ([], calls), raising=False)
    monkeypatch.setattr(ray_executor, "PATIENCE_S", 0.0)
    monkeypatch.setattr(ray_executor, "WAIT_S", 0.0)
    assert executor.take(waiting, 0) is job
    run = executor.start(job)
    run._calls = ["a call that waits"]
    assert run.taken.nodes == ("b",)
    ray.available["b"]["GPU"], ray.available["a"]["GPU"] = 0, 0
    assert run.poll() is None  # no room elsewhere either: it keeps its place in the queue
    ray.available["a"]["GPU"] = 1
    ended = run.poll()
    assert ended.is_unstarted
    assert "host-b (b) did not take the run" in ended.lost
    run.is_over = True
    executor.flush()
    assert executor.take([job], 0) is job
    monkeypatch.setattr(ray_executor, "PATIENCE_S", 1.0)
    executor._patience_s[job.folder] = 200.0
    again = executor.start(job)
    assert (again.taken.nodes, again._part.patience_s) == (("a",), 200.0)
    assert executor._patience_s[job.folder] == ray_executor.START_S


def test_a_head_that_is_gone_ends_the_sweep_with_a_sentence(monkeypatch, capsys):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert ray_cluster._why_silent(address) is None
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(ray_cluster, "HEARD_S", 0.01)
    monkeypatch.setattr(ray_cluster, "SILENT_S", 0.05)
    with ray_cluster._ended_with_its_head(address):
        for _ in range(500):
            if ended:
                break
            ray_cluster.time.sleep(0.01)
    assert ended == [1]
    assert f"the Ray cluster at {address} has not answered" in capsys.readouterr().err.replace("\n", " ")


def test_a_log_that_can_t_be_made_ends_the_sweep(executor, tmp_path):
    (job,) = waiting = [one_job(tmp_path)]
    executor._asked = {job.folder: SMALL}
    job.log.parent.write_text("a file", encoding="utf-8")
    assert executor.take(waiting, 0) is job
    with pytest.raises(OSError, match="logs"):
        executor.start(job)


@pytest.fixture
def given(ray, executor, tmp_path, monkeypatch):
    """A run that was given to node a."""
    job = one_job(tmp_path)
    executor._asked = {job.folder: LARGE}
    assert executor.take([job], 0) is job
    run = executor.start(job)
    monkeypatch.setattr(ray_executor, "library", lambda: ray)
    return run


def test_a_node_that_is_gone_is_found_where_nothing_else_waits(ray, given, monkeypatch):
    given._calls = ["a call that waits"]
    monkeypatch.setattr(ray, "wait", lambda calls, num_returns=1, timeout=0: ([], calls), raising=False)
    assert given.poll() is None
    del ray.has["a"]
    assert given.poll().is_unstarted


def test_a_node_that_can_t_run_it_is_left_out_and_the_last_one_ends_the_sweep(given, cluster, capsys):
    refused = [Place(host="host-a", refused="mine.yaml is not there")]
    ended = given._launch(refused)
    assert (ended.is_unstarted, ended.lost) == (True, "host-a: mine.yaml is not there")
    assert sorted(gpus(cluster.free([]))) == ["b"]
    cluster.look()
    assert not cluster.has(["a"])
    assert "a node is not used any more: host-a: mine.yaml is not there" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SetupError, match="host-b: mine"):
        cluster.leave_out(["b"], "host-b: mine.yaml is not there")


class FullDisk:
    """A log whose text finds no room, also when it is closed."""

    def write(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    close = flush = write


def test_a_full_disk_ends_neither_the_run_nor_keeps_its_node(given, monkeypatch, capsys):
    given._calls, given._log, removed = ["a call that waits"], FullDisk(), []
    given._note(b"output")
    given._note(b"more")
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count("goes no further: No space left on device") == 1
    given._log = FullDisk()
    monkeypatch.setattr(given._actors, "remove", lambda: removed.append(1))
    given.collect()
    assert removed == [1]


@together("host", ["a" * 70, "a..b", "é" * 80, "x\0y"])
def test_what_is_no_name_of_a_host_is_a_sentence(host):
    with pytest.raises(SetupError, match="--on ray: no cluster at"):
        ray_cluster._refuse_silent(f"{host}:1")


def test_the_reason_is_what_was_said_on_the_node():
    outer = RuntimeError("ray::RayAgent.listing() (pid=1)")
    outer.cause = PermissionError(13, "Permission denied", "record.json")
    assert ray_cluster.reason_of(outer) == "[Errno 13] Permission denied: 'record.json'"
    assert ray_cluster.reason_of(ValueError()) == "ValueError"


@together(
    "answer, said",
    [
        (b"\x00\x00\x18\x04\x00", None),
        (b"<!DOCTYPE HTML>", "what listens there is not Ray"),
        (b"SSH", "what listens there is not Ray"),
        (b"", "what listens there is not Ray"),
        (None, "what listens there does not answer as Ray does: timed out"),
    ],
)
def test_another_service_at_the_address_is_a_sentence(answer, said, monkeypatch):
    monkeypatch.setattr(ray_cluster, "CONNECT_S", 0.2 if answer is None else 10.0)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve():
            listening.accept()[0].close()  # whether anything listens at all
            with listening.accept()[0] as stream:
                stream.recv(100)
                if answer is not None:
                    stream.sendall(answer)
                over.wait()

        over = threading.Event()
        if answer is None:
            server = None
        else:
            server = threading.Thread(target=serve)
            server.start()
            if len(answer) < 4:
                over.set()  # it hangs up
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert ray_cluster._why_no_head(address) == said
        over.set()
        if server is not None:
            server.join()


def test_what_is_not_sent_to_nodes_is_said(executor, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.sweeps.forecasts.of_jobs", lambda *_: {})
    monkeypatch.setattr("bench.sweeps.forecasts.refuse_too_large", lambda *_: None)
    monkeypatch.setenv("HF_ENDPOINT", "https://me:correct-horse@hub.example.com")
    executor.prepare([])
    assert "HF_ENDPOINT has what looks like a token" in capsys.readouterr().err.replace("\n", " ")
