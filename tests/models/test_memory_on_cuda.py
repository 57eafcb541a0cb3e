"""Memory as CUDA takes it, against figures of torch's own allocator on a stub GPU (`scripts/stub_gpu_check forecast`).

Figures of single operations are of torch 2.13 and of a stub of compute capability 8.0, in MiB: no GPU measurements.
"""

import json
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.config import registry, resolve
from bench.errors import SetupError
from bench.memory import activations, reductions, state_sizes, verdict, without_numbers
from bench.memory.meta_device import Autocast, OnCuda, attention
from bench.memory.planner import MemoryPlan, Parallelism
from bench.models import peft_options
from bench.runner import memory_prediction
from bench.utils import hardware
from scripts import stub_gpu_forecast, stub_gpu_jobs
from tests.helpers import models as tiny
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
MIB = 2**20
ROWS = json.loads((ROOT / "reports" / "stub_gpu.json").read_text(encoding="utf-8"))


def own(write, rest, model="tiny_llama"):
    return resolve.load(write("study/own.yaml", f"dataset: reviews\nmodel: {model}\n{rest}"))


def held(run, mode):
    """MiB that are alive behind an operation."""
    ledger = activations._Ledger(nn.Module())
    with ledger, mode:
        result = run()
    assert result is not None
    return ledger.live / MIB


# ---------------------------------------------------------------- single operations


def test_a_mask_of_dropout_is_a_byte_for_each_element():
    inputs = torch.empty(4096, 768, device="meta", requires_grad=True)
    for drop in (lambda: functional.dropout(inputs, 0.1), lambda: torch.dropout(inputs, 0.1, True), nn.Dropout(0.1)):
        run = (lambda drop=drop: drop(inputs)) if isinstance(drop, nn.Module) else drop
        assert held(run, OnCuda()) == pytest.approx(15.0, abs=0.01)
    with OnCuda():
        assert functional.dropout(inputs, 0.1, training=False) is inputs
        assert functional.dropout(inputs, 0.0) is inputs


def test_a_sum_over_rows_takes_a_buffer_for_a_moment():
    """25,165,824 bytes for the sum of 2,033 rows of 1,536 numbers, as the allocator counted them on a stub GPU."""
    given, zero = torch.empty(1, 2033, 1536, device="meta"), torch.empty(0, 5, device="meta")
    peaks = {}
    for on_cuda in (True, False):
        ledger = activations._Ledger(nn.Module(), on_cuda=on_cuda)
        with ledger:
            kept = given.sum((0, 1), keepdim=True)
        peaks[on_cuda] = ledger.peaks["forward"]
        assert ledger.live == kept.numel() * 4 == 6144
    assert peaks == {True: 6144 + 25_165_824, False: 6144}
    summed, mean = torch.ops.aten.sum.dim_IntList, torch.ops.aten.mean.dim
    assert reductions.workspace(mean, (given, [0, 1]), given[0, 0]) == 25_165_824
    # Too few rows; the last dimension; all of it; another operation; columns that do not lie together; nothing.
    assert reductions.workspace(summed, (given[:, :1000], [1]), given[0, 0]) == 0
    assert reductions.workspace(summed, (given, [-1]), given[0, :, 0]) == 0
    assert reductions.workspace(summed, (given, None), given[0, 0, 0]) == 0
    assert reductions.workspace(torch.ops.aten.mul.Tensor, (given, given), given) == 0
    assert reductions.workspace(summed, (given.transpose(1, 2), [1]), given[0, :, 0]) == 0
    assert reductions.workspace(summed, (zero, [0]), zero.sum(0)) == 0


