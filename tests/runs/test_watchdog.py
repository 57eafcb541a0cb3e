"""When a process of a run dies, no other one hangs, and the record says which it was: real launches on one machine."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from bench.distributed import launcher, signals, watchdog
from bench.distributed.signed_store import SignedStore, launch_key
from bench.distributed.watchdog import LOST_AFTER_S, HeartbeatMonitor
from bench.records import failures, store
from bench.records.failures import Failure
from bench.runner import lifecycle, out_of_memory
from bench.utils.hardware import GIB
from tests.helpers import hosts, pages
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
SHORT = ["training.epochs=null", "training.steps=4", "limit={train: 24, test: 16}"]
# So many that it is still training whenever it is stopped.
LONG = [*SHORT[:1], "training.steps=100000", "training.log_every=1", SHORT[2]]


def watch(rank=0, world_size=4, **known):
    watched = tuple(range(1, world_size)) if rank == 0 else (0,)
    monitor = HeartbeatMonitor(rank=rank, watched=watched, limit_s=60.0, **known)
    for other in watched:
        monitor.note_heartbeat(other, f"1|{'ab'[other // 2]}|train", 1.0)
    return monitor


def failure(rank, kind, status="crashed", sentence="x"):
    return Failure(rank=rank, kind=kind, status=status, sentence=sentence, phase="train")


def silence(monitor, rank, seconds):
    for _ in range(seconds):
        monitor.note_heartbeat(rank, monitor.heartbeats.get(rank), 1.0)


def all_alive_but(monitor, *lost, seconds=20):
    for second in range(seconds):
        for rank in set(monitor.watched) - set(lost):
            monitor.note_heartbeat(rank, f"{second + 2}|{'ab'[rank // 2]}|train", 1.0)
        for rank in lost:
            monitor.note_heartbeat(rank, monitor.heartbeats.get(rank), 1.0)


def test_without_an_error_a_short_silence_is_no_loss():
    monitor = watch()
    silence(monitor, 2, 30)
    assert monitor.lost(error_seen=False) == []
    assert not monitor.alarmed()
    silence(monitor, 2, 40)
    assert monitor.lost(error_seen=False) == [2]
    assert monitor.alarmed()


def test_a_process_that_was_held_up_itself_calls_nobody_silent():
    monitor = watch()
    monitor.note_heartbeat(2, monitor.heartbeats[2], 3600.0)
    assert monitor.lost(error_seen=True) == []


def test_a_process_that_never_came_is_not_lost_before_the_limit():
    monitor = HeartbeatMonitor(rank=0, watched=(1,), limit_s=60.0)
    silence(monitor, 1, 100)
    assert monitor.lost(error_seen=True) == []
    silence(monitor, 1, 30)
    assert monitor.lost(error_seen=True) == [1]


def test_an_error_of_communication_is_the_loss_of_who_is_silent():
    monitor = watch()
    monitor.note_message(failure(0, "echo"))
    assert monitor.verdict(final=False) is None
    all_alive_but(monitor, 2, 3, seconds=int(LOST_AFTER_S) + 1)
    verdict = monitor.verdict(final=True)
    assert (verdict.status, verdict.kind, verdict.phase) == ("crashed", "lost", "train")
    assert verdict.sentence.startswith("ranks 2, 3 (host b) were lost during train: no sign of life for 9 s")


def test_who_left_with_a_word_is_not_lost():
    monitor = watch()
    for rank in (1, 2, 3):
        monitor.note_message(failure(rank, "told", "interrupted", f"stopped {rank}"))
    assert not monitor.alarmed()
    monitor.vanished |= {1, 2, 3}
    silence(monitor, 2, 99)
    assert monitor.lost(error_seen=True) == []
    monitor.failures.append(failure(0, "echo"))
    assert monitor.verdict(final=False).sentence == "stopped 1"  # nobody else to wait for


@pytest.mark.parametrize(
    ("heard", "vanished", "told"),
    [
        ([failure(0, "echo"), failure(2, "own", "oom", "memory")], set(), "memory"),
        ([failure(0, "own", "invalid", "mine"), failure(2, "own", "invalid", "theirs")], set(), "mine"),
        ([failure(2, "own", "invalid", "theirs"), failure(0, "own", "invalid", "mine")], set(), "mine"),
        ([failure(1, "told", "interrupted"), failure(0, "own", sentence="odd")], {3}, "rank 3 (host b) was lost"),
        ([failure(1, "echo"), failure(0, "own", sentence="odd")], set(), "odd"),
        ([failure(1, "echo"), failure(0, "told", "interrupted", "SIGTERM")], set(), "SIGTERM"),
        (
            [failure(3, "lost", sentence="rank 3 is gone"), failure(2, "told", "interrupted")],
            set(),
            "rank 3 (host b) was lost during train: its process",
        ),
        ([failure(0, "echo", sentence="network")], set(), "network"),
    ],
)
def test_whose_failure_ended_the_run(heard, vanished, told):
    monitor = watch()
    for item in heard:
        monitor.note_message(item)
    monitor.vanished |= vanished
    assert monitor.verdict(final=True).sentence.startswith(told)


def test_without_a_store_the_launcher_is_gone():
    monitor = watch(store_gone=True)
    assert monitor.alarmed()
    assert "the launcher is gone" in monitor.verdict(final=True).sentence
    other = watch(rank=3, unheard_s=61.0)
    assert other.alarmed()
    assert other.verdict(final=True).sentence.startswith("rank 0 (host a) was lost: its launcher does not answer")


def test_a_failed_process_waits_until_rank_zero_is_there_to_hear_of_it():
    monitor = HeartbeatMonitor(rank=1, watched=(0,), limit_s=60.0)
    monitor.failures.append(failure(1, "own", "oom"))
    assert monitor.verdict(final=False) is None
    monitor.note_heartbeat(0, "1|a|load", 1.0)
    assert monitor.verdict(final=False).status == "oom"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]"), "echo"),
        (ConnectionResetError("Connection reset by peer"), "echo"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "own"),
        (MemoryError(), "own"),
        (KeyboardInterrupt(), "told"),
    ],
)
def test_kind_of_a_failure(error, kind):
    classified = failures.from_exception(error, "train", 1, " on rank 1 (host b)")
    assert classified.kind == kind
    assert failures.from_json(classified.packed(), 2) == classified


def test_errors_of_torch_s_own_communication_are_known():
    from torch.distributed import DistError, TCPStore

    with pytest.raises(DistError) as caught:
        TCPStore("127.0.0.1", free_port(), is_master=False, timeout=timedelta(seconds=1))
    assert failures.from_exception(caught.value, "load").kind == "echo"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("python -m accelerate.commands.launch --quiet bench/run.py x", ["--quiet", "bench/run.py", "x"]),
        ("/usr/bin/python3 /venv/bin/accelerate launch bench/run.py", ["bench/run.py"]),
        ("/usr/bin/python3 /venv/bin/accelerate-launch bench/run.py", ["bench/run.py"]),
        ("/venv/bin/torchrun --nproc_per_node 2 bench/run.py", None),
        ("/venv/bin/accelerate test", None),
        ("bash", None),
    ],
)
def test_a_launcher_s_command_line_is_told_from_others(words, expected):
    assert launcher.launch_arguments(words.split()) == expected


def ended(launched):
    """Exit code, record, and the lines that a person is to read."""
    code = launched.end()
    shown = [line for line in launched.text.splitlines() if line.split(":")[0] in hosts.STATUSES]
    return code, store.read(launched.folder), shown


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process(tmp_path, rank):
    """Rank zero's record gets its end from the process that is left."""
    with hosts.local(tmp_path / "out", RECIPE, *LONG) as launched:
        hosts.wait_for_steps(tmp_path / "out", launched)
        assert sorted(hosts.members(tmp_path / "out").values()) == [0, 1]
        hosts.kill(tmp_path / "out", rank)
        code, left, shown = ended(launched)
    assert code != 0
    assert left.status == "crashed"
    assert left.reason.startswith(
        f"rank {rank} (host {socket.gethostname()}) was lost during train: its process is gone"
    )
    assert shown == [f"crashed: {left.reason}"]
    assert left.failed_in == "train"
    assert left.finished_at
    assert left.scores["before"]["test"]["accuracy"].value is not None  # what was known is kept
    assert left.launch.world_size == 2


