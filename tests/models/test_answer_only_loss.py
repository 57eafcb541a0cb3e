"""Logits at answers only: the loss and every gradient of the plain path, and no logits of anything else.

As a script, in a launch of two processes: one step in which only rank zero has an answer. Its argument is a folder.
"""

import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest
import torch
import transformers
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from bench.distributed import setup
from bench.models import heads
from bench.models.kernels import answer_only_loss, padding_free
from bench.models.losses import answer_loss_sum
from bench.training.state import Progress
from tests.helpers import models as tiny
from tests.helpers import text_training as texts
from tests.helpers.cases import cover
from tests.helpers.launching import ROOT
from tests.helpers.launching import launch as launched

# A width that no count of tokens here is equal to.
HIDDEN, VOCABULARY = 64, 2048
CASES = [
    *(f"{family}-{method}" for family in tiny.DECODERS for method in ("full", "lora")),
    *("llama-qlora", "gemma2-qlora", "t5-full", "t5-lora", "llama-last_layers"),
]
TRAINED = ["gpt2-full", "llama-lora", "llama-qlora", "gemma2-full", "t5-full"]
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")


def model_of(case, folder):
    """(card, adapted model): with weights, also in adapters, whose logits differ from place to place."""
    known, model = texts.model_of(case, folder)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return known, model


def of_config(kind, **fields):
    """A tiny decoder of a family without a card."""
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(13)
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **fields})
    return tiny.liven(transformers.AutoModelForCausalLM.from_config(config))


def counted(batch):
    return {**batch, "num_answers": int((batch["labels"] != -100).sum())}


def plain_step(model, batch):
    """(loss, gradients) by all logits, cut down afterwards."""
    model.train()
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    loss = answer_loss_sum(model(**inputs).logits, batch["labels"], shifted="decoder_input_ids" not in batch)
    loss.backward()
    return loss.detach(), gradients(model)


