"""What `plan` says of other cards of a size, of changes that go together, and of what its forecast does not rest on."""

import inspect
import json
import re
from pathlib import Path

import pytest
from transformers.models.mt5 import modeling_mt5
from transformers.models.t5 import modeling_t5

from bench.cli import main
from bench.config import resolve
from bench.memory import cautions, job_report, largest, search, state_sizes, timing
from bench.memory import job as jobs
from bench.memory.job import Job
from bench.memory.planner import MemoryPlan, Parallelism
from bench.memory.verdict import Card, Judged, asked_card, others_of_this_size, precision_of
from bench.utils import hardware
from bench.utils.hardware import GIB
from tests.helpers.launching import ROOT

LLAMA = resolve.SHIPPED / "sst2" / "llama32_1b-full.yaml"
QLORA = resolve.SHIPPED / "imdb" / "gemma_2b-text_qlora.yaml"
TINY = "recipes/tiny/llama-text_qlora.yaml"
T4 = (7, 5)


def planned(*arguments, capsys):
    code = main.main(["plan", *map(str, arguments)])
    done = capsys.readouterr()
    assert done.err == ""
    return code, done.out.splitlines()


# ---------------------------------------------------------------- other cards of a size


@pytest.mark.parametrize("size", ["15GB", "15", "14.75 GiB", "15360MiB", "11 GB"])
def test_a_size_of_cards_without_bf16_is_planned_as_one_of_them(size):
    card = asked_card(size)
    assert card.name == ("NVIDIA GeForce RTX 2080 Ti" if size == "11 GB" else "Tesla T4")
    assert (precision_of(None, card), card.capability) == ("fp16", T4)
    assert others_of_this_size(card, None)[0].endswith(f" as much ({card.name}) none has bf16")


def test_a_bare_number_is_a_size():
    assert asked_card("24").usable == asked_card("24GB").usable
    assert asked_card("4090").name == "NVIDIA GeForce RTX 4090"


def test_other_cards_of_a_size_are_judged_by_their_own_forecast(capsys):
    own = ("--length", 64, "--per-device-batch", 8, "method.compute_dtype=bfloat16")
    code, lines = planned(TINY, "--gpu", "16GB", *own, capsys=capsys)
    assert code == 0
    others = {line.partition(",")[0]: line for line in lines if ", sold with as much, give " in line}
    assert set(others) == {"Tesla T4", "Tesla V100-SXM2-16GB"}
    _, asked = planned(TINY, "--gpu", "T4", *own, capsys=capsys)
    needed = re.match(r"fits: (.*? GiB) of", asked[0])[1]
    assert (
        f"give 14.56 GiB: fits ({needed} in fp16); a run is refused there: method.compute_dtype" in others["Tesla T4"]
    )
    assert "has no units for bf16" in others["Tesla V100-SXM2-16GB"]
    _, lines = planned(TINY, "--gpu", "16GB", "--precision", "bf16", *own, capsys=capsys)
    (line,) = (line for line in lines if line.startswith("Tesla T4, "))
    assert line.startswith(
        "Tesla T4, sold with as much, give 14.56 GiB: --precision bf16: Tesla T4 (compute capability 7.5) has no units"
    )
    _, lines = planned(TINY, "--gpu", "23", "--length", 64, capsys=capsys)
    assert lines[0].startswith("fits: ")
    assert "(as NVIDIA L4 gives)" in lines[0]


def test_a_card_that_needs_more_does_not_fit_where_another_does():
    """Of fp16 it is what a T4 needs, not what the card needs that the size stands for."""
    asked = []

    def judge(card):
        asked.append((card.name, card.usable))
        return Judged(needed=round(15.02 * GIB), precision="fp16", refused=["a run is refused there: x"])

    first = others_of_this_size(asked_card("16GB"), judge)[-1]
    assert first == (
        "Tesla T4, sold with as much, give 14.56 GiB: does not fit (15.02 GiB in fp16); a run is refused there: x"
    )
    assert asked[-1] == ("Tesla T4", round(14.56 * GIB))
    tight = Judged(needed=GIB, precision="bf16", refused=[], tight=True)
    assert others_of_this_size(asked_card("24GB"), lambda _: tight)[0].endswith("give 22.05 GiB: fits, but tight")
    assert others_of_this_size(Card(text="", name=""), judge) == []


# ---------------------------------------------------------------- changes that go together


@pytest.fixture(scope="module")
def on_a_t4():
    return MemoryPlan.of(resolve.load(LLAMA), Parallelism(), precision="fp16", capability=T4)


def ways(plan, room, path, own=(), length=128):
    return search.ways_to_fit(plan, length, round(room), search.loader(path, own))


