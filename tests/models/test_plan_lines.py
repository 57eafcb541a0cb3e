"""What `plan` says: the verdict, changes that were searched, scoring alone, disk, and time beside published runs."""

import dataclasses
import json
import re

import numpy as np
import pytest

from bench.cli import main
from bench.config import resolve
from bench.config.prices import Price, Prices
from bench.errors import SetupError
from bench.memory import disk, fragmentation, inference, report, search, timing
from bench.memory.planner import Lengths, MemoryPlan, Parallelism, Prediction
from bench.memory.verdict import asked_card, gib, precision_of, verdict
from bench.records import store
from bench.utils import hardware
from bench.utils.hardware import GIB
from scripts import plan_time
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

LLAMA = resolve.SHIPPED / "sst2" / "llama32_1b-full.yaml"
MISTRAL = resolve.SHIPPED / "sst2" / "mistral_7b_v03-text_qlora.yaml"


def planned(*arguments, capsys):
    code = main.main(["plan", *map(str, arguments)])
    done = capsys.readouterr()
    assert done.err == ""
    return code, done.out.splitlines()


@pytest.fixture(scope="module")
def llama():
    return MemoryPlan.of(resolve.load(LLAMA), Parallelism())


@pytest.fixture(scope="module")
def mistral():
    return MemoryPlan.of(resolve.load(MISTRAL), Parallelism())


# ---------------------------------------------------------------- the verdict


def test_fragmentation_is_as_it_was_measured():
    """The numbers of the sentence are those of the committed measurements."""
    found = json.loads((ROOT / "reports" / "stub_gpu.json").read_text())
    jobs = [one for name, one in found.items() if "segments=fixed" not in name]
    held = [one["measured"]["train"]["reserved"] / one["forecast"]["counted"] - 1 for one in jobs]
    numbers = [round(float(number), 3) for number in np.quantile(held, [0.5, 0.95, 1])]
    stated = [fragmentation.MEDIAN, fragmentation.NINETEEN_OF_TWENTY, fragmentation.WORST]
    assert (len(jobs), numbers) == (fragmentation.TRAININGS, stated)
    counted = next(one for one in jobs if one["recipe"] == "imdb/llama32_1b-full_24gib")["forecast"]
    prediction = Prediction(parts=counted["parts"], host={}, whole=0, moment="x", rows=1, length=1, accumulation=1)
    assert fragmentation.allocated(prediction) == pytest.approx(counted["counted"], abs=5)


