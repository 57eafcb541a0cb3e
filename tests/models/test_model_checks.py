"""runner/model_checks.py: training that changes nothing, or what was frozen, and a saved model that is another one."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.data.examples import Encoded
from bench.models import saving
from bench.records import clock
from bench.records.record import Model, RecipePart, Record
from bench.runner import model_checks
from tests.helpers import models as tiny
from tests.helpers.cases import together
from tests.helpers.saved_models import OWN, TEXTS, describe

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
WORDS = ["query", "value"]

# ---------------------------------------------------------------- changed


def trained(folder, config, *, rate=1e-2, decay=0.0, steps=1, method="lora"):
    """A tiny model's fingerprints before and after training."""
    settings = {"config": {"target_modules": WORDS, **config}} if method == "lora" else config
    model = tiny.adapted(tiny.card("bert"), folder, method, settings)
    before = model_checks.fingerprints(model)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=rate, weight_decay=decay)
    for _ in range(steps):
        tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card("bert"))))
        optimizer.step()
        optimizer.zero_grad()
    return model, before


@together(
    "method, config", [("full", {}), ("head", {}), ("last_layers", {}), ("lora", {}), ("lora", {"use_dora": True})]
)
def test_a_training_that_changes_something_passes(method, config, tmp_path):
    model, before = trained(tmp_path, config, method=method)
    assert model_checks.unchanged(before, model_checks.fingerprints(model)) is None


@together("method", ["full", "head", "lora"])
def test_a_rate_of_zero_changes_nothing(method, tmp_path):
    model, before = trained(tmp_path, {}, rate=0.0, steps=3, method=method)
    sentence = model_checks.unchanged(before, model_checks.fingerprints(model))
    assert sentence.startswith("nothing that is trained has changed: all ")


@together("decay", [0.0, 0.1])
def test_adapters_without_a_scale_stay_zero_though_the_head_learns(decay, tmp_path):
    # Weight decay moves the other matrix, which changes nothing.
    model, before = trained(tmp_path, {"lora_alpha": 0}, decay=decay, steps=2)
    assert not torch.equal(model.base_model.model.classifier.modules_to_save.default.weight, torch.zeros(3, 64))
    sentence = model_checks.unchanged(before, model_checks.fingerprints(model))
    assert sentence == "the adapters do nothing: all 4 parameters lora_B are still zero"


def test_adapters_that_are_left_out_of_the_optimiser(tmp_path):
    model, before = trained(tmp_path, {"init_lora_weights": False}, rate=0.0)
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save.default.bias += 1
    sentence = model_checks.unchanged(before, model_checks.fingerprints(model))
    assert sentence == "the adapters have not changed: all 8 parameters have the values of before"


@together("name", ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.bias"])
def test_frozen_weights_that_move_are_found(name, tmp_path):
    model, before = trained(tmp_path, {}, method="head")
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] += 1e-6
    sentence = model_checks.unchanged(before, model_checks.fingerprints(model))
    assert sentence == f"1 frozen parameters have changed, e.g. {name}"


def test_other_parameters_than_before(tmp_path):
    _, before = trained(tmp_path, {}, method="head")
    assert "other parameters" in model_checks.unchanged({**before, "gone": before["classifier.bias"]}, before)


