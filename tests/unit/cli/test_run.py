"""cli/run.py: what `run` hands to accelerate, and what is refused before."""

import os

import pytest

from bench.cli import run
from bench.cli.main import main
from bench.config import resolve
from bench.distributed import launcher
from bench.runner import lifecycle
from bench.sweeps import jobs
from tests.helpers.cases import together


@pytest.fixture
def replaced(monkeypatch):
    """The command line that takes this process's place, on a machine without GPUs."""
    found = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("BENCH_INCLUDE", raising=False)
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)

    def execve(program, words, environment):
        found.append((words, environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    return found


def launched(replaced, *words):
    with pytest.raises(SystemExit):
        main(["run", *words])
    return replaced.pop()


def test_a_recipe_is_launched_by_name(replaced):
    words, environment = launched(replaced, "tiny/bert-full", "--seed", "3", "training.steps=2", "--out", "x")
    recipe = str(resolve.SHIPPED / "tiny" / "bert-full.yaml")
    assert words[1:5] == ["-P", str(run.LAUNCHER), "--config_file", str(jobs.CONFIGS / "cpu.yaml")]
    own = words[words.index(str(jobs.PROGRAM)) + 1 :]
    assert os.path.samefile(own[0], recipe)
    assert own[1:] == ["training.steps=2", "--seed", "3", "--out", "x", "--timeout-s", "600.0"]
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "240"
    # The run finds its launcher by this, and ends with it.
    assert launcher.launch_arguments(words) == words[3:]


@together(
    "words, config, processes",
    [
        (["--num-processes", "2"], "ddp_cpu2", "2"),
        (["--config", "zero2_cpu2"], "zero2_cpu2", None),
        (["--config", "zero2_cpu2", "--num-processes", "4"], "zero2_cpu2", "4"),
    ],
)
def test_config_and_processes(replaced, words, config, processes):
    found, _ = launched(replaced, "tiny/bert-full", *words)
    assert found[found.index("--config_file") + 1] == str(jobs.CONFIGS / f"{config}.yaml")
    assert (found[found.index("--num_processes") + 1] if "--num_processes" in found else None) == processes


def test_every_option_of_a_run_is_handed_on(replaced, tmp_path):
    (tmp_path / "datasets").mkdir()
    flags = ["--overwrite", "--resume", "--check", "--traceback", "--no-texts", "--trust-remote-code"]
    found, _ = launched(replaced, "tiny/bert-full", *flags, "--timeout-s", "30", "--include", str(tmp_path))
    assert {*flags, "--timeout-s", "30.0", "--include", str(tmp_path)} <= set(found)


@together(
    "words, sentence",
    [
        (["tiny/bert-ful"], "Did you mean 'tiny/bert-full'"),
        (["tiny/bert-full", "--config", "zer2"], "no accelerate config 'zer2'"),
        (["tiny/bert-full", "--config", "multi_node_zero2"], "is for 2 machines, each of which must be told"),
    ],
)
def test_what_is_refused_before_a_launch(replaced, words, sentence, capsys):
    assert main(["run", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert replaced == []


def test_version(capsys):
    import bench

    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert (raised.value.code, capsys.readouterr().out) == (0, f"finetune-bench {bench.__version__}\n")


def test_a_run_without_texts_has_that_in_its_recipe():
    for flags, more in (([], ()), (["--no-texts"], ("dataset.quote=false",))):
        options = lifecycle.parser().parse_intermixed_args(["tiny/bert-full", "training.steps=2", *flags])
        overrides = lifecycle.overrides_of(options)
        assert overrides == ("training.steps=2", *more)
        resolved = resolve.load(resolve.SHIPPED / "tiny" / "bert-full.yaml", overrides, None)
        assert resolved.recipe.dataset.quote is not bool(flags)
