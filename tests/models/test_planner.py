"""Predicted memory: activations against those of real steps, sums by hand, searches at their borders, sentences."""

import dataclasses
import re

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from bench.cli import main
from bench.config import registry, resolve
from bench.memory import activations, report, search, state_sizes
from bench.memory.activations import Batch
from bench.memory.planner import ASSUMED_CHOICES, MemoryPlan, Parallelism, assumed, longest_texts
from bench.models import choice_head
from bench.training import memory_saving
from bench.utils import hardware
from bench.utils.hardware import GIB
from tests.helpers import models as tiny
from tests.helpers.launching import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
# A CPU has no kernel that keeps no scores, once attention drops some of them or looks through a window.
FUSED = {
    "bert": "{attention_probs_dropout_prob: 0.0}", "gpt2": "{attn_pdrop: 0.0}", "llama": "{}", "gemma": "{}",
    "mistral": "{sliding_window: null}",
}  # fmt: skip
SIZES = [(2, 64), (6, 120)]
MISTRAL = resolve.SHIPPED / "sst2" / "mistral_7b_v03-text_qlora.yaml"


def own(write, model, rest="method: full\n"):
    return write("study/own.yaml", f"dataset: reviews\nmodel: {model}\n{rest}")


def kept_by(model, rows, length, mixed=False):
    """Bytes that autograd keeps of a real forward pass on the CPU, but for parameters; each storage once."""
    known = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage
        return tensor

    ids = torch.randint(5, 500, (rows, length), generator=torch.Generator().manual_seed(0))
    mixture = torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed)
    with saved_tensors_hooks(pack, lambda tensor: tensor), mixture:
        loss = model.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().square().sum()
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in found.values())


def alive_in(model, rows, length):
    """The most that is alive in each section of a real step on the CPU."""
    ledger = activations._Ledger(model.train())
    ids = torch.randint(5, 500, (rows, length), generator=torch.Generator().manual_seed(0))
    with ledger.watching(model), ledger:
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().square().sum()
        ledger.forward = False
        loss.backward()
    return ledger.peaks, ledger.with_gradients


def pair(write, tmp_path, family, method):
    """(the outline, the real model) of a recipe."""
    resolved = resolve.load(
        own(write, f"{{card: tiny_{family}, architecture: {FUSED[family]}}}", f"method: {method}\n")
    )
    module = registry.load("methods", method)
    real = tiny.build(
        resolved.recipe.model, tmp_path, module.load_plan(resolved.options), labels=resolved.recipe.dataset.labels
    )
    return state_sizes.outline(resolved), module.adapt(real, resolved.options)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", FUSED)
def test_activations_are_those_that_a_real_step_keeps(write, tmp_path, family, method):
    outlined, real = pair(write, tmp_path, family, method)
    for checkpointed in (False, True):
        if checkpointed:
            memory_saving.checkpoint_activations(outlined)
            memory_saving.checkpoint_activations(real)
        for rows, length in SIZES:
            measured = kept_by(real, rows, length)
            if checkpointed and method == "lora" and family in ("bert", "gpt2"):
                # What the embedding looks up is made a leaf, for its gradient; autograd keeps a leaf without saving it.
                # In the other families it is what the first block is given, and is saved.
                measured += rows * length * real.config.hidden_size * 4
            found = activations.probe(outlined, Batch(rows=rows, length=length))
            assert found.kept == pytest.approx(measured, rel=0.1), (checkpointed, rows, length)
            peaks, with_gradients = alive_in(real, rows, length)
            for section, most in peaks.items():
                assert found.peaks[section] == pytest.approx(most, rel=0.05, abs=20_000), section
                assert found.with_gradients[section] == pytest.approx(with_gradients[section], rel=0.05, abs=20_000)


