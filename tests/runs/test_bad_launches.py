"""Launches that can't give what was asked for end at once, with one sentence, and no process is left."""

import socket
import sys

import pytest

from bench.records import store
from bench.runner import lifecycle
from tests.helpers import hosts
from tests.helpers.launching import ROOT, RUN, launch, read_lines

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
SHORT = ["training.epochs=null", "training.steps=2", "limit={train: 24, test: 16}"]


def accelerate(out, *options, arguments=(), **changes):
    """`accelerate launch` with options of one's own."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *options]
    return hosts.Launched([*launcher, RUN, RECIPE, *SHORT, *arguments, "--out", out], out, **changes)


def config(name):
    return ["--config_file", ROOT / "accelerate_configs" / f"{name}.yaml"]


def refused(launched, word="invalid"):
    """The one sentence of a launch that failed."""
    with launched:
        assert launched.end() != 0
        lines = [line for line in launched.text.splitlines() if line.split(":")[0] in hosts.STATUSES]
    assert len(lines) == 1, launched.text[-3000:]
    assert lines[0].startswith(f"{word}: ")
    return lines[0].removeprefix(f"{word}: ")


# What the tests' own environment says must not decide here.
UNSAID = {"ACCELERATE_USE_CPU": ""}


def test_gpus_are_asked_for_where_there_are_none(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    out = tmp_path / "out"
    told = refused(accelerate(out, *config("ddp"), "--num_processes", 2, **UNSAID))
    assert told.startswith(
        "the accelerate config asks for GPUs (distributed_type MULTI_GPU), and this machine has none"
    )
    assert "cpu.yaml" in told
    assert (store.read(out).status, store.read(out).reason) == ("invalid", told)


def test_one_process_without_use_cpu_runs_on_the_cpu_and_says_so(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with accelerate(tmp_path / "out", *config("gpu1"), **UNSAID) as launched:
        assert launched.end() == 0, launched.text[-3000:]
    assert [note for note in store.read(tmp_path / "out").notes if "everything ran on the CPU" in note]


def test_two_processes_are_asked_for_and_one_comes(tmp_path):
    (tmp_path / "multi_cpu.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nmixed_precision: 'no'\n"
        "num_machines: 1\nnum_processes: 2\n",
        encoding="utf-8",
    )
    told = refused(accelerate(tmp_path / "out", "--config_file", tmp_path / "multi_cpu.yaml", **UNSAID))
    assert told.startswith("2 processes were asked for, but 1 came about (MULTI_CPU starts just one")


def test_a_global_batch_that_does_not_divide(tmp_path):
    out = tmp_path / "out"
    told = refused(accelerate(out, *config("ddp_cpu2"), arguments=["training.global_batch=7"]))
    assert "training.global_batch 7 can't be split over 2 processes" in told
    assert store.read(out).reason == told


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    told = refused(accelerate(tmp_path / "file", *config("ddp_cpu2")))
    assert told.startswith(f"--out {tmp_path / 'file'}: ")
    assert "is a file, and a run writes into a folder; give another path" in told


def test_fewer_examples_than_processes(tmp_path):
    """One process has nothing to score; the answers are those of a single process."""
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    asked = [ROOT / "recipes" / "tiny" / "llama-zero_shot.yaml", "limit={test: 1}"]
    for folder, name in ((alone, "cpu"), (spread, "ddp_cpu2")):
        done = launch(*asked, "--out", folder, config=name)
        assert done.returncode == 0, done.stderr[-2000:]
    rows = [read_lines(folder / "predictions" / "after-test.jsonl") for folder in (alone, spread)]
    assert len(rows[0]) == 1
    assert rows[0][0]["prediction"] == rows[1][0]["prediction"]
    ours, theirs = (store.read(folder).scores["after"]["test"] for folder in (spread, alone))
    assert ours["accuracy"] == theirs["accuracy"]
    assert ours["loss"].value == pytest.approx(theirs["loss"].value, rel=1e-5)


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "soon"])
def test_a_limit_that_makes_no_sense(capsys, text):
    with pytest.raises(SystemExit) as stopped:
        lifecycle.main([str(RECIPE), f"--timeout-s={text}"])
    assert stopped.value.code == 2
    assert text in capsys.readouterr().err.splitlines()[-1]


def test_a_port_in_use(tmp_path):
    """On one machine accelerate takes another port, on several it can't: the launcher itself ends, at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = ["--main_process_port", taken.getsockname()[1]]
        with accelerate(tmp_path / "out", *config("ddp_cpu2"), *port) as launched:
            assert launched.end() == 0, launched.text[-3000:]
        several = ["--num_machines", 2, "--machine_rank", 0, "--main_process_ip", "127.0.0.1"]
        with accelerate(tmp_path / "other", *config("ddp_cpu2"), *port, *several) as launched:
            assert launched.end() != 0
            assert "another process is utilizing it" in launched.text