def answers_step(model, batch):
    """(loss, gradients) by the forward that is attached."""
    model.train()
    model.zero_grad()
    loss = model(**counted(batch)).loss
    loss.backward()
    return loss.detach(), gradients(model)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_same_step(found, expected, model):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert expected[0] > 1
    assert set(found[1]) == set(expected[1]) == set(tiny.trainable(model))
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        # The gradient of a bias of keys is nothing but rounding.
        size = max(float(gradient.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-5 * size, msg=name)


class Logits(TorchDispatchMode):
    """Rows of every tensor over the vocabulary that is made inside, but for weights and their gradients."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for item in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            is_logits = torch.is_tensor(item) and item.dim() > 1 and item.shape[-1] == VOCABULARY
            if is_logits and item.is_floating_point() and item.shape[-2] != HIDDEN:
                self.rows.append(item.numel() // VOCABULARY)
        return outputs


# ---------------------------------------------------------------- one step


@pytest.mark.parametrize(("case", "chunk_rows"), cover(CASES, [1024, 4], ["gpt2-full", "gemma2-lora", "t5-full"]))
def test_loss_and_every_gradient(case, chunk_rows, tmp_path):
    known, model = model_of(case, tmp_path)
    batch = tiny.text_batch(known, texts.TEXTS)
    expected = plain_step(model, batch)
    assert answer_only_loss.attach(model, chunk_rows) is None
    assert 4 * 2 < counted(batch)["num_answers"] < 1024
    assert_same_step(answers_step(model, batch), expected, model)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_tied_and_untied_heads(family, tied, tmp_path):
    known = tiny.narrow(family, tie_word_embeddings=tied, **dict.fromkeys(texts.NO_DROPOUT.get(family, []), 0.0))
    model = tiny.text_adapted(known, tmp_path, "full")
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    batch = tiny.text_batch(known)
    expected = plain_step(model, batch)
    assert answer_only_loss.attach(model, 4) is None
    assert_same_step(answers_step(model, batch), expected, model)


@pytest.mark.parametrize("chunk_rows", [1024, 4])
def test_an_adapter_around_the_head_is_trained(chunk_rows, tmp_path):
    known = tiny.narrow("llama")
    options = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], r=4, lora_dropout=0.0)
    model = get_peft_model(tiny.text_build(known, tmp_path), options)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))
    batch = tiny.text_batch(known)
    expected = plain_step(model, batch)
    assert answer_only_loss.attach(model, chunk_rows) is None
    found = answers_step(model, batch)
    assert_same_step(found, expected, model)
    assert sum("lm_head" in name and bool(gradient.any()) for name, gradient in found[1].items()) == 2


@pytest.mark.parametrize("case", ["gpt2-full", "gemma2-full", "llama-lora", "t5-full"])
def test_with_recomputed_activations(case, tmp_path):
    known, model = model_of(case, tmp_path)
    batch = tiny.text_batch(known)
    expected = plain_step(model, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    assert answer_only_loss.attach(model, 4) is None
    assert_same_step(answers_step(model, batch), expected, model)


@pytest.mark.parametrize("case", ["gpt2-full", "gemma2-full", "llama-lora"])
def test_together_with_a_body_that_leaves_out_pads(case, tmp_path):
    known, model = model_of(case, tmp_path)
    batch = tiny.text_batch(known)
    expected = plain_step(model, batch)
    assert padding_free.attach(model) is None
    assert answer_only_loss.attach(model, 4) is None
    assert_same_step(answers_step(model, batch), expected, model)


@pytest.mark.parametrize(
    ("case", "chunk_rows"), cover(["gpt2-full", "gemma2-full", "llama-lora"], [1024, 4], ["gpt2-full"])
)
def test_under_autocast_the_head_works_in_16_bits_and_the_loss_in_32(case, chunk_rows, tmp_path):
    known, model = model_of(case, tmp_path)
    batch = tiny.text_batch(known)
    seen = []
    heads.unwrapped(model).get_output_embeddings().register_forward_hook(lambda *given: seen.append(given[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain_step(model, batch)
        assert answer_only_loss.attach(model, chunk_rows) is None
        found = answers_step(model, batch)
    assert set(seen) == {torch.bfloat16}
    assert found[0].dtype == torch.float32
    assert found[0].item() == pytest.approx(expected[0].item(), rel=2e-3)
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 0.02 * max(gradient.norm(), 1e-3), name


def test_what_hooks_of_the_head_do_is_done(tmp_path):
    """As for QLoRA, whose head is given what its weights' type is; here a hook doubles the logits."""
    known, model = model_of("llama-full", tmp_path)
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)
    batch = tiny.text_batch(known)
    expected = plain_step(model, batch)
    assert answer_only_loss.attach(model, 4) is None
    assert_same_step(answers_step(model, batch), expected, model)


@pytest.mark.parametrize(
    ("case", "chunk_rows"),
    cover(["gpt2-full", "llama-full", "gemma2-lora", "llama-qlora"], [1024, 4], ["gpt2-full"]),
)
def test_a_batch_without_a_label_is_zero_and_has_gradients(case, chunk_rows, tmp_path):
    known, model = model_of(case, tmp_path)
    batch = tiny.text_batch(known)
    batch["labels"].fill_(-100)
    assert answer_only_loss.attach(model, chunk_rows) is None
    loss, found = answers_step(model, batch)
    assert loss.item() == 0
    assert set(found) == set(tiny.trainable(model))
    assert not any(gradient.any() for gradient in found.values())


def test_no_logits_but_the_answers_are_made(tmp_path):
    known, model = model_of("llama-full", tmp_path)
    batch = tiny.text_batch(known)
    num_answers, num_tokens = counted(batch)["num_answers"], batch["input_ids"].numel()
    assert num_answers < num_tokens / 4
    with Logits() as plain:
        plain_step(model, batch)
    assert max(plain.rows) == num_tokens
    for chunk_rows, largest in ((1024, num_answers), (4, 4)):
        assert answer_only_loss.attach(model, chunk_rows) is None
        with Logits() as made:
            answers_step(model, batch)
        assert max(made.rows) == largest
        answer_only_loss.detach(model)


# ---------------------------------------------------------------- which models, and what is left of it


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 4.0}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
    ],
)
def test_known_changes_of_logits_are_made(kind, fields):
    model = of_config(kind, **fields)
    batch = tiny.text_batch(tiny.card("llama"))
    expected = plain_step(model, batch)
    bare = of_config(kind, **dict.fromkeys(fields, None if kind == "gemma2" else 1.0))
    assert abs(plain_step(bare, batch)[0] - expected[0]) > 1e-2, "the change shows in the loss"
    assert answer_only_loss.attach(model, 4) is None
    assert_same_step(answers_step(model, batch), expected, model)