def test_each_set_of_changes_fits_as_one_command_and_is_not_refused(on_a_t4):
    found = ways(on_a_t4, 5 * GIB, LLAMA)
    assert len(found) == search.MOST_WAYS
    assert found[0].changes != found[1].changes
    for way in found:
        overrides = tuple(item for change in way.changes for item in change.overrides)
        resolved = resolve.load(LLAMA, overrides)
        plan = MemoryPlan.of(resolved, Parallelism(), precision="fp16", capability=T4)
        assert plan.predict(plan.budget.per_device_batch, 128).needed == way.needed <= 5 * GIB
        loaded = state_sizes.load_plan(resolved)[1]
        assert loaded.quantization is None or "method.compute_dtype=float16" in overrides
        line = way.line("to make it fit", ())
        assert line.startswith(f"to make it fit: {' '.join(overrides)}")
    assert any("method=qlora" in change.what for way in found for change in way.changes)


def test_a_set_is_one_line_and_says_what_it_replaces():
    one, two = (search.Change(what=what, costs=f"c{what}", overrides=(what,)) for what in ("a.b=1", "method.name=lora"))
    both = search.Fit(changes=[one, two], needed=GIB)
    assert both.line("fits", ("method=full", "training.epochs=1")) == (
        "fits: a.b=1 method.name=lora, in place of method=full, all together: 1.00 GiB "
        "(a.b=1: ca.b=1; method.name=lora: cmethod.name=lora)"
    )
    assert search.Fit(changes=[one], needed=GIB).line("fits", ("a.b=2",)) == "fits: a.b=1, in place of a.b=2 (ca.b=1)"


def test_offload_takes_the_place_of_fsdp_in_the_command():
    sharded = MemoryPlan.of(resolve.load(LLAMA), Parallelism(world=8, fsdp=True))
    (offload,) = [change for change in search.changes(sharded) if "--offload" in change.what]
    line = search.Fit(changes=[offload], needed=GIB).line("fits", ())
    assert line.startswith("fits: --zero 3 --offload cpu, in place of --fsdp (")


def test_several_gpus_get_one_set_of_options_and_overrides(capsys):
    code, lines = planned(LLAMA, "--gpu", "10GB", "--world", 8, "--length", 512, capsys=capsys)
    assert code == 3
    advice = [line for line in lines if re.match(r"(to make it fit|or else) at 512 tokens: ", line)]
    assert len(advice) == 2
    assert len([line for line in lines if line.startswith("to make it fit")]) == 1
    assert "--zero" in advice[0]


# ---------------------------------------------------------------- what an override replaces


def test_a_whole_method_says_what_it_replaces_and_advice_keeps_it(capsys):
    whole, kept = (resolve.load(QLORA, (f"{key}=lora",)) for key in ("method", "method.name"))
    (note,) = whole.unused_notes
    assert note.startswith(
        'method=lora replaces the recipe\'s whole method, so that these do not hold: {"config": {"r": 16, '
    )
    assert note.endswith("; method.name=lora in its place keeps them")
    assert "method.name" not in resolve.load(QLORA, ("method=full",)).unused_notes[0], "it has no such options"
    assert kept.unused_notes == ()
    assert resolve.load(QLORA, ("method={name: lora, config: {r: 8}}",)).unused_notes == ()
    load = search.loader(QLORA, ("method=full",))
    assert load(("method.name=lora",)).hash == kept.hash
    names = [change.what for change in search.changes(MemoryPlan.of(load(()), Parallelism()), load)]
    assert names[-2:] == ["method.name=lora", "method.name=qlora"]
    plain = search.loader(LLAMA, ())
    names = [change.what for change in search.changes(MemoryPlan.of(plain(()), Parallelism()), plain)]
    assert names[-2:] == ["method=lora", "method=qlora"], "there is nothing to keep"
    _, lines = planned(TINY, "method=lora", "--length", 64, capsys=capsys)
    assert any(line.startswith("note: method=lora replaces the recipe's whole method, ") for line in lines)


# ---------------------------------------------------------------- what a forecast does not rest on


def test_the_error_of_sharded_plans_is_that_of_the_published_rows():
    rows = json.loads((ROOT / "reports" / "published_memory.json").read_text(encoding="utf-8"))
    sharded = [row for row in rows if row["source"] == "litgpt" and row["name"].endswith("full.yaml 4xA10G")]
    measured = {row["name"]: (row["p99_gib"] or row["peak_gib"], row) for row in sharded}
    errors = [row["predicted_gib"] / float(size) - 1 for size, row in measured.values() if size != "oom"]
    assert (len(errors), round(-min(errors), 2)) == (cautions.SHARDED_ROWS, cautions.SHARDED_ERROR)
    assert any(size == "oom" and row["fits"] for size, row in measured.values())


