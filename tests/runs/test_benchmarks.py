"""scripts/benchmarks: each runs in small, says what it compared, and what both sides computed is the same."""

import importlib
import json
import subprocess
import sys

import pytest

from bench.distributed import sharding
from bench.utils.hardware import GIB
from tests.helpers.launching import ROOT, environment

FOLDER = ROOT / "scripts" / "benchmarks"
SPREAD = {"median", "min", "max"}


def run(name, *arguments):
    """(the lines before the JSON, the JSON)."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--small", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *shown, last = done.stdout.splitlines()
    found = json.loads(last)
    assert (found["benchmark"], found["small"], found["device"]) == (name, True, "cpu")
    rows = [line for line in shown if line.startswith("|")]
    assert len(rows) == 2 + len(found["cases"]), shown
    assert len({row.count("|") for row in rows}) == 1
    return shown, found


def assert_spread(values, *, least=0.0):
    assert set(values) == SPREAD
    assert least < values["min"] <= values["median"] <= values["max"]


def test_training():
    shown, found = run("training")
    assert "1 thread(s)" in shown[0]
    assert (found["threads"], found["rounds"]) == (1, 2)
    assert [(case["case"], case["against"], case["precision"]) for case in found["cases"]] == [
        ("encoder-reviews", "Trainer", "no"),
        ("encoder-reviews-bf16", "Trainer", "bf16"),
        ("encoder-reviews-cut", "Trainer", "no"),
        ("encoder-sentences", "Trainer", "no"),
        ("decoder-head-reviews", "Trainer", "no"),
        ("encoder-reviews-sorted", "sorted", "no"),
        ("encoder-sentences-sorted", "sorted", "no"),
        ("gemma3-reviews", "padded", "no"),
        ("qwen3_moe-reviews", "padded", "no"),
    ]
    for case in found["cases"]:
        for name in ("rival_cpu_s", "bench_cpu_s", "cpu_ratio", "wall_ratio"):
            assert_spread(case[name])
        assert case["ratio"] == case["cpu_ratio"]["median"]
        shares = [case["rival_gemm_share"], case["bench_gemm_share"]]
        assert all(0 < share < 1 for share in shares)
        # The same operations on both sides, so that shares are as times, each of which is a median of its own.
        times = [case[f"{side}_cpu_s"]["median"] for side in ("rival", "bench")]
        assert shares[1] / shares[0] == pytest.approx(times[0] / times[1])
        if case["against"] == "sorted":  # other batches, with hardly a pad
            assert (case["losses_compared"], case["same_losses"]) == (0, None)
            assert case["padding_share"] < 0.3
            continue
        # Each step of each round, the first one too.
        assert case["losses_compared"] == (case["steps"] + 1) * found["rounds"]
        assert case["same_losses"]
        exact = case["precision"] == "no"
        assert case["first_difference"] <= (1e-6 if exact else 2e-2)
        assert case["relative_difference"] <= (1e-4 if exact else 2e-2)
        assert 0.2 < case["padding_share"] < 0.8
    # Another precision was in force, on our side only.
    assert found["cases"][1]["relative_difference"] > 1e-6


def test_one_case_of_training_in_one_round():
    _, found = run("training", "--case", "encoder-sentences", "--rounds", "1")
    (case,) = found["cases"]
    assert (case["case"], found["rounds"]) == ("encoder-sentences", 1)


def test_evaluation():
    _, found = run("evaluation")
    assert [case["case"] for case in found["cases"]] == ["pipeline, batch_size=32", "pipeline, batch_size=1"]
    assert found["fastest_ratio"] == min(case["ratio"] for case in found["cases"])
    for case in found["cases"]:
        assert case["labels_compared"] == case["num_texts"] * found["rounds"] > 0
        assert case["same_labels"]
        assert case["largest_difference"] <= 1e-5
        for name in ("pipeline_cpu_s", "bench_cpu_s", "cpu_ratio", "wall_ratio"):
            assert_spread(case[name])


def test_overhead():
    _, found = run("overhead")
    assert [case["case"] for case in found["cases"]] == ["trainer", "loop"]
    for case in found["cases"]:
        # Logged after steps 1, 10 and 12; the first three are not timed.
        assert case["losses_compared"] == 3 * found["rounds"]
        assert case["steps"] == 9 * found["rounds"]
        assert case["same_losses"]
        assert case["relative_difference"] <= 1e-4
        assert_spread(case["step_ms"])
        assert_spread(case["bare_step_ms"])
        # On a busy machine a round may come out in favour of either.
        assert_spread(case["overhead_ms"], least=-case["bare_step_ms"]["max"])
        assert_spread(case["overhead_share"], least=-1.0)


def test_commands():
    _, found = run("commands")
    bare, *commands = found["cases"]
    assert bare["modules"] < 150
    assert [case["case"].split()[0] for case in commands] == ["--help", "list", "check", "report"]
    for case in commands:
        assert case["modules"] > bare["modules"]
        assert case["heavy"] == []
        assert_spread(case["wall_s"])
        assert_spread(case["cpu_s"])


def test_a_wrong_answer_ends_with_1(tmp_path):
    """The comparison itself: a harness whose scores are a little off must not pass."""
    code = (
        "import sys; sys.argv = ['evaluation.py', '--small', '--rounds', '1']\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import evaluation\n"
        "plain = evaluation.by_bench\n"
        "def off(model, tokens):\n"
        "    answer = plain(model, tokens)\n"
        "    return lambda texts: [(label, score + 2e-5) for label, score in answer(texts)]\n"
        "evaluation.by_bench = off\n"
        "sys.exit(evaluation.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "the answers are not the same" in done.stderr


def test_spread_memory():
    shown, found = run("spread_memory")
    assert [(case["way"], case["processes"]) for case in found["cases"]] == [("ddp", 2), ("zero3", 2)]
    one, other = found["cases"]
    assert other["zero_stage"] == 3
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for case in found["cases"]:
        # Buckets are larger than this model, and never filled; its states are there.
        assert case["peak_gib"] > case["held_gib"] > 16 * case["parameters"] / case["processes"] / GIB
        assert case["peak_by_sources_gib"] >= case["held_by_sources_gib"]
    assert "parameters; memory of each process" in shown[0]


def test_the_plan_counts_what_the_sources_hold_on_any_number_of_processes(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spread_memory = importlib.import_module("spread_memory")
    bucket = sharding.BUFFERS["reduce_bucket_size"]
    for way in spread_memory.CONFIGS:
        for processes in (2, 4, 8):
            planned = spread_memory.planned_bytes(way, processes, "small")
            held = spread_memory.held_bytes(way, processes, 4_459_264, bucket)
            assert planned == pytest.approx(held, rel=1e-3), (way, processes)


def test_figures_of_spread_memory_are_kept_for_the_code_that_they_are_of(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    spread_memory = importlib.import_module("spread_memory")
    codes, times = ["first", "first", "second"], iter(range(3))
    monkeypatch.setattr(spread_memory.git, "git", lambda *_: codes.pop(0) + "\n")
    found = [spread_memory.kept(tmp_path, "zero3-2", lambda: {"held_gib": next(times)}) for _ in range(3)]
    assert [row["held_gib"] for row in found] == [0, 0, 1]
    assert spread_memory.kept(None, "zero3-2", lambda: {"held_gib": next(times)}) == {"held_gib": 2}


def test_spread_memory_of_loading_and_saving(monkeypatch):
    shown, found = run("spread_memory", "--phases")
    (case,) = found["cases"]
    assert (case["processes"], case["same"]) == (2, True)
    assert case["share_gib"] == found["weights"] / 2 / GIB
    assert case["load_gib"] > 0
    assert "| processes | share of the weights | load | save | at most |" in shown
    monkeypatch.syspath_prepend(str(FOLDER))
    spread_memory = importlib.import_module("spread_memory")
    fits = {"processes": 2, "allowed_gib": 0.3, "load_gib": 0.29, "save_gib": 0.3, "same": True}
    assert spread_memory.phase_problems([fits]) == []
    assert spread_memory.phase_problems([{**fits, "save_gib": 0.31, "same": False}]) == [
        "2 processes saved other weights than they loaded",
        "save on 2: 0.310 GiB, at most 0.300",
    ]


def test_what_scoring_may_take_is_a_part_and_a_layer(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spread_memory = importlib.import_module("spread_memory")
    units = {"matrix": 4, "layer": 10, "outside": 2, "bucket": 8}
    assert spread_memory.score_bytes("zero3", 2, 100, units) == 20 * 50 + 4 * 8 + 2 * 4 * 4
    assert spread_memory.score_bytes("fsdp2", 4, 100, units) == 12 * 25 + 3 * 4 * 10 + 4 * 2
    assert spread_memory.allowed_bytes("zero3", 2, 100, units) == pytest.approx(1.15 * (20 * 50 + 4 * 8) + 4 * 10)
    row = {"way": "zero3", "processes": 2, "sharded": True, "of_model_gib": 1.4, "allowed_gib": 1.5}
    assert spread_memory.scoring_problems([row, {**row, "sharded": False, "of_model_gib": 2.0}]) == []
    assert spread_memory.scoring_problems([{**row, "of_model_gib": 1.6}]) == [
        "scored by zero3 on 2: 1.60 GiB, at most 1.50"
    ]
    small = {"score_gib": 0.07, "score_by_sources_gib": 0.02}
    found = spread_memory.without_any_size({**row, "score_gib": 1.6}, small)
    assert (found["any_size_gib"], found["of_model_gib"]) == (pytest.approx(0.05), pytest.approx(1.55))
    small = {"held_gib": 0.08, "held_by_sources_gib": 0.02}
    found = spread_memory.trained_without_any_size({"held_gib": 0.56, "peak_gib": 0.8, "losses": []}, small)
    assert {name: round(found[f"{name}_gib"], 6) for name in ("held", "peak", "any_size")} == {
        "held": 0.5, "peak": 0.74, "any_size": 0.06
    }  # fmt: skip
    small = {"held_gib": 0.01, "held_by_sources_gib": 0.02}  # buckets that are never filled
    assert spread_memory.trained_without_any_size({"held_gib": 0.56, "peak_gib": 0.8}, small)["held_gib"] == 0.56


def test_memory_diet():
    _, found = run("memory_diet")
    by_name = {case["case"]: case for case in found["cases"]}
    full = by_name["the whole diet"]
    for name, case in by_name.items():
        if name.startswith("loading"):
            # A model this small has little else than its embedding, which is not quantised.
            assert case["planned"] <= case["measured"] < case["planned"] + 300_000
        elif name != "without answer logits":  # which come in the padded shape
            assert case["measured"] == pytest.approx(case["planned"], rel=0.15), name
    for part in ("adapters in bfloat16", "gradient checkpointing", "answer logits", "padding-free"):
        assert by_name[f"without {part}"]["measured"] > full["measured"], part
    kept, dropped = (by_name[f"all weights, copies {name}"] for name in ("kept", "dropped"))
    assert kept["measured"] - dropped["measured"] == pytest.approx(kept["planned"] - dropped["planned"], rel=0.2)
    assert kept["losses"] == dropped["losses"]


def measured(spread_memory, way, processes):
    parameters = 128_000_000
    found = {"way": way, "processes": processes, "losses": [0.7, 0.6]}
    for kind, size in (
        ("held", spread_memory.held_bytes(way, processes, parameters, 2**24)),
        ("peak", spread_memory.peak_bytes(way, processes, parameters, sharding.BUFFERS, layer=parameters // 8)),
    ):
        found |= {f"{kind}_gib": 1.05 * size / GIB, f"{kind}_by_sources_gib": size / GIB}
    return found | {"held_by_the_plan_gib": found["held_by_sources_gib"]}


def test_memory_that_is_not_as_it_must_be_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spread_memory = importlib.import_module("spread_memory")
    rows = [measured(spread_memory, way, count) for way in spread_memory.CONFIGS for count in (1, 2, 4)]
    assert spread_memory.problems(rows) == []
    second, third = ([row for row in rows if row["way"] == way][1] for way in ("zero2", "zero3"))
    third["losses"] = [0.7, 0.61]
    # A stage that saves nothing.
    second["held_gib"] = next(row["held_gib"] for row in rows if (row["way"], row["processes"]) == ("zero1", 2))
    told = "\n".join(spread_memory.problems(rows))
    assert "zero3 on 2: losses [0.7, 0.61], expected [0.7, 0.6]" in told
    assert "zero2 on 2: held 1.75 GiB, by the sources 1.43" in told
    assert "zero2 on 2: held 1.75 GiB, by the plan 1.43" in told
    assert "from ('zero1', 2) to ('zero2', 2), what is held falls by 0.00 GiB, expected 0.24" in told


def test_answer_training_finds_the_same_losses():
    script = ROOT / "scripts" / "benchmarks" / "answer_training.py"
    command = [sys.executable, str(script), "--small", "--rounds", "1"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])["cases"]
    assert [case["case"] for case in cases] == ["recomputed", "kept"]
    for case in cases:
        assert 0 < case["relative_difference"] <= 1e-4
        assert 2 <= case["answer_tokens"] <= 3
        # Ten rows of a vocabulary of 4000 in float32: the logits, their softmax, and the gradient.
        assert case["bench_logits_mib"] * 2**20 <= 3 * 4 * 4000 * 12 < case["trl_logits_mib"] * 2**20


def test_label_scoring_finds_the_same_scores():
    script = ROOT / "scripts" / "benchmarks" / "label_scoring.py"
    done = subprocess.run(
        [sys.executable, str(script), "--small"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])["cases"]
    assert len(cases) == 5
    assert all(case["same_choices"] and case["largest_difference"] <= 1e-4 for case in cases)
    # Some labels are of several tokens, as in a real vocabulary.
    assert {1, 2} < set(cases[0]["label_tokens"])


def test_generation():
    command = [sys.executable, "scripts/benchmarks/generation.py", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [case["case"] for case in found["cases"]] == ["4 shots", "no shots"]


def test_postprocessing():
    _, found = run("postprocessing")
    assert [(case["num_questions"], case["num_windows"]) for case in found["cases"]] == [(60, 60), (30, 90)]
    for case in found["cases"]:
        assert case["answers_compared"] == case["num_questions"] * found["rounds"]
        assert case["same_answers"]
        assert case["largest_difference"] <= 1e-6
        for name in ("loops_cpu_s", "bench_cpu_s", "cpu_ratio", "wall_ratio"):
            assert_spread(case[name])
    every, some = (case["no_answers"] for case in found["cases"])
    assert every == 0
    assert 0 < some < 30


def test_postprocessing_fails_where_answers_differ(tmp_path):
    code = (
        "import dataclasses, sys; sys.argv = ['postprocessing.py']\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import postprocessing\n"
        "plain, codes = postprocessing.by_bench, []\n"
        "for change in (lambda said: {'text': said.text + '.'}, lambda said: {'score': said.score + 1e-4}):\n"
        "    changed = lambda given: [dataclasses.replace(said, **change(said)) for said in plain(given)]\n"
        "    postprocessing.by_bench = changed\n"
        "    codes.append(postprocessing.main(['--small', '--rounds', '1']))\n"
        "sys.exit(min(codes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "the answers are not the same" in done.stderr