@together(
    "dtype, padded, expected",
    [
        (torch.bfloat16, False, 2.063),
        (torch.bfloat16, True, 4.062),
        (torch.float32, False, 4.062),
        (torch.float32, True, 8.062),
    ],
)
def test_attention_keeps_what_cudas_kernels_keep(dtype, padded, expected):
    """Beside queries, keys and values of [4, 8, 512, 64]: the result, sums of scores, and a mask as numbers."""
    query, key, value = (torch.empty(4, 8, 512, 64, device="meta", dtype=dtype, requires_grad=True) for _ in range(3))
    given = 3 * query.numel() * query.element_size() / MIB
    found = held(lambda: attention(nn.Module(), query, key, value, None), OnCuda(padded=padded))
    assert found - given == pytest.approx(expected, abs=0.01) or found == pytest.approx(expected, abs=0.01)


@together(
    "dtype, padded, repeated",
    [(torch.bfloat16, False, False), (torch.bfloat16, True, True), (torch.float32, False, True)],
)
def test_keys_are_repeated_where_the_kernel_takes_no_groups(dtype, padded, repeated):
    def kept(heads):
        query = torch.empty(4, 8, 512, 64, device="meta", dtype=dtype, requires_grad=True)
        key, value = (torch.empty(4, heads, 512, 64, device="meta", dtype=dtype) for _ in range(2))
        keeps = held(lambda: attention(nn.Module(), query, key, value, None), OnCuda(padded=padded))
        return keeps * MIB / query.element_size() / query.numel()

    # Of two heads, keys and values of eight are made besides, of one query's size each.
    assert kept(2) - kept(8) == pytest.approx(2 if repeated else 0, abs=0.6)


def test_texts_that_are_run_one_by_one_are_joined_besides():
    def run(dropout):
        # With the tokens first, as the kernel for texts of any length takes them.
        made = (torch.empty(4, 512, 8, 64, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        query, key, value = (part.transpose(1, 2) for part in made)
        return attention(nn.Module(), query, key, value, None, dropout=dropout)

    plain, one_by_one = (held(lambda dropout=dropout: run(dropout), OnCuda(packed=True)) for dropout in (0.0, 0.1))
    assert one_by_one - plain == pytest.approx(2.0, abs=0.01)


def test_a_step_on_a_cpu_is_counted_as_before(write):
    job = MemoryPlan.of(own(write, "method: full\n", "tiny_bert"), Parallelism(), precision="no", on_cpu=True)
    other = MemoryPlan.of(own(write, "method: full\n", "tiny_bert"), Parallelism(), precision="no")
    assert job.usage(4, 64).kept > other.usage(4, 64).kept  # dropout's masks are as wide as its input there
    assert "cuBLAS" not in job.predict(4, 64).parts
    assert other.predict(4, 64).parts["cuBLAS"] == 17_039_360


@together(
    "optimizer, dtype, expected",
    [
        ("adafactor", torch.float32, 48),
        ("adafactor", torch.bfloat16, 80),
        ("adamw_torch", torch.float32, 16),
        ("adamw_torch", torch.bfloat16, 8),
        ("adamw_torch_fused", torch.float32, 0),
        ("sgd", torch.float32, 16),
    ],
)
def test_what_a_step_of_the_optimizer_takes(write, optimizer, dtype, expected):
    """Of a tensor of 1024 x 4096, in MiB."""
    planned = own(write, f"method: full\ntraining: {{optimizer: {optimizer}, weight_decay: 0.1}}\n")
    layer = nn.Linear(4096, 1024, bias=False, dtype=dtype, device="meta")
    states = state_sizes.states(layer, optimizer, "trainer")
    assert state_sizes.step_bytes(states, planned.recipe) / MIB == pytest.approx(expected, rel=0.01)
    if dtype == torch.float32:
        assert states.check / MIB == pytest.approx(28, rel=0.01)


def test_the_first_check_of_gradients_can_be_the_fullest_moment(write):
    planned = own(write, "method: full\ntraining: {optimizer: sgd, weight_decay: 0}\n")
    job = MemoryPlan.of(planned, Parallelism())
    found = job.predict(1, 2)
    assert found.moment == "the first step's check of gradients"
    assert found.parts["working memory"] == job.states.check


def test_autocast_goes_with_it():
    layer = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.1)).to("meta")
    inputs = torch.empty(1000, 64, device="meta")
    with OnCuda(), Autocast(torch.bfloat16, None, True):
        assert layer(inputs).dtype == torch.bfloat16