def test_a_plan_that_fits_with_little_left_is_tight():
    parts = {"weights": 9 * GIB, "activations": GIB, "CUDA": GIB // 2, "fragmentation": GIB // 4}
    made = Prediction(parts=parts, host={}, whole=0, moment="x", rows=1, length=1, accumulation=1)
    assert fragmentation.tight(made, round(10.74 * GIB)) == [], "it does not fit at all"
    (line,) = fragmentation.tight(made, 11 * GIB)
    assert line.startswith("tight: 0.50 GiB are left for fragmentation, and 1 training of 20 on a stub GPU held more")
    assert "more than 0.92 GiB" in line
    assert fragmentation.tight(made, round(11.48 * GIB)) == []


@pytest.mark.parametrize(
    ("gpu", "needed", "fits", "line"),
    [
        ("RTX4090", 20, True, "fits: 20.00 GiB of the 23.52 GiB of NVIDIA GeForce RTX 4090, 3.52 GiB to spare, at x"),
        ("24 GB", 20, True, "fits: 20.00 GiB of the 23.52 GiB of 24 GB (as NVIDIA GeForce RTX 4090 gives), 3.52 GiB to "
                            "spare, at x"),
        ("24GiB", 23.6, False, "does not fit: 23.60 GiB of the 23.52 GiB of 24GiB (as NVIDIA GeForce RTX 4090 gives), "
                               "0.08 GiB too little, at x"),
        ("20GiB", 20, True, "fits: 20.00 GiB of the 20.00 GiB of 20GiB, 0.00 MiB to spare, at x"),
        (None, 20, True, "fits 24GiB and more: 20.00 GiB on each GPU, at x"),
        (None, 139, True, "fits 141GiB and more: 139.00 GiB on each GPU, at x"),
        (None, 150, False, "does not fit 141GiB: 150.00 GiB on each GPU, at x"),
    ],
)  # fmt: skip
def test_the_verdict_is_one_line(gpu, needed, fits, line):
    assert verdict(round(needed * GIB), asked_card(gpu), "x") == (fits, line)


def test_a_device_brings_its_precision():
    assert precision_of(None, asked_card("T4")) == "fp16"
    assert precision_of("no", asked_card("T4")) == "no"
    assert precision_of(None, asked_card("L40S")) == precision_of(None, asked_card("24GB")) == "bf16"
    with pytest.raises(SetupError, match=r"--precision bf16: Tesla T4 .* take fp16"):
        precision_of("bf16", asked_card("T4"))


def test_a_plan_says_that_a_run_is_refused_on_an_old_device(capsys):
    qlora = "recipes/tiny/llama-text_qlora.yaml"
    refused = (
        "a run is refused there: method.compute_dtype is bfloat16, and Tesla T4 (compute capability 7.5) has no units "
        "for bf16, which need compute capability 8.0 (Ampere) or newer; set method.compute_dtype: float16"
    )
    in_bf16 = "method.compute_dtype=bfloat16"
    code, lines = planned(qlora, "--gpu", "T4", "--length", 64, "--per-device-batch", 8, in_bf16, capsys=capsys)
    assert (code, lines[1]) == (0, refused)
    code, lines = planned(qlora, "--gpu", "L40S", "--length", 64, "--per-device-batch", 8, in_bf16, capsys=capsys)
    assert not any("refused" in line for line in lines)
    in_4_bits = "method={name: zero_shot, quantized: true}"
    code, lines = planned("recipes/tiny/llama-zero_shot.yaml", "--gpu", "T4", in_4_bits, capsys=capsys)
    assert (code, lines[1]) == (0, refused)


def test_the_verdict_comes_first_with_its_exit_code_and_the_length_that_was_asked(capsys):
    code, lines = planned(LLAMA, "--gpu", "24 GB", "--length", 256, "--per-device-batch", 8, capsys=capsys)
    assert code == 3
    assert re.match(
        r"does not fit: \d+\.\d\d GiB of the 23\.52 GiB of 24 GB .* too little, at micro-batches of 8 x 256 tokens$",
        lines[0],
    )
    assert lines[1:3] == [
        "NVIDIA A10, NVIDIA A10G, sold with as much, give 22.05 GiB: does not fit",
        "NVIDIA L4, sold with as much, give 22.03 GiB: does not fit",
    ]
    # The whole micro-batch keeps no gradients of several beside it.
    assert lines[4] == "micro-batch: 8 x 256 tokens (as asked for with --length)"
    assert any(line.startswith("largest micro-batch at 256 tokens: ") for line in lines)
    changes = [line for line in lines if "make it fit" in line]
    assert changes
    assert all(line.startswith("to make it fit at 256 tokens: ") for line in changes)
    assert not [line for line in lines if " 128 tokens" in line and not line.startswith("longest")]
    code, lines = planned(LLAMA, "--gpu", "H100", "--length", 256, capsys=capsys)
    assert (code, lines[0].partition(":")[0]) == (0, "fits")
    assert any(re.match(r"time: 1,000 texts of 256 tokens in .* to .* on NVIDIA H100 PCIe", line) for line in lines)


# ---------------------------------------------------------------- what makes it fit


def test_the_largest_micro_batch_divides_the_global_batch(llama):
    room = llama.predict(13, 128).needed
    assert search.largest_batch(llama, 128, room) == 13
    assert search.largest_dividing(llama, 128, room) == (8, 13)
    assert search.largest_dividing(llama, 128, 10**9) == (0, 0)
    assert search.largest_dividing(llama, 128, 10**13) == (32, search.MOST_ROWS)


def changed(plan, room, path=LLAMA, own=(), length=128):
    chosen = search.cheapest_fit(plan, length, round(room), search.loader(path, own))
    return [change.what for change in chosen]


def test_the_micro_batch_is_searched(llama):
    for rows in (1, 4, 16):
        assert changed(llama, llama.predict(rows, 128).needed) == [f"training.per_device_batch={rows}"]
    assert changed(llama, llama.predict(7, 128).needed) == ["training.per_device_batch=4"]


def test_changes_beside_the_micro_batch(mistral):
    """Adapters in bf16 and activation offload are offered where they are keys, and only what is needed is named."""
    names = [change.what for change in search.changes(mistral)]
    assert names[:3] == ["training.per_device_batch=1", "training.activation_offload=true", "method.dtype=bfloat16"]
    assert names[-1] == "training.optimizer=paged_adamw_8bit"
    plain = MemoryPlan.of(resolve.load(LLAMA), Parallelism(world=8))
    names = [change.what for change in search.changes(plain)]
    assert names[:3] == ["training.per_device_batch=1", "--zero 1", "--zero 2"]
    assert "training.gradient_checkpointing=true training.activation_offload=true" in names
    assert names[-3:] == ["--zero 3 --offload cpu", "method=lora", "method=qlora"]
    assert "method.dtype=bfloat16" not in names
    least = mistral.predict(1, 128).needed
    chosen = changed(mistral, least - 0.1 * GIB, MISTRAL)
    assert chosen[-1] == "method.dtype=bfloat16"
    for change in chosen:  # without any of them it does not fit
        rest = tuple(item for other in chosen if other != change for item in other.split())
        varied = MemoryPlan.of(resolve.load(MISTRAL, rest), Parallelism())
        assert varied.predict(varied.budget.per_device_batch, 128).needed > least - 0.1 * GIB


def test_a_change_that_can_not_be_planned_is_passed_over(llama):
    """An optimizer in 8 bits is not ZeRO's: the search goes on with what is."""
    sharded = dataclasses.replace(llama, parallelism=Parallelism(world=2, zero=2))
    chosen = changed(sharded, 5 * GIB)
    assert not any("8bit" in item for item in chosen)
    assert chosen


# ---------------------------------------------------------------- of what trains nothing


def test_scoring_alone_is_planned(capsys):
    path = resolve.SHIPPED / "imdb" / "gemma_7b-few_shot.yaml"
    code, lines = planned(path, "--gpu", "RTX 4090", "--length", 2048, capsys=capsys)
    assert code == 0
    assert re.match(r"fits: .* of NVIDIA GeForce RTX 4090, .* to spare, at batches of \d+ tokens$", lines[0])
    assert lines[2].startswith("texts of up to 2048 tokens (as asked for with --length), in batches of ")
    resolved = resolve.load(path)
    lengths = Lengths(longest=2048, mean=2048.0, answers=0, source="")
    found = inference.plan(resolved, precision="bf16", lengths=lengths, usable=None)
    assert found.tokens == 4096
    # Gemma-7B: 28 layers of 16 heads of 256 numbers, keys and values in 16 bits, of the shots that all prompts share.
    assert found.parts["keys and values"] == 2 * 28 * 16 * 256 * 2 * 2048
    assert found.parts["logits"] == 2 * 4 * 2**24
    # In the working memory there is at least the widest of a layer: an MLP's two halves in 16 bits.
    assert found.parts["working memory"] > 2 * 2 * 4096 * 24576
    whole = inference.plan(
        resolve.load(path, ("method.quantized=false",)), precision="bf16", lengths=lengths, usable=None
    )
    assert whole.parts["weights"] == pytest.approx(2 * 8.54e9, rel=0.01)
    code, lines = planned(path, "--gpu", "12GiB", "method.quantized=false", capsys=capsys)
    assert code == 3
    assert [line for line in lines if "make it fit" in line] == [
        "to make it fit at 4096 tokens: method.quantized=true (weights in 4 bits: slightly other scores, and slower)"
    ]


SCORED = [
    "imdb/flan_t5_base-zero_shot", "imdb/bart_large_mnli-zero_shot", "tiny/gpt2-few_shot", "tiny/llama-zero_shot",
    "sst2/distilbert_base_uncased-probe", "squad/llama32_1b-few_shot",
]  # fmt: skip


@together("name", SCORED)
def test_every_way_to_score_is_planned(name):
    resolved = resolve.load(resolve.SHIPPED / f"{name}.yaml")
    lengths = Lengths(longest=64, mean=64.0, answers=0, source="")
    small = inference.plan(resolved, precision="bf16", lengths=lengths, usable=None, tokens=1024)
    large = inference.plan(resolved, precision="bf16", lengths=lengths, usable=None, tokens=4096)
    assert small.parts["weights"] == large.parts["weights"] > 0
    written = resolved.recipe.prompting.answer == "generate"
    # Of texts that are written, only so many prompts enter at once; their keys and values grow with the batch.
    part = "keys and values" if written else "working memory"
    assert large.parts[part] > 3 * small.parts[part]
    # Batches of a default size are halved by the scorers of texts, until one text is a batch.
    least = inference.plan(resolved, precision="bf16", lengths=lengths, usable=small.total)
    assert resolved.recipe.objective == "head" or least.total <= small.total


# ---------------------------------------------------------------- disk


def test_disk_counts_what_a_run_writes(llama, mistral):
    held = llama.states
    assert disk.lines(llama) == [
        f"  disk: a checkpoint takes {gib(held.trained + held.optimizer)}; 2 are kept, and one more while it is "
        f"written: {gib(3 * (held.trained + held.optimizer))}",
        f"  disk: the saved model takes {gib(held.weights)}",
        "  disk: cached tokens take at most 2.00 GiB, over all runs",
        "  disk: the model's files on the Hub take about 2.30 GiB, in 16 bits",
    ]
    assert disk.lines(mistral)[1] == f"  disk: the saved adapter and head takes {gib(mistral.states.trained)}"
    # Seven billion numbers, though they are packed into 4 bits here.
    assert disk.lines(mistral)[-1] == "  disk: the model's files on the Hub take about 13.50 GiB, in 16 bits"
    bare = MemoryPlan.of(
        resolve.load(LLAMA, ("save=false", "checkpoints.every_minutes=null", "speed.token_cache=false")), Parallelism()
    )
    assert disk.lines(bare) == disk.lines(llama)[-1:]


# ---------------------------------------------------------------- time


@together("run", plan_time.runs())
def test_a_published_time_is_in_the_range(run):
    least, most = run.range_s
    assert least <= run.published_s <= most
    # And the range says something: neither end is twice the other.
    assert most < 2 * least
    assert abs(run.error) < 0.35


def test_the_command_of_the_script_states_the_error(capsys):
    assert plan_time.main() == 0
    out = capsys.readouterr().out
    assert out.count("\n| peft") == 3
    assert out.count("\n| litgpt") == 7
    assert re.search(r"The middle of a range is off by at most \d\d% \(", out)


def test_time_counts_what_a_step_does(llama, mistral):
    done = timing.work(llama, 32)
    assert done.model_flops == done.product_flops == pytest.approx(6 * 0.973e9 * 128 * 1000, rel=0.02)
    assert (done.unpacked, done.factor) == (0, 1.0)
    assert done.stepped == 1000 / 32 * llama.states.num_trainable
    done = timing.work(mistral, 16)
    assert done.product_flops == pytest.approx(4 / 3 * done.model_flops)
    # Three passes of each micro-batch over all 4-bit weights; seven adapted layers in a block, five beyond q and v.
    assert done.unpacked == pytest.approx(1000 / 16 * 3 * 6.98e9, rel=0.01)
    assert done.factor == pytest.approx(1.2)
    rates = timing.published_rates()
    l40s, t4 = hardware.DEVICES["NVIDIA L40S"], hardware.DEVICES["Tesla T4"]
    one, two = (timing.seconds(done, l40s, "bf16", rates, world) for world in (1, 2))
    assert one[0] < one[1] < 2 * one[0]
    assert 1.9 < one[0] / two[0] <= 2
    assert timing.seconds(done, t4, "bf16", rates) is None
    assert timing.seconds(done, t4, "fp16", rates)[0] > 4 * one[0]


def test_past_records_of_the_device_take_the_place_of_published_times(llama, tmp_path):
    record = store.read(ROOT / "reports" / "minilm" / "sst2-full")
    recipe = record.recipe.model_copy(update={"resolved": {**record.recipe.resolved, "method": {"name": "full"}}})
    environment = record.environment.model_copy(update={"devices": ["NVIDIA L40S"]})
    for place, mfu in enumerate((0.3, 0.5)):
        made = record.model_copy(
            update={"throughput": {"train": {"mfu": mfu}}, "environment": environment, "recipe": recipe}
        )
        (tmp_path / f"run{place}").mkdir()
        store.write(made, tmp_path / f"run{place}")
    rates, source = timing.recorded_rates(tmp_path, llama, "NVIDIA L40S")
    assert (rates.shares, rates.with_all) == ((0.3, 0.5), True)
    assert source == f"2 records of full on NVIDIA L40S in {tmp_path}"
    assert timing.recorded_rates(tmp_path, llama, "Tesla T4") == (
        None, f"{tmp_path} has no record of full on Tesla T4 with an MFU",
    )  # fmt: skip
    (line,) = timing.lines(llama, 32, asked_card("L40S"), tmp_path)
    work = timing.work(llama, 32).model_flops
    expected = [work / (share * 362.05e12) for share in (0.5, 0.3)]
    assert [float(part) for part in re.findall(r"([\d.]+) s\b", line)] == pytest.approx(expected, rel=0.05)
    assert line.endswith(f"by 2 records of full on NVIDIA L40S in {tmp_path}")
    in_fp16 = dataclasses.replace(llama, precision="fp16")
    assert timing.lines(in_fp16, 32, asked_card("T4"), tmp_path)[0].endswith("with an MFU")
    assert timing.lines(llama, 32, asked_card("T4"), None) == ["time: no peak rate of Tesla T4 in bf16 is published"]


def test_money_is_the_time_times_a_price(llama):
    price = Price(price=2.0, currency="EUR", source="a list", date="2026-01-31")
    known = Prices(gpus={"NVIDIA L40S": price})
    time, money = timing.lines(llama, 32, asked_card("L40S"), None, known)
    training = llama.resolved.recipe.training
    texts = llama.budget.steps * training.global_batch if training.steps or llama.lengths.examples else 1000
    thousand = timing.seconds(
        timing.work(llama, 32), asked_card("L40S").device, llama.precision, timing.published_rates()
    )
    expected = [2.0 * seconds * texts / 1000 / 3600 for seconds in thousand]
    shown = re.match(r"money: .* for ([\d.]+) to ([\d.]+) EUR, of training steps alone, at 2 EUR for an hour", money)
    assert [float(number) for number in shown.groups()] == pytest.approx(expected, rel=0.06)
    assert money.endswith("NVIDIA L40S (a list; as of 2026-01-31; indicative)")
    assert time.startswith("time: ")
    sentence = timing.lines(llama, 32, asked_card("L40S"), None, Prices(gpus={}))[1]
    assert sentence.startswith("money: no price of NVIDIA L40S is known (known: none); give it with --costs FILE")
    two = dataclasses.replace(llama, parallelism=Parallelism(world=2))
    both = re.search(r"for ([\d.]+) to", timing.lines(two, 32, asked_card("L40S"), None, known)[1])
    assert float(both[1]) >= float(shown[1]), "both GPUs are paid, though they take less time"


def test_no_time_where_none_is_known(llama):
    assert timing.lines(llama, 32, asked_card("24GB"), None) == ["time: give the name of a GPU for a forecast of time"]
    assert timing.lines(llama, 32, asked_card(None), None) == []
    assert timing.lines(llama, 32, asked_card("Apple M2 Max 64GB"), None)[0].startswith(
        "time: no forecast for Apple M2"
    )
    small = dataclasses.replace(llama, lengths=dataclasses.replace(llama.lengths, mean=1.0))
    assert timing.lines(small, 1, asked_card("B200"), None)[0].startswith(
        "time: no forecast: a micro-batch of 1 x 1 tok"
    )


IA3 = "{target_modules: [q_proj, v_proj], feedforward_modules: []}"


def test_a_kind_of_adapter_costs_what_was_published():
    base = ("model=tiny_llama", "objective=text")
    path = resolve.SHIPPED / "tiny" / "llama-text_qlora.yaml"
    for own, factor in (
        (("method={name: lora, config: {target_modules: [q_proj, v_proj]}}",), 1.0),
        (("method={name: lora, config: {target_modules: all-linear}}",), 1.2),
        (("method={name: lora, config: {use_dora: true, target_modules: [q_proj, v_proj]}}",), 1 + 248.9 / 620),
        (
            (f"method={{name: lora, peft: IA3Config, config: {IA3}}}",),
            1 + 44.8 / 620,
        ),
    ):
        plan = MemoryPlan.of(resolve.load(path, (*base, *own)), Parallelism())
        assert timing.work(plan, 4).factor == pytest.approx(factor)


def test_lines_are_those_of_the_answer():
    request = report.PlanRequest(path=resolve.SHIPPED / "tiny" / "bert-full.yaml", gpu="T4")
    assert report.lines(request) == report.answer(request).lines
    assert report.answer(request).fits