class Squared(transformers.LlamaForCausalLM):
    """Changes its logits in a way that no config tells of."""

    def forward(self, *args, **options):
        outputs = super().forward(*args, **options)
        outputs.logits = outputs.logits**2
        return outputs


class Unstable(transformers.LlamaForCausalLM):
    """Gives its head another shape than that of its tokens."""

    def forward(self, *args, **options):
        return super().forward(*args, **{**options, "logits_to_keep": 2})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Squared, "changes its logits behind the output head in a way that is not known"), (Unstable, "another shape")],
)
def test_other_changes_are_refused_with_a_reason(kind, reason):
    model = of_config("llama")
    model.__class__ = kind
    model.train()
    assert reason in answer_only_loss.attach(model)
    assert model.training
    assert "forward" not in model.__dict__
    answer_only_loss.detach(model)
    assert model.forward.__func__ is kind.forward


def test_a_mixture_of_experts_is_refused():
    model = of_config("mixtral", num_local_experts=2)
    assert "mixture of experts" in answer_only_loss.attach(model)


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_a_refused_model_trains_the_plain_way(engine, tmp_path):
    outcomes = []
    for wanted in (True, False):
        known, model = texts.model_of("llama-full", tmp_path / str(wanted))
        model.__class__ = Squared
        # TRL takes the logits from the head's weight, and would not see them squared.
        inputs = texts.inputs_of(model, known, tmp_path, engine=engine, answer_logits=wanted)
        outcomes.append(texts.train(inputs)[1])
        assert inputs.observer.settings["answer_logits"] is False
        told = [note for note in inputs.observer.notes if "speed.answer_logits: all logits were computed" in note]
        assert len(told) == wanted
        assert all("not known here" in note for note in told)
    assert outcomes[0] == outcomes[1]


def test_without_being_asked_the_model_answers_as_ever(tmp_path):
    known, model = model_of("gemma2-lora", tmp_path)
    batch = tiny.text_batch(known)
    labels = batch.pop("labels")
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        assert answer_only_loss.attach(model) is None
        found = model(**batch, labels=labels)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)


def test_the_forward_of_before_comes_back(tmp_path):
    _, model = model_of("gpt2-full", tmp_path)
    own = functools.partial(type(model).forward, model)
    model.forward = own
    assert answer_only_loss.attach(model) is None
    assert answer_only_loss.attach(model) is None, "twice is once"
    assert model.forward is not own
    answer_only_loss.detach(model)
    answer_only_loss.detach(model)
    assert model.forward is own
    assert answer_only_loss.STATE not in model.__dict__
    hooks = model.lm_head._forward_pre_hooks
    assert not hooks


# ---------------------------------------------------------------- whole trainings


def trained(case, folder, *, wanted, **settings):
    """As `texts.run`, with the switch."""
    known, model = texts.model_of(case, folder)
    names = tiny.trainable(model)
    inputs = texts.inputs_of(model, known, folder, answer_logits=wanted, **settings)
    model, found = texts.train(inputs)
    assert inputs.observer.settings["answer_logits"] is wanted
    assert inputs.observer.notes == []
    assert answer_only_loss.STATE not in heads.unwrapped(model).__dict__
    parameters = dict(model.named_parameters())
    return {**found, "weights": {name: parameters[name].detach().clone() for name in names}}


def assert_same_training(found, expected):
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert set(found["weights"]) == set(expected["weights"])
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, atol=1e-5, rtol=0, msg=name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One batch of eight by the default engine, with all logits, or TRL's own loss."""
    folder = tmp_path_factory.mktemp("plain")
    return {case: trained(case, folder / case, wanted=False) for case in TRAINED}


@pytest.mark.parametrize(
    ("case", "engine", "size"),
    [
        *((case, engine, size) for case in TRAINED for engine, size in (("trainer", 1), ("loop", 8))),
        *((case, engine, size) for case in ("gpt2-full", "t5-full") for engine, size in (("trainer", 8), ("loop", 1))),
    ],
)
def test_training_is_the_same(plain, case, engine, size, tmp_path):
    assert_same_training(trained(case, tmp_path, wanted=True, engine=engine, per_device_batch=size), plain[case])