# ---------------------------------------------------------------- whole recipes


@together(
    "name",
    [
        "sst2/bert_base_uncased-lora",  # dropout in 24 blocks' parts
        "sst2/llama32_1b-full",
        "imdb/llama32_1b-full_24gib",  # gradients come as activations go
        "imdb/mistral_7b_v03-text_qlora_24gib",
    ],
)
def test_the_forecast_is_what_torch_counts_on_a_stub_gpu(name):
    row = ROWS[name]
    found = stub_gpu_forecast.forecast(row)
    assert found["counted"] == pytest.approx(row["measured"]["train"]["allocated"], rel=0.015)


def test_the_report_is_made_of_its_rows():
    assert (ROOT / "reports" / "stub_gpu.md").read_text(encoding="utf-8") == stub_gpu_forecast.table(ROWS)
    for name, row in ROWS.items():
        if "forecast" in row and not stub_gpu_jobs.Job.of(name).texts:
            assert abs(stub_gpu_forecast._error(row)) <= stub_gpu_forecast.ALLOWED, name


def test_every_shipped_recipe_has_a_row_of_its_settings_of_today():
    """Else: scripts/stub_gpu_check forecast --stub DIR, which measures what is missing or was changed since."""
    wanted = stub_gpu_forecast.all_jobs()
    assert len(wanted) > 100
    assert [name for name in wanted if name not in ROWS and name not in stub_gpu_jobs.NOT_MEASURED] == []
    assert [name for name in ROWS if name not in wanted] == []
    assert [name for name, row in ROWS.items() if "forecast" not in row] == []
    assert [name for name, row in ROWS.items() if stub_gpu_forecast.is_stale(row)] == []


def test_a_row_is_stale_once_its_recipe_takes_other_memory():
    row = ROWS["imdb/mistral_7b_v03-text_qlora_24gib"]
    path, changed = resolve.SHIPPED / f"{row['recipe']}.yaml", {"training.learning_rate=0.1": False}
    changed |= {"training.per_device_batch=2": True, "max_length=64": True, "method.config.r=2": True}
    for override, stale in changed.items():
        given = resolve.load(path, ("model.weights=random", override))
        assert (stub_gpu_jobs.settings(given) != row["settings"]) == stale, override


def test_a_jobs_name_says_all_of_it():
    job = stub_gpu_jobs.Job.of(
        "sst2/llama32_1b-lora texts=phrases training.optimizer=sgd precision=fp16 segments=fixed"
    )
    assert job.overrides == ("training.optimizer=sgd",)
    assert (job.recipe, job.precision, job.texts, job.segments) == ("sst2/llama32_1b-lora", "fp16", "phrases", "fixed")
    with pytest.raises(SetupError, match=r"^'precision=fp8': precision is one of bf16, fp16, no$"):
        stub_gpu_jobs.Job.of("sst2/llama32_1b-lora precision=fp8")


# ---------------------------------------------------------------- adapters


def test_every_method_of_peft_is_planned_or_refused_in_a_sentence(write, tmp_path):
    planned, refused = [], {}
    for name in filter(peft_options.is_method, peft_options.config_classes()):
        fields, config = peft_options.fields_of(name), dict(tiny.PEFT_SIZES.get(name, {}))
        if "num_virtual_tokens" in fields:
            config["num_virtual_tokens"] = 4
        if "target_modules" in fields:
            config.setdefault("target_modules", ["query", "value"])
        if peft_options.problems(name, config):
            continue
        asked = own(write, f"method: {{name: lora, peft: {name}, config: {json.dumps(config)}}}\n", "tiny_bert")
        method = registry.load("methods", "lora")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                job = MemoryPlan.of(asked, Parallelism())
                assert job.predict(2, 16).total > 0
            except SetupError as error:
                refused[name] = str(error)
                continue
            plan, labels = method.load_plan(asked.options), asked.recipe.dataset.labels
            real = method.adapt(tiny.build(asked.recipe.model, tmp_path, plan, labels=labels), asked.options)
        assert {item.device.type for item in [*job.model.parameters(), *job.model.buffers()]} == {"meta"}, name
        assert job.states.num_trainable == sum(one.numel() for one in real.parameters() if one.requires_grad), name
        planned.append(name)
    assert {"VeraConfig", "BOFTConfig", "RandLoraConfig", "UniLoraConfig", "PveraConfig"} <= set(planned)
    assert len(planned) > 30
    for name, sentence in refused.items():
        assert "\n" not in sentence, name
        assert "meta" not in sentence.lower(), name
    # Their own forward passes read numbers, of places in a matrix or of a mask.
    assert set(refused) <= {"FrodConfig", "ShiraConfig", "VBLoRAConfig", "WaveFTConfig"}, refused


