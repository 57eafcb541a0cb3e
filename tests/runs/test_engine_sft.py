"""Language models learn the same by TRL's trainer and by the plain loop, however a batch is cut; nothing is left."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from bench.data import batching
from bench.models import heads
from bench.models.losses import answer_loss_sum
from bench.training import fit as training
from bench.training.state import Progress
from tests.helpers import models as tiny
from tests.helpers import text_training as texts
from tests.helpers.cases import cover
from tests.helpers.launching import ROOT, launch

FEW = ["gpt2", "llama", "gemma2", "t5"]
CASES = [
    *(f"{family}-full" for family in tiny.WRITERS),
    *(f"{family}-{method}" for family in FEW for method in ("lora", "qlora", "last_layers")),
]
LAUNCHED = ["gpt2-full", "llama-qlora", "gemma-last_layers", "gemma2-full", "mistral-full", "t5-full", "t5-lora"]
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")

SCRIPT = ROOT / "tests" / "helpers" / "text_training.py"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One batch of eight by the default engine: what all else is held against."""
    folder = tmp_path_factory.mktemp("plain")
    return {case: texts.run(case, folder / case) for case in CASES}


def assert_same(found, expected, *, weights=1e-5):
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert set(found["weights"]) == set(expected["weights"])
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, atol=weights, rtol=0, msg=name)


# ---------------------------------------------------------------- two engines, any cutting


@pytest.mark.parametrize("case", CASES)
def test_training_is_sensible(plain, case):
    losses = plain[case]["losses"]
    assert len(losses) == 3
    assert losses[-1] < losses[0] < 10
    assert all(weight.isfinite().all() for weight in plain[case]["weights"].values())


@pytest.mark.parametrize("case", CASES)
def test_loop_equals_trainer(plain, case, tmp_path):
    assert_same(texts.run(case, tmp_path, engine="loop"), plain[case])


@pytest.mark.parametrize(("case", "engine"), cover(CASES, ["trainer", "loop"], ["gpt2-full", "llama-qlora", "t5-full"]))
def test_eight_micro_batches_of_one_equal_one_of_eight(plain, case, engine, tmp_path):
    assert_same(texts.run(case, tmp_path, engine=engine, per_device_batch=1), plain[case])


@pytest.mark.parametrize("case", ["gpt2-full", "gpt2-lora", "t5-full", "t5-lora"])
def test_dropout_is_drawn_the_same_in_both_engines(plain, case, tmp_path):
    ways = {"optimizer": "adamw_torch", "learning_rate": 1e-3, "per_device_batch": 4}
    by_trainer = texts.run(case, tmp_path / "trainer", dropout=True, **ways)
    assert_same(texts.run(case, tmp_path / "loop", dropout=True, engine="loop", **ways), by_trainer, weights=1e-4)
    assert by_trainer["losses"][0] != pytest.approx(plain[case]["losses"][0], abs=1e-4)


@pytest.mark.parametrize(
    ("case", "engine"), cover(["gpt2-full", "gemma2-lora", "llama-qlora", "t5-full"], ["trainer", "loop"])
)
def test_gradient_checkpointing_changes_nothing(plain, case, engine, tmp_path):
    assert_same(texts.run(case, tmp_path, engine=engine, gradient_checkpointing=True), plain[case])


