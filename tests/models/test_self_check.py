"""Real examples are run by the plain path too, and what differs, or fails, falls back until it is the plain path's."""

import dataclasses
import random
from typing import Any

import peft
import pytest
import torch
import transformers

from bench.data.examples import Encoded
from bench.evaluation import generation, likelihood, self_check
from bench.evaluation.head_forward import HeadForward
from bench.evaluation.likelihood import Item, Scorer, plain
from bench.evaluation.readers.head import HeadReader
from bench.evaluation.scoring import run as score
from bench.models import positions
from bench.models.kernels import answer_only_loss, padding_free, shared_prefix
from bench.models.kernels.packed_attention import PackedAttention
from bench.training.self_check import checked
from tests.helpers import models as tiny
from tests.helpers import text_training as texts
from tests.helpers.decoders import FAMILIES, SMALL, build

ORIGINAL = 24
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": ORIGINAL,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 1.5],
}
ROTATED: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic-llama": ("llama", {**SMALL, "max_position_embeddings": ORIGINAL, "rope_parameters": DYNAMIC}),
    "dynamic-qwen2": ("qwen2", {**SMALL, "max_position_embeddings": ORIGINAL, "rope_parameters": DYNAMIC}),
    "dynamic-gpt_neox": (
        "gpt_neox",
        {
            **FAMILIES["gpt_neox"][1],
            "max_position_embeddings": ORIGINAL,
            "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 1.0},
        },
    ),
    "longrope-llama": ("llama", {**SMALL, "rope_parameters": LONG}),
    "longrope-phi3": (
        "phi3", {**SMALL, "rope_parameters": LONG, "original_max_position_embeddings": ORIGINAL, "sliding_window": None}
    ),
}  # fmt: skip
LABELS = ((5,), (5, 6), (7, 8, 9))
INVOCATION = [33, 34]


def items(lengths: Any, *, common: int = 6, ending: Any = ()) -> list[Item]:
    rng = random.Random(5)
    shared = rng.choices(range(40, 90), k=common)
    return [
        Item(context=(*shared, *rng.choices(range(40, 90), k=length), *ending), continuations=LABELS)
        for length in lengths
    ]


def answers(scorer: Scorer) -> list[likelihood.Answer]:
    found: dict[int, likelihood.Answer] = {}
    for numbers in scorer.batches:
        found |= zip(numbers, scorer.run(numbers), strict=True)
    return [found[number] for number in sorted(found)]


def assert_plain(scorer: Scorer, expected: list[likelihood.Answer]) -> None:
    for one, other in zip(answers(scorer), expected, strict=True):
        assert one.sums == pytest.approx(other.sums, abs=1e-4)


def with_lora(model: Any, **options: Any) -> Any:
    """A model with a LoRA that changes it, as after training."""
    made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **options)).eval()
    torch.manual_seed(3)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.3)
    return made


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: Any) -> None:
    """On a busy machine all examples are compared, too."""
    monkeypatch.setattr(self_check, "LIMIT_S", 600.0)


# Which examples


def test_the_longest_and_the_shortest_are_compared_even_without_time(monkeypatch):
    assert list(self_check.within_time([4, 7, 2])) == [4, 7, 2]
    monkeypatch.setattr(self_check, "LIMIT_S", -1.0)
    assert list(self_check.within_time([4, 7, 2])) == [4, 7]
    assert list(self_check.within_time([4])) == [4]


@pytest.mark.parametrize(("count", "number"), [(8, 20), (2, 20), (8, 5), (8, 1), (3, 3)])
def test_the_sample_holds_the_longest_and_the_shortest(count, number):
    lengths = random.Random(1).sample(range(100), k=number)
    found = self_check.sample(lengths, count)
    assert len(found) == len(set(found)) == min(count, number)
    assert [lengths[place] for place in found[:2]] == [max(lengths), min(lengths)][:number]
    first, *_ = self_check.parts(found, lengths, budget=1)
    assert first == found[:2]


def test_some_continuations():
    assert self_check.some([1, 1, 1]) == [0, 1, 2]
    found = self_check.some([1] * 30 + [5] + [1] * 46)
    assert len(found) == 4
    assert {0, 30, 76} < set(found)


@pytest.mark.parametrize(
    ("fast", "plain_value", "far"),
    [
        (1.0, 1.00005, False),
        (1.0, 1.001, True),
        (-50.0, -50.001, False),
        (float("nan"), 1.0, True),
        (1.0, float("nan"), False),
    ],
)
def test_rounding(fast, plain_value, far):
    assert self_check.is_far(fast, plain_value, exact=True) is far