def test_an_adapter_that_decomposes_large_weights_is_refused(monkeypatch):
    monkeypatch.setattr(without_numbers, "LARGEST", 2**10)
    model = nn.Linear(2048, 1024, device="meta")
    with (
        pytest.raises(
            SetupError, match=r"^the adapter decomposes the model's weights while it is built .*can't be planned"
        ),
        without_numbers.on_host(model),
    ):
        torch.linalg.svd(model.weight)
    with pytest.raises(SetupError, match=r"^the adapter makes tensors as large"), without_numbers.on_host(model):
        torch.zeros(2**11)
    assert not model.weight.is_meta
    assert without_numbers.to_meta(model).weight.is_meta


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"one": nn.Linear(8, 8, device="meta"), "other": nn.Linear(8, 8, device="meta")})
    model["other"].weight = model["one"].weight
    with without_numbers.on_host(model):
        assert model["one"].weight.device.type == "cpu"
        assert model["other"].weight is model["one"].weight
    without_numbers.to_meta(model)
    assert model["other"].weight is model["one"].weight


@together(
    "capability, expected",
    [(None, 8_519_680), ((7, 5), 8_519_680), ((8, 9), 8_519_680), ((9, 0), 2**25), ((10, 0), 2**25), ((12, 0), 2**25)],
)
def test_cublas_takes_more_from_hopper_on(capability, expected):
    """As torch's allocator counted after a product on stub GPUs of these."""
    assert hardware.cublas_workspace(capability) == expected


def test_cublas_workspaces_as_the_environment_says(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    assert hardware.cublas_workspace((9, 0)) == 8_519_680
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert hardware.cublas_workspace(None) == 16 * 8 * 1024


def test_a_named_gpus_workspaces_are_counted(write):
    given = own(write, "method: full\n", "tiny_bert")
    sizes = {}
    for name in ("A10G", "RTX 5090", "24GiB"):
        capability = verdict.asked_card(name).capability
        sizes[name] = MemoryPlan.of(given, Parallelism(), capability=capability).predict(4, 64).parts["cuBLAS"]
    assert sizes == {"A10G": 17_039_360, "RTX 5090": 2**26, "24GiB": 17_039_360}


# ---------------------------------------------------------------- FSDP2


@together("tied, expected", [("false", 943), ("true", 969)])
def test_fsdp2_gathers_what_it_was_seen_to(write, tied, expected):
    """MiB of torch's allocator in the second step, on one of eight stub GPUs; the units are those of accelerate."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8}
    sizes |= {"num_key_value_heads": 8, "vocab_size": 32000, "head_dim": 128, "tie_word_embeddings": tied}
    overrides = [f"model.architecture.{name}={value}" for name, value in sizes.items()]
    given = resolve.load(resolve.SHIPPED / "sst2" / "llama32_1b-full.yaml", (*overrides, "objective=text"))
    found = MemoryPlan.of(given, Parallelism(world=8, fsdp=True)).predict(4, 4)
    counted = sum(size for name, size in found.parts.items() if name not in memory_prediction.UNCOUNTED)
    assert expected <= counted / MIB < 1.06 * expected
    assert found.accumulation == 1