@together("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_one_number_that_differs_is_seen(dtype):
    values = torch.arange(96).view(8, 12).to(dtype)
    for tensor in (values, values.T, values[:, 2:5]):
        other = tensor.clone()
        assert model_checks._checksum(other) == model_checks._checksum(tensor)
        other[-1, -1] += 1
        assert model_checks._checksum(other) != model_checks._checksum(tensor)


def test_the_sentence_names_a_rate_of_zero(tmp_path):
    model, before = trained(tmp_path, {}, rate=0.0, method="head")
    rows = [{"step": 1, "learning_rate": 0.0}, {"step": 2, "validation_accuracy": 0.5}]
    record = Record(name="x", started_at="now", recipe=RecipePart(path="x"))
    run = SimpleNamespace(
        model=model, live=None, record=record, progress=SimpleNamespace(log=SimpleNamespace(rows=rows))
    )
    model_checks.check_changed(run, before)
    assert [(check.name, check.ok) for check in record.checks] == [("changed", False)]
    assert record.checks[0].detail.endswith("; the learning rate was 0 at each of 1 logged steps")


# ---------------------------------------------------------------- saved


def run_of(folder, model, known, *, generates=None, features=None, tokens=None):
    """As much of a run as the check asks for."""
    tokens = tokens or tiny.tokenizer(known)
    features = features or tiny.features(tokens, TEXTS)
    split = Encoded(name="test", ids=tuple(f"{n}" for n in range(len(features))), features=features, truncated=0)
    rows = [{"id": f"{number}", "text": text, "text_pair": None} for number, text in enumerate(TEXTS)]
    dtypes = {str(parameter.dtype).removeprefix("torch."): 1 for parameter in model.parameters()}
    record = Record(name="x", started_at="now", recipe=RecipePart(path="x"))
    record.model = Model(id="x", weights="random", class_="x", attention="sdpa", parameters={}, dtypes=dtypes)
    prompts = None if generates is None else SimpleNamespace(answer="generate" if generates else "label_likelihood")
    run = SimpleNamespace(
        model=model,
        folder=folder,
        clock=clock.Clock(),
        state=SimpleNamespace(device=tiny.CPU, is_main_process=True),
        resolved=SimpleNamespace(recipe=SimpleNamespace(evaluation=SimpleNamespace(splits=("test",)), model=known)),
        inputs=SimpleNamespace(
            splits={"test": split},
            scoring=tiny.scoring(tokens),
            tokenizer=tokens,
            corpus=SimpleNamespace(splits={"test": SimpleNamespace(rows=rows)}),
        ),
        record=SimpleNamespace(prompts=prompts, model=record.model, check=record.check, note=record.note),
        release_model=lambda: setattr(run, "model", None),
    )
    run.checks, run.notes = record.checks, record.notes
    return run


def saved(folder, method="lora", settings=None, known=None):
    """A trained model, saved in a run's folder, and the run."""
    known = known or tiny.card("bert")
    model, _, _ = train_and_save_model(known, folder / "model", method, settings)
    return run_of(folder, model, known)


def train_and_save_model(known, folder, method, settings):
    module, options = tiny.options(method, settings or {})
    plan = module.load_plan(options)
    model = tiny.build(known, folder, plan, weights=plan.weights or known.weights)
    if plan.adapter and plan.quantization is None and known.weights == "random":
        model.save_pretrained(folder / "base")
    model = module.adapt(model, options)
    tokens = tiny.tokenizer(known)
    if method != "probe":
        tiny.train_a_little(model, tiny.batch(tokens))
    saving.save(model, tokens, folder, describe(model, known, method, plan, OWN))
    return model, tokens, plan


@together("method", ["full", "lora", "qlora", "probe"])
def test_a_saved_model_that_is_the_same_passes(method, tmp_path):
    known = tiny.card("llama" if method == "qlora" else "bert", dtype="bfloat16" if method == "qlora" else "float32")
    run = saved(tmp_path / method, method, known=known)
    model_checks.check_saved(run)
    (check,) = run.checks
    assert (check.name, check.ok) == ("saved_model", True)
    assert check.detail == "7 examples of test again by the saved model: largest difference 0"
    assert run.model is None
    assert run.clock.seconds["check_saved"] > 0


def other_base(folder):
    weights = load_file(folder / "base" / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] *= -20
    save_file(weights, folder / "base" / "model.safetensors", metadata={"format": "pt"})


def other_head(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    (name,) = [name for name in weights if name.endswith("classifier.bias")]
    weights[name] = weights[name].flip(0) + torch.tensor([0.0, 0.01, 0.02])
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def other_scale(folder):
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 32'))


def other_tokenizer(folder):
    tiny.tokenizer(tiny.card("roberta")).save_pretrained(folder)


def broken_config(folder):
    (folder / "adapter_config.json").write_text("{}")


def no_base(folder):
    (folder / "base" / "model.safetensors").unlink()


@together(
    "change, sentence",
    [
        (other_base, "more than 0.0001"),
        (other_head, "more than 0.0001"),
        (other_scale, "more than 0.0001"),
        (other_tokenizer, "the saved tokenizer makes other tokens of '0' than the run's"),
        (broken_config, "the saved model can't be loaded: KeyError"),
        (no_base, "the saved model can't be loaded: the base model"),
    ],
)
def test_a_saved_model_that_is_another_one_fails(change, sentence, tmp_path):
    run = saved(tmp_path / change.__name__)
    change(run.folder / "model")
    model_checks.check_saved(run)
    (check,) = run.checks
    assert (check.name, check.ok) == ("saved_model", False)
    assert sentence in check.detail


@together("why", ["memory", "code"])
def test_what_can_not_be_compared_is_noted(why, tmp_path, monkeypatch):
    run = saved(tmp_path / why)
    if why == "memory":

        def load(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(saving, "load", load)
    else:
        run.resolved.recipe.model = tiny.card("bert", trust_remote_code=True)
    model_checks.check_saved(run)
    assert run.checks == []
    assert run.notes[0].startswith("the saved model was not loaded again to compare it: ")


@together("generates", [True, False])
def test_language_models_are_compared_by_log_likelihoods(generates, tmp_path):
    known = tiny.card("llama")
    module, options = tiny.options("lora", {})
    folder = tmp_path / str(generates) / "model"
    model = tiny.text_build(known, folder)
    model.save_pretrained(folder / "base")
    model = module.adapt(model, options)
    tiny.train_a_little(model, tiny.text_batch(known))
    tokens = tiny.tokenizer(known)
    description = describe(model, known, "lora", module.load_plan(options), OWN)
    saving.save(model, tokens, folder, {**description, "objective": "text"})
    features = tiny.features(tokens, TEXTS)
    if not generates:
        features = [
            {**row, "prompt_ids": row["input_ids"], "continuation_ids": [[7], [8, 9], [10, 11]]} for row in features
        ]
    for damaged in (False, True):
        if damaged:
            other_llama(folder)
        run = run_of(tmp_path / str(generates), model, known, generates=generates, features=features)
        model_checks.check_saved(run)
        assert run.checks[0].ok is not damaged, run.checks[0].detail


def other_llama(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: value * 0.5 for name, value in weights.items()}, folder / "adapter_model.safetensors")


def test_the_sample_holds_the_longest_and_the_shortest():
    rows = [{"input_ids": [0] * length, "labels": 0} for length in (5, 3, 9, 4, 4, 7, 8, 6, 5, 5, 1, 12)]
    chosen = model_checks.sample(tiny.encoded(rows))
    assert len(chosen.ids) == model_checks.EXAMPLES
    assert {1, 12} <= set(chosen.lengths)
    assert model_checks.sample(tiny.encoded(rows[:3])).lengths == [3, 5, 9]
    assert model_checks.sample(tiny.encoded(rows[:1])).lengths == [5]