# Adapters and layers that look at more than one token


@pytest.mark.parametrize("declared", [True, False])
def test_an_adapter_that_is_woken_by_tokens(declared, monkeypatch):
    """As long as no text has them it does nothing: neither what is declared nor random tokens show it."""
    model = with_lora(build(*FAMILIES["llama"]), alora_invocation_tokens=INVOCATION)
    asked = items((3, 12, 1, 7, 9), ending=INVOCATION)
    if not declared:
        monkeypatch.setattr("bench.models.kernels.patch._looks_for_tokens", lambda _: False)
    scorer = Scorer(model, asked, pad_token_id=0)
    expected = [plain(model, item) for item in asked]
    with model.disable_adapter():
        assert abs(plain(model, asked[0]).sums[0] - expected[0].sums[0]) > 0.1
    assert_plain(scorer, expected)
    assert len(scorer.notes) == 1
    assert ("looks for certain tokens" if declared else "other log-likelihoods than by plain forwards") in scorer.notes[
        0
    ]
    prompts = [list(item.context) for item in asked]
    settings = {"end_token_ids": {3}, "max_new_tokens": 6, "pad_token_id": 0}
    generator = generation.Generator(model, prompts, **settings)
    assert generator.run(list(range(5))) == [generation.plain(model, prompt, **settings) for prompt in prompts]
    assert len(generator.notes) == (1 if declared else len(generator.notes) or 1)


class Hooked:
    """A layer whose result depends on something that few texts have."""

    def __init__(self, model: Any, when: Any) -> None:
        self.when, self.ids = when, None
        model.register_forward_pre_hook(self._see, with_kwargs=True)
        model.get_decoder().layers[0].register_forward_hook(self._change)

    def _see(self, module: Any, args: Any, options: Any) -> None:
        self.ids = options.get("input_ids", args[0] if args else None)

    def _change(self, module: Any, args: Any, output: Any) -> Any:
        return output * 3 if self.ids is not None and self.when(self.ids) else output


@pytest.mark.parametrize(
    ("when", "strategy"),
    [
        (lambda ids: bool((ids == 88).any()), "_Rows or _Alone"),  # a token
        (lambda ids: ids.shape[1] > 20, "_Alone"),  # the longest of a batch
        (lambda ids: len(ids) > 1, "_Trees"),  # several rows, which one packed row is not
    ],
)
def test_layers_that_look_at_the_whole_batch(when, strategy):
    model = build(*FAMILIES["llama"])
    Hooked(model, when)
    asked = [*items((3, 14, 1, 7)), Item(context=(88, 3, 4, 5), continuations=LABELS)]
    scorer = Scorer(model, asked, pad_token_id=0)
    assert type(scorer._strategy).__name__ in strategy
    assert_plain(scorer, [plain(model, item) for item in asked])
    prompts = [list(item.context) for item in asked]
    settings = {"end_token_ids": {3}, "max_new_tokens": 5, "pad_token_id": 0}
    generator = generation.Generator(model, prompts, **settings)
    assert generator.run(list(range(5))) == [generation.plain(model, prompt, **settings) for prompt in prompts]


def test_a_fast_path_that_fails_on_real_examples(monkeypatch):
    model, asked = build(*FAMILIES["qwen3"]), items((3, 12, 1, 7))
    expected = [plain(model, item) for item in asked]
    likelihood._why_not(model)  # what is declared, and the few made-up tokens, are all right
    monkeypatch.setattr(shared_prefix, "merge", lambda *_: 1 / 0)
    scorer = Scorer(model, asked, pad_token_id=0)
    assert_plain(scorer, expected)
    assert scorer.notes == [f"{likelihood.IN_ROWS}: the model can't be run so (ZeroDivisionError: division by zero)"]


def test_out_of_memory_in_the_comparison_is_told(monkeypatch):
    model, asked = build(*FAMILIES["llama"]), items((3, 12))

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(likelihood, "plain", full)
    assert Scorer(model, asked, pad_token_id=0).notes == [
        "label scores could not be compared with the plain path's: out of memory"
    ]


def test_all_processes_go_by_one_reason():
    scorer = Scorer(
        build(*FAMILIES["llama"]), items((3, 12)), pad_token_id=0, agree=lambda own: own or "differs elsewhere"
    )
    assert type(scorer._strategy).__name__ == "_Alone"
    assert [note.partition(": ")[2] for note in scorer.notes] == ["the model differs elsewhere"] * 2