def test_a_launcher_that_is_killed_takes_its_processes_along(tmp_path):
    with hosts.local(tmp_path / "out", RECIPE, *LONG) as launched:
        hosts.wait_for_steps(tmp_path / "out", launched)
        launched.process.kill()
        _, left, _ = ended(launched)
    assert left.status == "crashed"
    assert "the launcher is gone" in left.reason


def test_a_process_that_runs_out_of_memory(tmp_path):
    large = [f"model.architecture.{name}=2048" for name in ("hidden_size", "intermediate_size")]
    script = ROOT / "tests" / "helpers" / "little_memory.py"
    # The probe of packed rows takes gradients too: without it memory runs out in training.
    large.append("speed.padding_free=false")
    with hosts.local(tmp_path / "out", RECIPE, *SHORT, *large, script=script) as launched:
        code, left, shown = ended(launched)
    assert code != 0
    assert left.status == "oom"
    assert left.reason.startswith(f"out of memory on rank 1 (host {socket.gethostname()}) during {left.failed_in}")
    oom = left.oom
    assert (oom.rank, oom.phase, oom.memory) == (1, left.failed_in, "host")
    assert (oom.step, oom.rows) in [(None, None), (1, 16)]
    assert oom.limit == "address space (ulimit -v)"
    assert oom.asked_bytes > 0
    assert 0 < oom.before_bytes < oom.capacity_bytes - 2**28
    assert out_of_memory.available_bytes(oom) < oom.predicted_gib * GIB
    assert oom.advice
    assert left.reason == out_of_memory.sentence(oom)
    assert left.memory_predicted["train"]["total_gib"] == oom.predicted_gib
    assert shown == [f"oom: {left.reason}"]
    assert "Traceback" in (tmp_path / "out" / "traceback.txt").read_text(encoding="utf-8")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_witness_tells_rank_zero_while_all_main_threads_hang(tmp_path):
    """Ranks 2 and 3 have process numbers of their own, as on another machine: rank zero can't look for them."""
    common = {**os.environ, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = str(free_port())
    script = [sys.executable, str(ROOT / "tests" / "helpers" / "beating.py"), "60"]
    shown = {rank: (tmp_path / f"{rank}.txt").open("w") for rank in range(4)}

    def words(rank):
        return f"RANK={rank} LOCAL_RANK={rank % 2} exec {' '.join(script)} > {tmp_path}/{rank}.txt"

    others = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    if subprocess.run([*others, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespace of processes can be made here")
    started = [subprocess.Popen(["sh", "-c", words(rank)], env=common) for rank in (0, 1)]
    # Rank 3 is ended from inside its namespace, where its number is known; its parent reaps it, as an agent does.
    inside = f"({words(2)}) & ({words(3)}) & three=$!; while [ ! -e {tmp_path}/now ]; do sleep 0.1; done; "
    started.append(subprocess.Popen([*others, inside + "kill -9 $three; wait"], env=common))
    try:
        files = [tmp_path / f"{rank}.txt" for rank in range(4)]
        hosts.wait_until(lambda: all("joined" in path.read_text() for path in files), "not all joined")
        (tmp_path / "now").touch()
        assert started[0].wait(hosts.LIMIT_S) == 7
        verdict = json.loads(files[0].read_text().splitlines()[-1])
        assert (verdict["rank"], verdict["kind"]) == (3, "lost")
        assert verdict["sentence"].endswith(
            "was lost during train: its process is gone (killed, e.g. by the system when memory runs out)"
        )
        for process in started[1:]:
            process.wait(hosts.LIMIT_S)
    finally:
        for process in started:
            process.kill()
            process.wait()
        for stream in shown.values():
            stream.close()


def test_who_waits_to_join_hears_that_rank_zero_was_refused(tmp_path, monkeypatch, capsys):
    """Rank zero alone looks at the run's folder, and ends before it joins the others."""
    (tmp_path / "run").mkdir()
    store.write(pages.full(), tmp_path / "run")
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    agent = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **agent}.items():
        monkeypatch.setenv(name, value)
    with signals.handlers_kept():
        assert lifecycle.main([str(RECIPE), "--out", str(tmp_path / "run")]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    prefix = f"bench_peers/0/{watchdog.ProcessWatchdog._started}"
    heard = SignedStore(server, launch_key(prefix)).get(f"{prefix}/left/0")
    assert heard is not None
    failure = failures.from_json(heard, 2)
    assert (failure.rank, failure.status) == (0, "invalid")
    assert "holds a finished run" in failure.sentence
    waiting = HeartbeatMonitor(rank=1, watched=(0,), limit_s=600.0)
    waiting.note_message(failure)
    assert waiting.alarmed()