def test_activations_of_deberta_which_looks_for_pads(write):
    """Its layers share relative positions; without a mask it would look at its tokens, which are not there."""
    settings = {"model_type": "deberta-v2", "vocab_size": 2048, "hidden_size": 64, "num_hidden_layers": 4}
    settings |= {"num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 128}
    settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32}
    settings |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
    settings |= {"type_vocab_size": 0, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(**settings)
    make = transformers.AutoModelForSequenceClassification.from_config
    with torch.device("meta"):
        outlined = make(config, attn_implementation="eager").train()
    real = make(config, attn_implementation="eager")
    for rows, length in SIZES:
        found = activations.probe(outlined, Batch(rows=rows, length=length))
        assert found.kept == pytest.approx(kept_by(real, rows, length), rel=0.1)
        peaks, _ = alive_in(real, rows, length)
        for section, most in peaks.items():
            assert found.peaks[section] == pytest.approx(most, rel=0.05, abs=20_000), section


def test_a_head_on_choices_reads_a_text_for_each(write, tmp_path):
    """Rows of a micro-batch are examples; what is kept is that of a real step on [examples, choices, tokens]."""
    model = f"{{card: tiny_bert, architecture: {FUSED['bert']}}}"
    path = write("study/own.yaml", f"dataset: endings\nmodel: {model}\nmethod: full\nmax_length: 96\n")
    resolved = resolve.load(path)
    lengths = report.lengths_of(resolved)
    assert lengths.choices == 5
    assert 10 < lengths.longest <= 96
    assert "texts with up to 5 choices each" in lengths.source
    plan = MemoryPlan.of(resolved, Parallelism(), precision="no", lengths=lengths)
    real = tiny.build(resolved.recipe.model, tmp_path, auto_class=choice_head.AUTO_CLASS, labels=("fit",))
    assert plan.usage(3, 64).kept == pytest.approx(kept_by(real, 3 * 5, 64), rel=0.1)
    unread = dataclasses.replace(assumed(resolved.recipe), choices=3)
    assert assumed(resolved.recipe).choices == ASSUMED_CHOICES
    fewer = MemoryPlan.of(resolved, Parallelism(), precision="no", lengths=unread)
    assert fewer.usage(5, 64).kept == pytest.approx(plan.usage(3, 64).kept, rel=1e-6)
    features = [{"input_ids": [5] * 9, "pairs": [{"input_ids": [5] * 4}, {"input_ids": [5] * 5}]}]
    features.append({"input_ids": [5] * 7, "pairs": [{"input_ids": [5] * 2}] * 3})
    assert longest_texts(features) == ([5, 2], 3)
    assert longest_texts([{"input_ids": [5] * 9}]) == ([9], 1)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_mixed_precision_keeps_16_bits(write, tmp_path, family):
    outlined, real = pair(write, tmp_path, family, "full")
    found = activations.probe(outlined, Batch(rows=4, length=100, precision="bf16")).kept
    assert found == pytest.approx(kept_by(real, 4, 100, mixed=True), rel=0.1)
    assert found < 0.95 * activations.probe(outlined, Batch(rows=4, length=100)).kept


@pytest.mark.parametrize(
    "rest",
    [
        "method: full\n",
        "method: full\ntraining: {gradient_checkpointing: true}\n",
        "method: {name: lora}\n",
        "method: {name: qlora}\nobjective: text\ntraining: {gradient_checkpointing: true}\n",
        "method: {name: last_layers, blocks: 4}\n",
    ],
)
def test_a_few_blocks_tell_of_all(write, monkeypatch, rest):
    job = MemoryPlan.of(
        resolve.load(own(write, "{card: tiny_llama, architecture: {num_hidden_layers: 9}}", rest)), Parallelism()
    )
    few = job.usage(4, 96)
    job.usages.clear()
    monkeypatch.setattr(activations, "_runs", lambda model: [])
    whole = job.usage(4, 96)
    assert few.kept == pytest.approx(whole.kept, rel=0.02)
    for alive in ("peaks", "with_gradients"):
        assert max(getattr(few, alive).values()) == pytest.approx(max(getattr(whole, alive).values()), rel=0.02)


@pytest.mark.parametrize(
    ("family", "objective"), [*((name, "head") for name in tiny.FAMILIES), *((name, "text") for name in tiny.WRITERS)]
)
def test_every_family_can_be_planned(write, family, objective):
    job = MemoryPlan.of(
        resolve.load(own(write, f"tiny_{family}", f"method: lora\nobjective: {objective}\n")), Parallelism()
    )
    few, many = job.usage(2, 32), job.usage(8, 64)
    assert 0 < 3 * few.kept < many.kept
    assert max(many.peaks.values()) >= many.kept


def test_scores_are_kept_by_eager_attention_only(write):
    eager, fused = (
        MemoryPlan.of(resolve.load(own(write, f"{{card: tiny_llama, attention: {kind}}}")), Parallelism()).usage(2, 128)
        for kind in ("eager", "sdpa")
    )
    # Of two blocks: at least the weights [rows, heads, tokens, tokens] in 16 bits.
    assert eager.kept - fused.kept > 2 * 2 * 4 * 128 * 128 * 2


def test_logits_are_counted_where_they_are_made(write):
    rest = "method: full\nobjective: text\nspeed: {answer_logits: %s}\n"
    few, full = (
        MemoryPlan.of(resolve.load(own(write, "tiny_llama", rest % on)), Parallelism()) for on in ("true", "false")
    )
    more = full.usage(4, 100).peaks["head"] - few.usage(4, 100).peaks["head"]
    assert more > 0.9 * 4 * 100 * 2048 * 2


def test_mistral_in_4_bits():
    job = MemoryPlan.of(resolve.load(MISTRAL, ("training.per_device_batch=1",)), Parallelism())
    found = job.predict(1, 512)
    assert 3.8 < found.parts["weights"] / GIB < 4.0
    assert found.parts["adapters and head"] == found.parts["gradients"] == job.states.gradients
    # Hidden states between blocks, in float32 behind norms of that type.
    assert found.parts["activations"] >= 32 * 512 * 4096 * 4
    assert 4.5 < found.total / GIB < 6.5
    assert "weights in 16 bits" not in found.parts
    assert found.total == sum(found.parts.values())
    record = found.as_record()["train"]
    assert record["total_gib"] == pytest.approx(sum(record["parts"].values()), abs=1e-3)
    assert found.host == {"paged optimizer": job.states.paged}


def test_autocast_copies_weights_that_are_trained_though_activations_are_recomputed(seventy):
    two = dataclasses.replace(seventy, parallelism=Parallelism(world=8, zero=2)).predict(1, 2048)
    # Of linear layers' weights: not the embedding's, and the output head's is kept for the backward pass anyway.
    assert two.parts["weights in 16 bits"] == pytest.approx(2 * seventy.states.num_trainable, rel=0.06)
    assert (
        "weights in 16 bits"
        not in dataclasses.replace(seventy, parallelism=Parallelism(world=8, zero=3)).predict(1, 64).parts
    )


@pytest.fixture(scope="module")
def seventy():
    return report.plan_70b()


def test_zero_shards_what_it_says(seventy):
    numbers = seventy.states.num_trainable
    assert 70e9 < numbers < 71e9
    for world in (2, 64, 1024):
        found = [
            dataclasses.replace(seventy, parallelism=Parallelism(world=world, zero=zero)).predict(1, 2048)
            for zero in range(4)
        ]
        first, second, third = found[1:]
        assert found[0].parts["communication"] == found[0].parts["gradients"] == 4 * numbers
        assert first.parts["optimizer"] == pytest.approx(8 * numbers / world, rel=0.001)
        assert first.parts["master weights"] == pytest.approx(4 * numbers / world, rel=0.001)
        assert first.parts["gradients"] == 4 * numbers
        assert second.parts["gradients"] == pytest.approx(4 * numbers / world, rel=0.001)
        assert third.parts["weights"] == pytest.approx(4 * numbers / world, rel=0.001)
        assert found[0].total > first.total
        assert second.total > third.total
        # On two, what ZeRO-2 copies for the step is more than what it shards; so it was measured, too.
        assert (first.total > second.total) == (world > 2)
        assert {one.whole for one in found[:3]} == {first.whole}
        # Scored and saved sharded: beside a part of all states only layers that are gathered, and a batch.
        assert 20 * numbers / world < third.whole < 20 * numbers / world + 12 * GIB
    waiting = dataclasses.replace(seventy, parallelism=Parallelism(world=8, zero=3, offload="cpu")).predict(1, 2048)
    assert sum(waiting.host.values()) == pytest.approx((4 + 4 + 4 + 8 + 4) * numbers, rel=0.001)
    assert not {"optimizer", "weights", "gradients", "master weights"} & set(waiting.parts)


@pytest.mark.parametrize("rest", ["method: lora\n", "method: full\ntraining: {per_device_batch: 4}\n"])
def test_searches_end_at_the_border(write, rest):
    job = MemoryPlan.of(resolve.load(own(write, "tiny_bert", rest)), Parallelism())
    room = job.predict(5, 64).needed + 70_000
    rows = search.largest_batch(job, 64, room)
    assert job.predict(rows, 64).needed <= room < job.predict(rows + 1, 64).needed
    length = search.largest_length(job, 3, room)
    assert length % 16 == 0
    assert job.predict(3, length).needed <= room
    assert length == 128 or job.predict(3, length + 16).needed > room
    assert search.largest_batch(job, 64, 1000) == search.largest_length(job, 3, 1000) == 0
    assert search.largest_batch(job, 4, 10**15) == search.MOST_ROWS


def changed(path, room, parallelism=None):
    resolved = resolve.load(path)
    job = MemoryPlan.of(resolved, parallelism or Parallelism())
    chosen = search.cheapest_fit(job, 128, room, lambda overrides: resolve.load(path, overrides))
    return [change.what for change in chosen]


def test_the_cheapest_change_comes_first(write):
    path = resolve.SHIPPED / "sst2" / "llama32_1b-full.yaml"
    job = MemoryPlan.of(resolve.load(path), Parallelism())
    least = job.predict(1, 128).needed
    assert changed(path, least) == ["training.per_device_batch=1"]
    assert changed(path, least - 2 * GIB)[-1] == "training.optimizer=adamw_bnb_8bit"
    assert changed(path, 5 * GIB)[-1] == "method=lora"
    assert changed(own(write, "tiny_bert"), GIB // 2) == []


def lines(capsys, *arguments):
    code = main.main(["plan", *map(str, arguments)])
    done = capsys.readouterr()
    return code, done.out, done.err


def test_the_command_says_what_fits(write, capsys):
    path = own(write, "tiny_bert")
    code, out, err = lines(capsys, path, "--gpu", "T4", "training.epochs=1")
    assert (code, err) == (0, "")
    assert re.match(r"fits: \d\.\d\d GiB of the 14\.56 GiB of Tesla T4, \d+\.\d\d GiB to spare, at micro-ba", out)
    assert "fp16" in out.splitlines()[1]  # a T4 has no bf16
    assert "the longest of 1600 texts" in out
    assert "time: no forecast: a micro-batch of 32 x 26 tokens is so little work for Tesla T4" in out
    assert "\ntrainable parameters: " in out
    code, out, _ = lines(capsys, path, "--per-device-batch", 4, "--length", 100, "--world", 2, "--zero", 2)
    assert code == 0
    assert "2 GPUs, ZeRO-2" in out
    assert "micro-batch: 4 x 100 tokens" in out
    code, out, err = lines(capsys, path, "--gpu", "1 GB", "model=tiny_llama", "model.architecture.vocab_size=1000000")
    assert (code, err) == (3, "")
    assert out.startswith("does not fit: ")
    assert "\nto make it fit at 69 tokens: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "apples"], "the device 'apples' is not known here. Known: NVIDIA B200"),
        (
            ["--gpu", "A100"],
            "the device 'A100' could be NVIDIA A100-SXM4-80GB or NVIDIA A100 80GB PCIe or NVIDIA A100-SXM4-40GB or "
            "NVIDIA A100-PCIE-40GB; say more of its name",
        ),
        (["--gpu", "12 apples"], "'12 apples' is not a size of memory; write a number above 0 and a unit"),
        (["--gpu=-3GiB"], "'-3GiB' is not a size of memory"),
        (["--gpu", "0"], "'0' is not a size of memory; write a number above 0 and a unit"),
        (["--gpu", "RTX 5090 Ti"], "the device 'RTX 5090 Ti' is not known here. Known: NVIDIA B200"),
        (["--world", "0"], "a run needs at least one GPU, not 0"),
        (["--world=-5"], "a run needs at least one GPU, not -5"),
        (["--per-device-batch", "0"], "command line: training.per_device_batch: expected a number greater than 0"),
        (["--length", "0"], "--length 0 is outside of what the model reads: 1 to 128 tokens"),
        (["--length", "999", "model.max_length=null"], "--length 999 is outside of what the model reads: 1 to 128"),
        (["method={name: last_layers, blocks: 9}"], "method.blocks is 9, but the model has 2 block(s)"),
        (["--zero", "4"], "there is no ZeRO stage 4"),
        (["--offload", "cpu"], "offload to the host is ZeRO's"),
        (["--offload", "moon"], "offload is 'moon'; take none or cpu"),
        (["--length", "100000"], "--length 100000 is outside of what the model reads: 1 to 128 tokens"),
        (
            ["--per-device-batch", "7"],
            "command line: training.global_batch: 32 is not a multiple of per_device_batch 7",
        ),
        (
            ["--zero", "1", "training.optimizer=adafactor"],
            "training.optimizer: adafactor would compute something else on shards of parameters, as ZeRO-1 makes them;",
        ),
        (
            ["--fsdp", "training.optimizer=adamw_bnb_8bit"],
            "training.optimizer: adamw_bnb_8bit has no step for FSDP2's tensors; take adamw_torch or adamw",
        ),
        (
            ["--zero", "3", "training.optimizer=adamw_bnb_8bit"],
            "training.optimizer: adamw_bnb_8bit keeps 8-bit blocks, which checkpoints of ZeRO-3 don't hold; take adamw",
        ),
        (
            ["--zero", "3", "--offload", "cpu", "training.optimizer=sgd"],
            "training.optimizer: with offload accelerate takes DeepSpeed's Adam for CPUs in place of sgd; take adamw",
        ),
        (["--fsdp", "training.engine=loop"], "training.engine: loop trains whole models only, not under FSDP2"),
        (["--world", "64"], "training.global_batch 32 can't be split over 64 processes; choose a multiple of 64"),
        (["--records", "reports/minilm"], "--records: name the GPU with --gpu, as in A10G: only records of the same"),
        (["--table"], "--table is of all shipped recipes as they are, on one GPU; omit RECIPE"),
        (["--job", "no.yaml", "--fsdp"], "--fsdp is for a recipe's plan; the settings of a --job are in its file"),
        (["model.architecture.hidden_size=-4"], "the model 'bert' can't be loaded: Trying to create tensor with nega"),
        (["model=pyproject.toml"], "command line: model: there is no model card 'pyproject.toml'. Known: "),
        (
            ["method=zero_shot", "objective=text", "model=tiny_llama", "--world", "2", "--zero", "3"],
            "method 'zero_shot' trains nothing by gradients, so that ZeRO has nothing to shard; omit --zero",
        ),
        (
            ["method=zero_shot", "objective=text", "model=tiny_llama", "--per-device-batch", "2"],
            "command line: training.per_device_batch: method 'zero_shot' is not trained and can't use this; remove it",
        ),
        (
            ["--gpu", "T4", "--precision", "bf16"],
            "--precision bf16: Tesla T4 (compute capability 7.5) has no units for",
        ),
        (
            ["--gpu", "V100 16GB", "--precision", "bf16"],
            "--precision bf16: Tesla V100-PCIE-16GB (compute capability 7.0",
        ),
        (["--gpu", "T4", "--records", "nowhere"], "nowhere: there is no such file or folder"),
        (["method=qlora", "--zero", "3"], "method: qlora under ZeRO-3 needs 4-bit weights that are stored as"),
    ],
)
def test_what_can_not_be_planned_is_one_sentence(write, capsys, arguments, message):
    code, out, err = lines(capsys, own(write, "tiny_bert"), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


def test_a_model_of_unknown_architecture_is_one_sentence(write, capsys):
    write("models/unknown.yaml", "id: someone/unknown\nfamily: decoder\nlicence: MIT\n")
    code, out, err = lines(capsys, own(write, "unknown"))
    assert (code, out) == (2, "")
    assert err.startswith("error: the model 'someone/unknown' can't be loaded: ")
    assert err.endswith("cached files; to plan without it, write the model's `architecture` into its card\n")


def test_a_recipe_or_the_table_must_be_asked_for(capsys):
    assert lines(capsys)[0] == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GiB", 11.56), ("24 GB", 23.52), ("H200", 139.72), ("rtx 4090", 23.52), ("A10G", 22.05), ("20GiB", 20.0)],
)
def test_sizes_and_devices(text, size):
    assert hardware.memory(text) == round(size * GIB)


def test_the_report_is_what_the_command_prints(tmp_path, capsys):
    assert lines(capsys, "--table", "-o", tmp_path / "plan.md") == (0, "", "")
    shipped = (ROOT / "reports" / "plan.md").read_text(encoding="utf-8")
    assert (tmp_path / "plan.md").read_text(encoding="utf-8") == shipped