@pytest.mark.parametrize("case", ["gpt2-full", "llama-lora"])
def test_the_same_seed_twice_is_identical(case, tmp_path):
    first, second = (texts.run(case, tmp_path / name, dropout=True) for name in ("first", "second"))
    assert first["losses"] == second["losses"]
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Both engines on two processes, all cases in one launch."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {
        str(folder / f"{case}-{engine}-{size}"): [case, {"engine": engine, "per_device_batch": size}]
        for case in LAUNCHED
        for engine, size in (("trainer", 4), ("trainer", 1), ("loop", 2))
    }
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = launch(folder / "jobs.json", config="ddp_cpu2", script=SCRIPT, timeout_s=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("way", ["trainer-4", "trainer-1", "loop-2"])
@pytest.mark.parametrize("case", LAUNCHED)
def test_two_processes_equal_one(plain, two_processes, case, way, tmp_path):
    folder = two_processes / f"{case}-{way}"
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert found["world_size"] == 2
    expected = plain[case] if case in plain else texts.run(case, tmp_path)
    assert_same({**found, "weights": load_file(folder / "weights.safetensors")}, expected)


def test_bf16_autocast_is_the_same_in_both_engines(plain, tmp_path):
    jobs = {
        str(tmp_path / engine / case): [case, {"engine": engine}] for engine in ("trainer", "loop") for case in LAUNCHED
    }
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = launch(tmp_path / "jobs.json", config="cpu_bf16", script=SCRIPT, timeout_s=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for case in LAUNCHED:
        by_trainer, by_loop = (
            json.loads((tmp_path / engine / case / "found.json").read_text())["losses"]
            for engine in ("trainer", "loop")
        )
        assert by_trainer == pytest.approx(by_loop, rel=2e-3)
        if case in plain:
            assert by_trainer != plain[case]["losses"]
            assert by_trainer == pytest.approx(plain[case]["losses"], rel=2e-2)


# ---------------------------------------------------------------- where the loss falls


def likelihood_by_hand(model, known, lesson):
    """(summed negative log-likelihood of the answer's tokens, how many), without batch, padding or collation."""
    answer = [label for label in lesson["token_labels"] if label != -100]
    with torch.no_grad():
        if known.family == "encoder_decoder":
            begun = torch.tensor([[model.config.decoder_start_token_id, *answer[:-1]]])
            logits = model(input_ids=torch.tensor([lesson["input_ids"]]), decoder_input_ids=begun).logits[0]
        else:
            logits = model(input_ids=torch.tensor([lesson["input_ids"]])).logits[0][-len(answer) - 1 : -1]
    return cross_entropy(logits, torch.tensor(answer), reduction="sum").item(), len(answer)


@pytest.mark.parametrize(("name", "engine"), cover(tiny.WRITERS, ["trainer", "loop"], ["gpt2", "t5"]))
def test_the_loss_is_the_mean_over_the_answers_tokens(name, engine, tmp_path):
    known, model = texts.model_of(f"{name}-full", tmp_path)
    rows = tiny.lessons(known, texts.TEXTS)
    by_hand = [likelihood_by_hand(model, known, row) for row in rows]
    assert len({count for _, count in by_hand}) == 3
    _, found = texts.train(texts.inputs_of(model, known, tmp_path, lessons=rows, engine=engine, steps=1))
    expected = sum(loss for loss, _ in by_hand) / sum(count for _, count in by_hand)
    assert found["losses"] == [pytest.approx(expected, abs=1e-5)]


@pytest.mark.parametrize(("name", "engine"), cover(["gpt2", "llama", "t5"], ["trainer", "loop"], ["t5"]))
def test_the_end_is_learned_where_it_is_also_the_pad(name, engine, tmp_path):
    tokens = copy.deepcopy(tiny.tokenizer(tiny.card(name)))
    tokens.pad_token = tokens.eos_token
    losses = []
    for chosen in (tokens, tiny.tokenizer(tiny.card(name))):
        known, model = texts.model_of(f"{name}-full", tmp_path)
        rows = tiny.lessons(known, texts.TEXTS)
        assert all(row["token_labels"][-1] == tokens.eos_token_id for row in rows)
        losses.append(texts.train(texts.inputs_of(model, known, tmp_path, tokens=chosen, engine=engine))[1]["losses"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_what_is_no_answer_has_no_gradient():
    features = [{"input_ids": [5, 6, 7, 8, 3], "token_labels": [-100, -100, -100, 8, 3]}]
    batch = batching.collate_answers(features, 3)
    logits = torch.randn(1, 5, 11, requires_grad=True)
    answer_loss_sum(logits, batch["labels"], shifted=True).backward()
    assert logits.grad.abs().sum(-1).gt(0).tolist() == [[False, False, True, True, False]]


def test_a_prompt_without_an_answer_adds_nothing():
    logits = torch.randn(2, 4, 11, requires_grad=True)
    labels = torch.tensor([[-100, -100, 4, 3], [-100] * 4])
    loss = answer_loss_sum(logits, labels, shifted=True)
    loss.backward()
    assert loss.item() == pytest.approx(cross_entropy(logits[0, 1:3], labels[0, 2:], reduction="sum").item())
    assert logits.grad[1].abs().max() == 0


# ---------------------------------------------------------------- batches


def test_a_decoders_batch():
    features = [
        {"input_ids": [5, 3, 7, 3], "token_labels": [-100, -100, 7, 3]},
        {"input_ids": [4, 9], "token_labels": [-100, 9]},
    ]
    batch = batching.collate_answers(features, 3)
    assert batch["input_ids"].tolist() == [[5, 3, 7, 3], [4, 9, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 3], [-100, 9, -100, -100]]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_an_encoder_decoders_batch():
    features = [{"input_ids": [5], "token_labels": [7, 8, 3]}, {"input_ids": [4, 9], "token_labels": [6, 3]}]
    batch = batching.collate_answers(features, 0, 2)
    assert batch["input_ids"].tolist() == [[5, 0], [4, 9]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["labels"].tolist() == [[7, 8, 3], [6, 3, -100]]
    assert batch["decoder_input_ids"].tolist() == [[2, 7, 8], [2, 6, 3]]


def test_the_first_token_of_a_text_is_no_loss_item():
    assert batching.collate_answers([{"input_ids": [5, 6], "token_labels": [5, 6]}], 0)["labels"].tolist() == [
        [-100, 6]
    ]


def test_transformers_shifts_an_encoder_decoders_labels_the_same_way(tmp_path):
    known, model = texts.model_of("t5-full", tmp_path)
    batch = batching.collate_answers(tiny.lessons(known, texts.TEXTS), 0, model.config.decoder_start_token_id)
    assert torch.equal(batch["decoder_input_ids"], model.prepare_decoder_input_ids_from_labels(batch["labels"]))


# ---------------------------------------------------------------- what TRL must not change


@pytest.mark.parametrize("case", ["gpt2-full", "gemma2-full", "llama-lora", "llama-qlora"])
def test_the_model_comes_back_plain(case, tmp_path, monkeypatch):
    def call_home(*args, **options):
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", call_home)
    monkeypatch.delenv("CI", raising=False)
    known, model = texts.model_of(case, tmp_path / "model")
    inner, inputs = heads.unwrapped(model), texts.inputs_of(model, known, tmp_path / "run")
    config, tokens = inner.config.to_dict(), inputs.scoring.tokenizer.init_kwargs.copy()
    generation, special = inner.generation_config.to_dict(), inputs.scoring.tokenizer.special_tokens_map
    types = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    trained, _ = texts.train(inputs)
    assert trained is model
    assert "forward" not in inner.__dict__
    assert inner.forward.__func__ is type(inner).forward
    assert inner.model_tags is None
    assert inner.config.to_dict() == config
    assert inner.generation_config.to_dict() == generation
    assert (inputs.scoring.tokenizer.init_kwargs, inputs.scoring.tokenizer.special_tokens_map) == (tokens, special)
    assert types == {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("case", "engine"),
    cover(
        ["gpt2-full", "llama-full", "gemma2-lora", "llama-qlora", "t5-full", "t5-lora"],
        ["trainer", "loop"],
        ["gpt2-full", "t5-lora"],
    ),
)
def test_the_best_checkpoint_is_read_back(case, engine, tmp_path, monkeypatch):
    """Validation says that step 2 of 4 was the best; its weights must be those of a run that ended there."""
    import huggingface_hub

    def refuse(*args, **options):
        raise AssertionError("a checkpoint reached for the network")

    monkeypatch.setattr(huggingface_hub.HfApi, "file_exists", refuse)
    values = iter([3.0, 1.0, 2.0, 4.0])
    ways = {"engine": engine, "schedule": "constant"}
    known, model = texts.model_of(case, tmp_path / "model")
    (tmp_path / "run").mkdir()
    progress = texts.watched_by("loss")
    inputs = texts.inputs_of(
        model, known, tmp_path / "run", validate=lambda model: {"loss": next(values)}, steps=4, evaluate_every=1,
        best="loss", **ways
    )  # fmt: skip
    trained, _ = texts.train(inputs, progress)
    assert progress.selection.best_step == 2
    expected = texts.run(case, tmp_path / "short", steps=2, **ways)["weights"]
    parameters = dict(trained.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(parameters[name].detach(), value, atol=1e-6, rtol=0, msg=name)
    assert not list((tmp_path / "run").iterdir())


def test_a_validation_sees_the_plain_model(tmp_path):
    known, model = texts.model_of("gpt2-full", tmp_path / "model")
    ids = torch.tensor([[5, 6, 7]])
    seen = []

    def validate(model):
        with torch.no_grad():
            seen.append(model(input_ids=ids).logits.clone())
        return {"loss": 0.0}

    trained, _ = texts.train(texts.inputs_of(model, known, tmp_path, validate=validate, steps=1, evaluate_every=1))
    with torch.no_grad():
        torch.testing.assert_close(seen[0], trained.train()(input_ids=ids).logits)


def test_checks_and_counts_of_a_text_run(tmp_path):
    for case in ("llama-lora", "t5-full"):
        known, model = texts.model_of(case, tmp_path)
        inputs, progress = texts.inputs_of(model, known, tmp_path, steps=2), Progress()
        texts.train(inputs, progress)
        rows = [inputs.train.features[number] for number in inputs.budget.order(inputs.seed)]
        examples, _, real, items = progress.steps.totals()
        assert (examples, real) == (16, sum(len(row["input_ids"]) for row in rows))
        assert items == sum(label != -100 for row in rows for label in row["token_labels"])
        assert progress.without_gradient == []


def test_arguments_of_the_two_trainers_agree(tmp_path):
    from transformers import TrainingArguments

    from bench.training.engines import sft

    known, model = texts.model_of("gpt2-full", tmp_path)
    values = training.arguments(texts.inputs_of(model, known, tmp_path))
    ours, theirs = sft.config(values, "no").to_dict(), TrainingArguments(**values).to_dict()
    changed = {name for name, value in theirs.items() if ours[name] != value}
    assert changed <= {"logging_steps"}, changed
    assert (ours["max_length"], ours["packing"], ours["padding_free"], ours["loss_type"]) == (None, False, False, "nll")
