"""runner/batch_size.py: the largest micro-batch that fits, by trials in processes of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.config import json_schema, resolve
from bench.errors import RecipeError
from bench.memory import limits, report, search
from bench.memory.planner import MemoryPlan, Parallelism
from bench.runner import batch_size, lifecycle
from bench.training import state
from tests.helpers.launching import ROOT, environment, launch, read_lines

TINY = ROOT / "recipes" / "tiny"
RECIPE = TINY / "bert-full.yaml"
AUTO = "training.per_device_batch=auto"
SHORT = [
    "training={epochs: null, steps: 5, global_batch: 8, log_every: 1, learning_rate: 1e-3}",
    "limit={train: 24, test: 16}", "save=false",
]  # fmt: skip


def record_of(folder):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def found_in(folder):
    return record_of(folder)["speed"]["per_device_batch"]


# ---------------------------------------------------------------- the search


@pytest.mark.parametrize("share", [1, 2, 7, 12, 32, 1024])
def test_every_start_finds_the_largest_that_fits(share):
    sizes = search.candidates(share)
    assert sizes[0] == 1
    assert sizes[-1] == share
    for most in [0, *sizes]:
        for start in range(len(sizes)):
            asked = []

            def fits(rows, most=most, asked=asked):
                asked.append(rows)
                return rows <= most

            assert search.largest(sizes, start, fits) == most
            assert len(set(asked)) == len(asked), "a size is tried once"
            assert len(asked) <= 2 * len(sizes).bit_length() + 1


def test_a_good_prediction_saves_trials():
    sizes = search.candidates(1024)

    def trials(start, most):
        asked = []
        search.largest(sizes, sizes.index(start), lambda rows: asked.append(rows) or rows <= most)
        return asked

    assert trials(1024, 1024) == [1024]
    assert trials(32, 32) == [32, 64]
    assert trials(64, 32) == [64, 32]
    assert trials(1, 0) == [1]


def test_rows_divide_the_share():
    assert search.candidates(12) == [1, 2, 3, 4, 6, 12]


# ---------------------------------------------------------------- room


def test_room_on_a_cpu_is_bounded_by_each_limit():
    """In a process with a limit of its own: what is left there is the limit, less what the process has."""
    code = (
        "import resource, torch; from bench.memory import limits as room\n"
        "cpu = torch.device('cpu'); free = room.available_bytes(cpu)\n"
        "assert set(free) == {room.MEMORY}, free\n"
        "resource.setrlimit(resource.RLIMIT_AS, (room.held_bytes(cpu)[room.ADDRESSES] + 2**30,) * 2)\n"
        "left = room.available_bytes(cpu); assert abs(left[room.ADDRESSES] - 2**30) < 2**24, left\n"
        "assert room.available_bytes(cpu, 2)[room.MEMORY] < 0.6 * free[room.MEMORY]\n"
        "room.keep_within({room.MEMORY: 2**28, room.ADDRESSES: 2**29}, cpu)\n"
        "kept = torch.ones(2**24)\n"
        "try: more = torch.ones(2**26)\n"
        "except RuntimeError as error: assert 'memory' in str(error), error\n"
        "else: raise AssertionError('more than was allowed')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_control_group_makes_this_machine_smaller_than_nothing():
    left = limits.available_bytes(torch.device("cpu"))
    assert 0 < left[limits.MEMORY] < 2**50


# ---------------------------------------------------------------- recipes and plans


def test_auto_is_a_value_and_other_words_are_none():
    resolved = resolve.load(RECIPE, (AUTO,))
    assert resolved.recipe.training.per_device_batch == "auto"
    assert resolved.hash == resolve.load(RECIPE, (AUTO,)).hash != resolve.load(RECIPE).hash
    offered = json_schema.of("recipe")["$defs"]["Training"]["properties"]["per_device_batch"]["anyOf"]
    assert {"const": "auto", "type": "string"} in offered
    with pytest.raises(RecipeError, match="'auto'"):
        resolve.load(RECIPE, ("training.per_device_batch=largest",))


def test_a_plan_takes_what_is_predicted_to_fit():
    job = MemoryPlan.of(resolve.load(RECIPE, (AUTO, "training.global_batch=24")), Parallelism(world=2))
    assert search.planned(job, 128, None)[0] == 12
    sizes = [job.predict(rows, 128).needed for rows in (1, 4)]
    assert search.planned(job, 128, sizes[1])[0] == 4
    rows, (said,) = search.planned(job, 128, sizes[0] - 1)
    assert (rows, said) == (1, "training.per_device_batch: auto: not even 1 is predicted to fit")
    plain = MemoryPlan.of(resolve.load(RECIPE), Parallelism())
    assert search.planned(plain, 128, 1) == (32, [])
    lines = report.lines(report.PlanRequest(path=RECIPE, overrides=(AUTO,), gpu="24GiB"))
    assert "training.per_device_batch: auto: 32 is the largest that is predicted to fit; a run tries it" in lines


def test_the_longest_examples_are_tried():
    features = [
        {"input_ids": [1] * 5, "token_labels": [-100] * 4 + [1]},
        {"input_ids": [1] * 9, "token_labels": [-100] * 8 + [1]},
        {"input_ids": [1] * 9, "token_labels": [-100] * 5 + [1] * 4},
    ]
    assert sorted(features, key=batch_size._size, reverse=True) == [features[2], features[1], features[0]]
    apart = [{"input_ids": [1] * 6, "token_labels": [1] * 2}, {"input_ids": [1] * 5, "token_labels": [1] * 4}]
    assert sorted(apart, key=batch_size._size, reverse=True) == [apart[1], apart[0]]


# ---------------------------------------------------------------- trials


@pytest.fixture
def trials(monkeypatch):
    """Rows of the trials that were started; those in `fates` get a signal as soon as they are."""
    started, fates = [], {}
    begin = subprocess.Popen

    class Watched(begin):
        rows = None

        def __init__(self, command, **options):
            super().__init__(command, **options)
            request = Path(str(command[-1])) / batch_size.REQUEST
            if request.is_file():
                self.rows = json.loads(request.read_text(encoding="utf-8"))["recipe"]["training"]["per_device_batch"]
                started.append((self.rows, self.pid))

        def wait(self, timeout=None):
            if self.rows in fates:
                target, number = fates.pop(self.rows)
                os.kill(self.pid if target == "trial" else os.getpid(), number)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    return started, fates


def stop_after(monkeypatch, step):
    """Sends this process SIGTERM in the middle of a step."""
    start, begun = state.Steps.start, []

    def begin(steps):
        begun.append(None)
        if len(begun) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        start(steps)

    monkeypatch.setattr(state.Steps, "start", begin)


def logged(folder):
    return [{key: row[key] for key in row if key != "seconds"} for row in read_lines(folder / "train_log.jsonl")]


def test_a_trial_that_the_system_kills_did_not_fit_and_the_number_holds_for_a_resumed_run(
    tmp_path, trials, monkeypatch
):
    """Killed at 8, found 4; stopped, resumed without a trial; the same losses as with 4 written down."""
    started, fates = trials
    fates[8] = ("trial", signal.SIGKILL)
    found, written = tmp_path / "auto", tmp_path / "written"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert lifecycle.main([str(RECIPE), *SHORT, AUTO, "--out", str(found)]) == 130
    assert [rows for rows, _ in started] == [8, 4]
    first = found_in(found)
    assert (first["chosen"], first["by"], first["headroom_share"]) == (4, "probe", 0.05)
    killed, fitted = first["tried"]
    assert (killed["rows"], killed["fits"], killed["peak_gib"]) == (8, False, None)
    assert "killed" in killed["reason"]
    assert (fitted["rows"], fitted["fits"], fitted["reason"]) == (4, True, None)
    assert 0 < fitted["peak_gib"] < 0.95 * first["capacity_gib"]
    assert 0 < fitted["predicted_gib"] < first["capacity_gib"]
    assert fitted["length"] == max(record_of(found)["data"]["splits"]["train"]["tokens"].values())

    assert lifecycle.main([str(RECIPE), *SHORT, AUTO, "--out", str(found)]) == 0
    assert len(started) == 2, "no second search"
    assert found_in(found) == {**first, "by": "the interrupted run"}
    record = record_of(found)
    assert [record["launch"][name] for name in ("global_batch", "per_device_batch", "accumulation")] == [8, 4, 2]

    assert lifecycle.main([str(RECIPE), *SHORT, "training.per_device_batch=4", "--out", str(written)]) == 0
    assert logged(found) == logged(written)
    assert record["scores"] == record_of(written)["scores"]
    assert record["comparability"] == record_of(written)["comparability"]
    assert "per_device_batch" not in record_of(written)["speed"]


@pytest.mark.parametrize(
    ("target", "number", "code", "status"),
    [("trial", signal.SIGSEGV, 1, "crashed"), ("run", signal.SIGTERM, 130, "interrupted")],
)
def test_an_end_that_says_nothing_of_memory_ends_the_run(tmp_path, trials, target, number, code, status):
    started, fates = trials
    fates[8] = (target, number)
    assert lifecycle.main([str(RECIPE), *SHORT, AUTO, "--out", str(tmp_path)]) == code
    record = record_of(tmp_path)
    assert (record["status"], record["failed_in"]) == (status, "probe")
    if target == "trial":
        assert "a trial of 8 examples at once failed" in record["reason"]
        assert "-11" in record["reason"]
    ((_, process),) = started
    assert not Path(f"/proc/{process}").exists()


def test_without_gradients_there_is_nothing_to_try(write, tmp_path, trials):
    # The recipe itself may not say so for a probe; a card says it for all methods.
    card = (TINY.parent / "datasets" / "reviews.yaml").read_text(encoding="utf-8")
    write("datasets/mine.yaml", card + "defaults: {training: {per_device_batch: auto}}\n")
    recipe = (TINY / "albert-probe.yaml").read_text(encoding="utf-8").replace("dataset: reviews", "dataset: mine")
    path = write("own/full.yaml", recipe.partition("method:")[0] + "method: full\ntraining: {steps: 3}\n")
    assert (
        lifecycle.main([str(path), "method=probe", "limit={train: 24, test: 16}", "--out", str(tmp_path / "run")]) == 0
    )
    record = record_of(tmp_path / "run")
    assert trials[0] == []
    # What logistic regression fits counts as trained, in the record too: (features + 1) x labels.
    assert record["model"]["parameters"]["trainable"] == (256 + 1) * 2
    unused = "training.steps of the recipe's file not used: method probe trains nothing by gradients"
    assert unused in record["notes"]
    assert "training.per_device_batch: auto is not used: method probe trains nothing by gradients" in record["notes"]
    assert "per_device_batch" not in record["speed"]


# ---------------------------------------------------------------- launches

# Activations outweigh all else: about 2 MiB for each token of a micro-batch, at 30 to 60 tokens for each row.
WIDE = [
    "training={epochs: null, steps: 2, global_batch: 16, engine: loop}", "limit={train: 32, test: 16}", "save=false",
    "evaluation.before=false", "evaluation.batch_tokens=64",
    "model.architecture.hidden_size=8", "model.architecture.num_attention_heads=2",
]  # fmt: skip


def limited(out, mib, width):
    """A run that gets so many MiB of addresses for its model and all that follows."""
    settings = [*WIDE, f"model.architecture.intermediate_size={width}", AUTO]
    command = [sys.executable, ROOT / "tests" / "helpers" / "limited_memory.py", RECIPE, *settings, "--out", out]
    # What is kept after it was freed lies in pieces by chance, which may double a peak.
    kept = {name: value for name, value in environment().items() if not name.startswith("MALLOC_")}
    # Else each thread that allocates takes 64 MiB of addresses for itself, and which threads do, is chance.
    one_arena = {"MALLOC_ARENA_MAX": "1"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**kept, **one_arena, "LIMIT_MIB": str(mib)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_run_finds_what_fits_its_limit_and_trains_within_it(tmp_path):
    done = limited(tmp_path, 900, 2**17)
    assert done.returncode == 0, done.stderr[-3000:]
    record, found = record_of(tmp_path), found_in(tmp_path)
    assert found["limit"] == limits.ADDRESSES
    assert 1 <= found["chosen"] < 16
    assert record["launch"]["per_device_batch"] == found["chosen"]
    assert record["launch"]["global_batch"] == 16
    tried = {one["rows"]: one for one in found["tried"]}
    assert tried[found["chosen"]]["fits"]
    assert tried[found["chosen"]]["peak_gib"] <= 0.95 * found["capacity_gib"]
    above = min(rows for rows in search.candidates(16) if rows > found["chosen"])
    assert not tried[above]["fits"]
    assert tried[above]["reason"]
    assert "probe" in {phase["name"] for phase in record["phases"]}
    assert "keep_memory" not in record["speed"]
    assert any(note.startswith("speed.keep_memory is not used") for note in record["notes"])


def test_not_even_one_example_fits(tmp_path):
    done = limited(tmp_path, 900, 2**22)
    assert done.returncode == lifecycle.EXIT_CODES["oom"], done.stderr[-3000:]
    record, found = record_of(tmp_path), found_in(tmp_path)
    assert (record["status"], record["failed_in"], found["chosen"]) == ("oom", "probe", 0)
    assert "not even a micro-batch of 1 example" in record["reason"]
    assert "predicted" in record["reason"]
    assert "GiB of address space are left" in record["reason"]
    assert [one["rows"] for one in found["tried"]] == [1]


def test_two_processes_take_the_same_number_and_wait_for_it(tmp_path):
    """The trial takes longer than the silence after which a process counts as lost."""
    settings = [*SHORT, "model=tiny_gpt2", "objective=text", AUTO, "--timeout-s", 10]
    done = launch(RECIPE, *settings, "--out", tmp_path, config="ddp_cpu2")
    assert done.returncode == 0, done.stderr[-3000:]
    record, found = record_of(tmp_path), found_in(tmp_path)
    assert (record["launch"]["world_size"], record["launch"]["global_batch"]) == (2, 8)
    assert found["chosen"] == record["launch"]["per_device_batch"] == 4
    assert [one["rows"] for one in found["tried"]] == [4]
    assert record["training"]["steps"] == 5