def test_a_sharded_plan_says_its_evidence_and_is_tight_within_its_error():
    tight, (line,) = cautions.of_sharding(20 * GIB, 24 * GIB, "ZeRO-3", 8)
    assert tight
    assert line.startswith("evidence: forecasts of ZeRO-3 were compared with real processes on CPUs, not with GPUs")
    assert "up to 26% too low" in line
    assert cautions.headline("fits: x", tight) == "fits, but tight: x"
    assert cautions.headline("fits: x", False) == "fits: x"
    assert not cautions.of_sharding(15 * GIB, 24 * GIB, "FSDP2", 8)[0]
    assert not cautions.of_sharding(25 * GIB, 24 * GIB, "FSDP2", 8)[0], "it does not fit at all"
    assert cautions.of_sharding(20 * GIB, 24 * GIB, "DDP", 1) == (False, [])
    assert cautions.of_sharding(20 * GIB, 24 * GIB, "DDP", 2)[1][0].startswith("evidence: each GPU of DDP")


@pytest.mark.parametrize("module", [modeling_t5, modeling_mt5])
def test_t5_is_said_to_overflow_as_long_as_transformers_clamps_it(module):
    assert "clamp inf values to enable fp16 training" in inspect.getsource(module)
    assert Path(module.__file__).name in cautions.OVERFLOWING[module.__name__.split(".")[2]]


def test_models_that_overflow_in_fp16_get_a_caution():
    (line,) = cautions.of_fp16_in(("gemma3", "gemma3_text"), "fp16")
    assert line.startswith(
        "caution: activations of gemma3 models are known to exceed 65,504, the most that fp16 can hold"
    )
    assert "huggingface/transformers#36822" in line
    assert cautions.of_fp16_in(("gemma3_text",), "bf16") == cautions.of_fp16_in(("llama",), "fp16") == []


def test_time_on_a_generation_without_a_published_run_is_the_least(on_a_t4):
    (line,) = timing.lines(on_a_t4, 32, asked_card("T4"), None)
    assert re.match(r"time: 1,000 texts of 128 tokens in \S+ \S+ or more on Tesla T4, ", line)
    assert "no published run is of the generation of Tesla T4 (compute capability 7.5)" in line
    plan = MemoryPlan.of(resolve.load(LLAMA), Parallelism())
    (line,) = timing.lines(plan, 32, asked_card("H100"), None)
    assert " to " in line
    assert line.endswith("of NVIDIA H100 PCIe (compute capability 9.0): taken to reach as much of its peak")
    assert "no published run" not in timing.lines(plan, 32, asked_card("A10G"), None)[0]


def test_the_largest_model_says_its_own_settings():
    said = largest.sentence(hardware.memory("24GB"), Parallelism(world=8, zero=3), 512 * GIB)
    assert "by AdamW in float32 with bf16 autocast, one recomputed text of 2,048 tokens on each GPU" in said


# ---------------------------------------------------------------- jobs of other programs

TINY_LLAMA = {
    "model_type": "llama", "vocab_size": 3000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip


def test_a_job_in_bf16_is_not_for_a_t4(tmp_path, capsys):
    adapter = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}
    settings = {"architecture": TINY_LLAMA, "adapter": adapter, "autocast": "bf16", "micro_batch": 64, "lengths": [512]}
    (tmp_path / "job.json").write_text(json.dumps(settings))
    code, lines = planned("--job", tmp_path / "job.json", "--gpu", "15GB", "micro_batch=1", capsys=capsys)
    assert code == 0
    assert lines[1].startswith(
        "not for Tesla T4: dtype is bfloat16, and Tesla T4 (compute capability 7.5) has no units"
    )
    assert lines[1].endswith("; set dtype=float16")
    assert lines[2].endswith("; set autocast=fp16")
    code, lines = planned("--job", tmp_path / "job.json", "--gpu", "16GB", "micro_batch=1", capsys=capsys)
    assert "not for Tesla T4: dtype is bfloat16" in next(line for line in lines if line.startswith("Tesla T4, "))
    path = tmp_path / "job.json"
    made = jobs.load(path)
    card = asked_card("T4")
    small = Card(text="T4", name="Tesla T4", usable=round(1.0 * GIB), device=card.device)
    fit = job_report.to_make_it_fit(path, (), made, small)
    assert fit.startswith("to make it fit: dtype=float16 autocast=fp16 ")
    assert "checkpointing=true" in fit or "micro_batch=1" in fit


def test_every_key_of_a_job_is_in_the_documentation():
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    assert set(Job.model_fields) == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    for name, field in Job.model_fields.items():
        (default,) = re.findall(rf"^\| `{name}` \| ([^|]*?) ?\|", text, re.MULTILINE)
        if not field.is_required() and field.default is not None and name != "architecture":
            assert default == str(field.default).lower(), name