# Rotations that depend on the longest text


@pytest.mark.parametrize("name", ROTATED)
def test_rotations_by_length(name, monkeypatch):
    """The value is that of a fresh model for one text alone, whatever ran before, beside or behind it."""
    model = build(*ROTATED[name])
    assert positions.rescaled_beyond(model) == ORIGINAL
    asked = items((30, 2, 12, 25, 16, 4))
    expected = [plain(build(*ROTATED[name]), item) for item in asked]
    with torch.no_grad():
        model(input_ids=torch.arange(3, 60)[None])
    found = Scorer(model, asked, pad_token_id=0)
    assert_plain(found, expected)
    assert found.notes == [
        f"each label is scored alone: the model rotates texts of more than {ORIGINAL} tokens by the longest one"
    ]
    # What no list of names has is found by the examples.
    monkeypatch.setattr(positions, "BY_LENGTH", ())
    found = Scorer(model, asked, pad_token_id=0)
    assert_plain(found, expected)
    assert found.notes[-1].startswith("each label is scored alone: the model gets other log-likelihoods")
    # Short texts are run together.
    assert Scorer(model, items((3, 1, 9)), pad_token_id=0).notes == []


def classifier(name: str) -> Any:
    kind, settings = ROTATED[name]
    torch.manual_seed(13)
    config = transformers.AutoConfig.for_model(kind, **settings, num_labels=3)
    return tiny.liven(transformers.AutoModelForSequenceClassification.from_config(config).eval())


def texts_of(lengths: Any) -> Encoded:
    rng = random.Random(2)
    features = [
        {"input_ids": rng.choices(range(3, 90), k=length), "labels": number % 3}
        for number, length in enumerate(lengths)
    ]
    return Encoded(
        name="test", ids=tuple(f"{number:03}" for number in range(len(features))), features=features, truncated=0
    )


@pytest.mark.parametrize("name", ["dynamic-llama", "dynamic-qwen2", "longrope-llama"])
@pytest.mark.parametrize("listed", [True, False])
def test_predictions_of_a_classifier_do_not_depend_on_the_batch(name, listed, monkeypatch):
    if not listed:
        monkeypatch.setattr(positions, "BY_LENGTH", ())
    split = texts_of(random.Random(4).choices(range(2, 40), k=12))
    tokens = tiny.tokenizer(tiny.card("llama"))
    found = []
    for budget in (60, 2000):
        model = classifier(name)
        padding_free.attach(model)
        scored = score(model, split, dataclasses.replace(tiny.scoring(tokens), batch_tokens=budget), "test")
        found.append(scored.predictions.scores)
        assert scored.notes[-1].startswith("each text is scored alone: the model")
        assert scored.check_s >= 0
    alone = []
    for feature in split.features:
        with torch.no_grad():
            alone.append(classifier(name)(input_ids=torch.tensor([feature["input_ids"]])).logits[0].softmax(-1))
    for each in found:
        torch.testing.assert_close(torch.tensor(each).float(), torch.stack(alone), rtol=0, atol=1e-5)


# Heads


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_wrong_attention_of_packed_rows_is_found_by_examples(name, tmp_path, monkeypatch):
    model = (
        tiny.liven(tiny.adapted(tiny.card(name), tmp_path, "full").eval())
        if name == "bert"
        else classifier("dynamic-llama")
    )
    assert padding_free.attach(model) is None
    true = PackedAttention.by_runs

    def wrong(self: Any, query: Any, key: Any, value: Any, packing: Any) -> Any:
        # Where the texts are longer than those of the probe.
        return true(self, query, key, value, packing) * (1.5 if query.shape[2] > 20 else 1)

    monkeypatch.setattr(PackedAttention, "by_runs", wrong)
    split = texts_of((20, 3, 9, 12))
    reader = HeadReader(model, split, tiny.scoring(tiny.tokenizer(tiny.card("llama"))))
    assert len(reader.notes) == 1
    assert reader.notes[0].startswith("pads are computed: the model gets other outputs beside longer texts (by up to")
    assert not padding_free.is_attached(model)


def test_a_head_that_is_right_is_left_as_it_is(tmp_path):
    model = tiny.adapted(tiny.card("bert"), tmp_path, "full").eval()
    padding_free.attach(model)
    forward = HeadForward(model, texts_of((20, 3, 9, 12)).features, tiny.scoring(tiny.tokenizer(tiny.card("bert"))))
    assert forward.notes == []
    assert forward.check_s > 0
    assert padding_free.is_attached(model)


