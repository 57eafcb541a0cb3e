"""scripts/gpu_fit and the cap it sets: the way it takes on a CPU, its table from records alone, what it refuses."""

import json
import subprocess
import sys

import pytest
import torch

from bench.distributed import setup
from bench.errors import SetupError
from bench.records import store
from bench.records.record import Environment, Launch, RecipePart, Record
from bench.runner import lifecycle
from bench.utils import hardware
from bench.utils.hardware import GIB
from scripts import gpu_fit
from tests.helpers.launching import ROOT, environment

CASE = "sst2-gemma_7b-text_qlora"
CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def start(*arguments):
    return subprocess.run(
        [str(ROOT / "scripts" / "gpu_fit"), *map(str, arguments)],
        env={**environment(), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_recipe_runs_in_small_on_a_cpu(tmp_path):
    out = tmp_path / "fit"
    done = start("--mini", "--case", CASE, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{CASE}: ok"
    found = store.read(out / CASE)
    assert (found.model.weights, found.recipe.path) == ("random", "recipes/sst2/gemma_7b-text_qlora.yaml")
    assert "nf4" in found.model.dtypes
    # Every text was longer than the recipe reads, and is as long as it may be.
    tokens = found.data.splits["train"].tokens
    assert tokens["mean"] == tokens["max"] == found.recipe.resolved["max_length"] == 256
    assert found.training.steps == 4
    text = (tmp_path / "fit.md").read_text(encoding="utf-8")
    assert text == gpu_fit.table(out)
    assert f"| {CASE} |" in text


@CPU_ONLY
def test_without_a_gpu_it_says_so():
    done = start()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no CUDA device is to be seen here; --mini takes the same way on a CPU, in small\n"


def test_cases_are_the_recipes_made_for_a_size_of_gpu_and_the_comparisons():
    names = [case.name for case in gpu_fit.cases()]
    assert len(set(names)) == len(names)
    assert {CASE, "imdb-mistral_7b_v03-text_qlora_12gib", *gpu_fit.COMPARED} <= set(names)
    assert len(names) == len(gpu_fit.report.MADE_FOR) + len(gpu_fit.COMPARED) >= 26


@pytest.mark.parametrize("mini", [False, True])
@pytest.mark.parametrize("case", gpu_fit.cases(), ids=lambda case: case.name)
def test_every_case_resolves_with_data_of_its_own(case, mini, tmp_path):
    given = gpu_fit.resolve.load(case.path, case.overrides)
    found = gpu_fit.resolve.load(case.path, tuple(gpu_fit.overrides(case, tmp_path, mini)))
    assert found.recipe.model.weights == "random"
    assert found.recipe.dataset.source.kind in ("jsonl", "squad")
    assert found.recipe.training.steps == (4 if mini else gpu_fit.STEPS)
    if not mini:
        # All that decides the memory is the recipe's own.
        for part in ("architecture", "dtype", "attention", "max_length"):
            assert getattr(found.recipe.model, part) == getattr(given.recipe.model, part)
        assert (found.recipe.method, found.recipe.max_length) == (given.recipe.method, given.recipe.max_length)
        for key in ("optimizer", "global_batch", "per_device_batch", "gradient_checkpointing"):
            assert getattr(found.recipe.training, key) == getattr(given.recipe.training, key)


def test_texts_are_the_same_in_every_run(tmp_path):
    case = next(one for one in gpu_fit.cases() if one.name == "squad-mistral_7b_v03-text_qlora_12gib")
    for folder in ("one", "other"):
        gpu_fit.write_texts(case, tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["eval.json", "train.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    article = json.loads((tmp_path / "one" / "train.json").read_text(encoding="utf-8"))["data"][0]["paragraphs"][0]
    assert len(article["context"].split()) > 512
    assert article["context"].startswith(article["qas"][0]["answers"][0]["text"])


def left(folder, **fields):
    folder.mkdir(parents=True)
    content = Record(name="x", started_at="2026-01-01", recipe=RecipePart(path="x.yaml"), **fields)
    store.write(content, folder)


def test_the_table_is_made_of_records_alone(tmp_path):
    spread = {"world_size": 1, "num_machines": 1, "distributed_type": "NO", "mixed_precision": "bf16"}
    sizes = {"device": "cuda", "global_batch": 16, "per_device_batch": 1, "accumulation": 16, "memory_cap_gib": 12.0}
    left(
        tmp_path / "fit" / "b",
        status="ok",
        reason=None,
        environment=Environment(python="3.11", platform="Linux", packages={}, devices=["NVIDIA H200"]),
        launch=Launch(**spread, **sizes),
        memory={"train": {"allocated_gib": 4.5, "reserved_gib": 4.75}},
        throughput={"train": {"real_tokens_per_s": 12345.6, "mfu": 0.25}},
        memory_predicted={
            "train": {"total_gib": 5.31, "rows": 1, "length": 512},
            "compared": {"gib": 4.77},
            "error": 0.06,
        },
    )
    left(tmp_path / "fit" / "a", status="oom", reason="out of | memory")
    shown = gpu_fit.table(tmp_path / "fit").splitlines()[-2:]
    assert shown == [
        "| a | – | – | – | – | – | – | – | – | – | – | oom: out of &#124; memory |",
        "| b | NVIDIA H200 | 12.00 | 1 x 512 | 5.31 | 4.77 | 4.50 | +6.0% | 4.75 | 12,346 | 25.0% | ok |",
    ]


def test_the_report_is_that_of_its_records():
    shipped = (ROOT / "reports" / "gpu_fit.md").read_text(encoding="utf-8")
    assert shipped == gpu_fit.table(ROOT / "reports" / "gpu_fit")


def test_a_gpu_that_is_about_as_small_needs_no_cap():
    case = gpu_fit.Case(name="x", path=ROOT / "x.yaml", gpu="12GiB")
    assert gpu_fit.cap_for(case, 141 * GIB) == "12GiB"
    # What other cards of 12 GB give, by their drivers: the least of them is what the size stands for.
    assert gpu_fit.cap_for(case, round(11.76 * GIB)) == "12GiB"
    assert gpu_fit.cap_for(case, round(11.5 * GIB)) is None
    with pytest.raises(SetupError, match=r"x is for 12GiB; this GPU has 8\.0 GiB"):
        gpu_fit.cap_for(case, 8 * GIB)


# ---------------------------------------------------------------- BENCH_MEMORY_CAP


def test_no_cap_is_no_cap(monkeypatch):
    monkeypatch.delenv(setup.MEMORY_CAP, raising=False)
    assert setup.memory_cap() is None
    setup.cap_memory(torch.device("cpu"))
    for size in ("24 GB", "24GiB", "RTX 4090"):
        monkeypatch.setenv(setup.MEMORY_CAP, size)
        assert setup.memory_cap() == round(23.52 * GIB)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12 apples", "BENCH_MEMORY_CAP: '12 apples' is not a size of memory"),
        ("-3GiB", "BENCH_MEMORY_CAP: '-3GiB' is not a size of memory"),
        ("much", "BENCH_MEMORY_CAP: the device 'much' is not known here"),
        ("12GiB", "BENCH_MEMORY_CAP holds runs on a GPU to a size; this one is on the CPU: unset it"),
    ],
)
def test_a_cap_that_can_not_be_kept_is_refused(monkeypatch, text, message):
    monkeypatch.setenv(setup.MEMORY_CAP, text)
    with pytest.raises(SetupError) as error:
        setup.cap_memory(torch.device("cpu"))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("cap", "total", "held"),
    [
        ("12GiB", 23.52, 11.56), ("24GiB", 23.52, 23.52), ("24GiB", 23.3, 23.3), ("RTX 4090", 139.7, 23.52),
        ("24GiB", 22.03, None), ("24GiB", 11.56, None), ("80GiB", 79.1, 79.1), ("0.5GiB", 23.52, None),
        ("100000GiB", 23.52, None),
    ],
)  # fmt: skip
def test_a_cap_above_the_memory_is_refused(monkeypatch, cap, total, held):
    """Drivers differ in what they leave of a card: a cap of its own size is no more than it has."""
    monkeypatch.setenv(setup.MEMORY_CAP, cap)
    asked, total = hardware.memory(cap), round(total * GIB)
    if held is not None:
        assert setup.within(asked, total) == round(held * GIB)
        return
    what = "too little for CUDA itself" if cap == "0.5GiB" else "more than this GPU has"
    with pytest.raises(SetupError, match=rf"^BENCH_MEMORY_CAP is {cap} \(.* GiB usable\), {what}; take more than 0\.5"):
        setup.within(asked, total)


@CPU_ONLY
def test_a_run_on_a_cpu_refuses_a_cap(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(setup.MEMORY_CAP, "12GiB")
    assert lifecycle.main([str(ROOT / "recipes" / "tiny" / "bert-full.yaml"), "--out", str(tmp_path / "run")]) == 2
    found = store.read(tmp_path / "run")
    assert (found.status, found.reason) == ("invalid", "BENCH_MEMORY_CAP holds runs on a GPU to a size; this one is on "
                                            "the CPU: unset it")  # fmt: skip
    assert found.reason in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_capped_gpu_gives_no_more(monkeypatch):
    device = torch.device("cuda:0")
    monkeypatch.setenv(setup.MEMORY_CAP, "2GiB")
    setup.cap_memory(device)
    try:
        fits = torch.empty(GIB, dtype=torch.uint8, device=device)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(GIB, dtype=torch.uint8, device=device)
        del fits
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    monkeypatch.setenv(setup.MEMORY_CAP, "100000GiB")
    with pytest.raises(SetupError, match=r"take more than 0\.5 and at most"):
        setup.cap_memory(device)


def test_what_a_cap_leaves_for_cuda_is_what_a_plan_counts():
    assert hardware.CONTEXT == GIB // 2