@pytest.mark.parametrize("case", ["gpt2-full", "gpt2-lora", "t5-full"])
def test_dropout_is_drawn_the_same(case, tmp_path):
    """The seed of a step reaches the same layers in the same order."""
    ways = {"optimizer": "adamw_torch", "learning_rate": 1e-3, "per_device_batch": 4}
    outcomes = []
    for wanted in (False, True):
        known, model = texts.model_of(case, tmp_path / str(wanted), dropout=True)
        inputs = texts.inputs_of(model, known, tmp_path, answer_logits=wanted, **ways)
        outcomes.append(texts.train(inputs)[1]["losses"])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-5)


@pytest.mark.parametrize("engine", ["trainer", "loop"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_step_makes_other_logits(engine, checkpointing, tmp_path):
    rows = {}
    for wanted in (False, True):
        known, model = texts.model_of("llama-lora", tmp_path / str(wanted))
        settings = {"engine": engine, "gradient_checkpointing": checkpointing, "steps": 1}
        inputs = texts.inputs_of(model, known, tmp_path, answer_logits=wanted, checked=0, **settings)
        progress = Progress()
        with Logits() as made:
            texts.train(inputs, progress)
        # The few tokens that are compared beforehand are sixteen.
        rows[wanted] = max(made.rows)
        answers = progress.steps.totals()[3]
        assert answers > 16
    assert rows[True] == answers
    assert rows[False] > 5 * answers


# ---------------------------------------------------------------- processes and records


def test_two_processes_are_the_same(plain, tmp_path):
    jobs = {
        str(tmp_path / f"{case}-{engine}"): [case, {"engine": engine, "per_device_batch": 2}]
        for case in TRAINED
        for engine in ("trainer", "loop")
    }
    # Whole texts, in steps of similar lengths: the same steps, whatever the number of processes.
    whole = {"loss_on": "all", "group_by_length": True}
    expected = {case: plain[case] for case in TRAINED}
    expected["whole"] = trained("gpt2-full", tmp_path / "alone", wanted=False, **whole)
    for engine in ("trainer", "loop"):
        settings = {"engine": engine, "per_device_batch": 2, **whole}
        jobs[str(tmp_path / f"whole-{engine}")] = ["gpt2-full", settings]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    script = ROOT / "tests" / "helpers" / "text_training.py"
    done = launched(tmp_path / "jobs.json", config="ddp_cpu2", script=script, timeout_s=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for place, (case, settings) in jobs.items():
        found = json.loads((Path(place) / "found.json").read_text(encoding="utf-8"))
        assert found["world_size"] == 2
        found["weights"] = load_file(Path(place) / "weights.safetensors")
        assert_same_training(found, expected["whole" if "loss_on" in settings else case])


def uneven(folder):
    """{"gpt2-full", "llama-lora"} -> (model, batch of one process, all rows of which have answers)."""
    for case in ("gpt2-full", "llama-lora"):
        known, model = model_of(case, folder)
        assert answer_only_loss.attach(model, 4) is None
        yield case, model, tiny.text_batch(known)


def test_a_process_without_an_answer_does_not_stop_the_others(tmp_path):
    done = launched(tmp_path, config="ddp_cpu2", script=Path(__file__), timeout_s=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for case, model, batch in uneven(tmp_path):
        _, expected = answers_step(model, batch)
        found = load_file(tmp_path / f"{case}.safetensors")
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            size = max(float(gradient.abs().max()), 1e-3)
            # DDP takes the mean of the two.
            torch.testing.assert_close(2 * found[name], gradient, rtol=0, atol=1e-5 * size, msg=name)


if __name__ == "__main__":
    setup.start()
    accelerator, folder = Accelerator(), Path(sys.argv[1])
    for case, model, batch in uneven(folder / str(accelerator.process_index)):
        if accelerator.process_index == 1:
            batch["labels"].fill_(-100)
        prepared = accelerator.prepare(model)
        prepared.train()
        accelerator.backward(prepared(**counted(batch)).loss)
        if accelerator.is_main_process:
            save_file(gradients(accelerator.unwrap_model(prepared)), folder / f"{case}.safetensors")
        accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()