def test_rounding_under_autocast_turns_nothing_off(tmp_path):
    """Weights in float32 do not mean that the numbers are exact: bfloat16 moves these logits by a hundredth."""
    model = tiny.liven(tiny.adapted(tiny.card("llama"), tmp_path, "full").eval())
    padding_free.attach(model)
    known = tiny.scoring(tiny.tokenizer(tiny.card("llama")))
    forward = HeadForward(model, texts_of((20, 3, 9, 12)).features, dataclasses.replace(known, precision="bf16"))
    assert forward.notes == []
    assert padding_free.is_attached(model)


# Training


def fast_inputs(case: str, folder: Any, **settings: Any) -> Any:
    known, model = texts.model_of(case, folder)
    padding_free.attach(model)
    inputs = texts.inputs_of(model, known, folder, per_device_batch=4, **settings)
    return inputs, model


def loss_of(inputs: Any) -> Any:
    from bench.training.loss import StepLoss

    assert answer_only_loss.attach(inputs.model) is None
    return checked(StepLoss(inputs=inputs, answers_only=True))


@pytest.mark.parametrize("case", ["llama-lora", "gpt2-full", "t5-full"])
def test_training_that_is_right_is_left_as_it_is(case, tmp_path):
    inputs, model = fast_inputs(case, tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state = torch.random.get_rng_state()
    assert loss_of(inputs).answers_only
    assert padding_free.is_attached(model) is (case != "t5-full")
    assert inputs.observer.notes == []
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert inputs.clock.seconds["self_check"] > 0


@pytest.mark.parametrize(("precision", "allowed"), [("no", 1e-3), ("bf16", 0.25)])
def test_the_figures_of_training_are_told(precision, allowed, tmp_path):
    inputs, model = fast_inputs("gpt2-full", tmp_path)
    inputs = dataclasses.replace(inputs, scoring=dataclasses.replace(inputs.scoring, precision=precision))
    heard: list[Any] = []
    inputs.observer.on_compared = heard.append
    assert loss_of(inputs).answers_only
    assert padding_free.is_attached(model)
    (figures,) = heard
    assert set(figures["examples"]) <= set(inputs.train.ids)
    lengths = dict(zip(inputs.train.ids, inputs.train.lengths, strict=True))
    compared = [lengths[identity] for identity in figures["examples"]]
    assert len(compared) == 4
    assert compared[:2] == [max(lengths.values()), min(lengths.values())]
    assert figures["gradients"]["allowed"] == allowed
    assert figures["gradients"]["parameters"] == 8
    assert figures["gradients"]["difference"] < allowed / 10
    assert figures["loss"]["difference"] < figures["loss"]["allowed"] / 10
    # Rounding to eight bits can be seen.
    assert (figures["gradients"]["difference"] > 1e-4) is (precision == "bf16")


def test_answers_that_get_another_loss_are_found(tmp_path, monkeypatch):
    inputs, _ = fast_inputs("llama-lora", tmp_path)
    assert answer_only_loss.attach(inputs.model) is None
    true = answer_only_loss._logits
    monkeypatch.setattr(answer_only_loss, "_logits", lambda *given: true(*given) * 1.2)
    assert not loss_of(inputs).answers_only
    assert inputs.observer.settings == {"padding_free": False, "answer_logits": False}
    assert "gets another training loss so (by " in inputs.observer.notes[-1]


def test_a_new_adapter_changes_no_loss_but_its_gradients_show(tmp_path, monkeypatch):
    """Packed rows mix up which tokens an activated adapter sees; its output is still zero."""
    inputs, model = fast_inputs("llama-lora", tmp_path)
    true = PackedAttention.by_runs

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, values: Any) -> Any:
            return values.clone()

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            return gradient * 3

    monkeypatch.setattr(PackedAttention, "by_runs", lambda *given: Scaled.apply(true(*given)))
    found = loss_of(inputs)
    assert found.answers_only
    assert not padding_free.is_attached(model)
    assert inputs.observer.notes[0].startswith("pads are computed: the model gets other gradients so (by ")


def test_an_activated_adapter_trains_padded(tmp_path):
    _, model = texts.model_of("llama-full", tmp_path)
    made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=INVOCATION))
    assert padding_free.attach(made) == "has an adapter that looks for certain tokens in each text"
