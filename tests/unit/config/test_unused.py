"""Keys without effect: refused where a recipe's file sets them, noted where the command line or a card does."""

import pytest
from pydantic import BaseModel

from bench.config import registry, unused
from bench.config.recipe import Recipe
from bench.config.resolve import load
from bench.errors import RecipeError

HEAD = "dataset: reviews\nmodel: tiny_bert\nmethod: full\n"
TEXT = "dataset: reviews\nmodel: tiny_gpt2\nmethod: full\nobjective: text\n"
WITHOUT_EFFECT = [
    (HEAD, "training: {schedule: constant, warmup: 0.5}", "training.warmup", "constant_with_warmup"),
    (HEAD, "training: {schedule: constant, schedule_per: epoch}", "training.schedule_per", "one rate for all epochs"),
    (HEAD, "head: {norm: true}", "head.norm", "head.kind: mlp"),
    (HEAD, "training: {schedule: constant_with_warmup}", "training.schedule", "needs `warmup`"),
    (HEAD, "evaluation: {threshold: 0.3}", "evaluation.threshold", "multi_label: true"),
    (HEAD, "head: {hidden: 64}", "head.hidden", "head.kind: mlp"),
    (HEAD, "head: {kind: own, dropout: 0.2}", "head.dropout", "head.kind: mlp"),
    (HEAD, "limit: {validation: 5}", "limit.validation", "neither trained on, scored nor validated on"),
    (HEAD, "checkpoints: {every_minutes: null, keep: 5}", "checkpoints.keep", "no checkpoint is written"),
    (HEAD.replace("tiny_bert", "{card: tiny_bert, dtype: bfloat16}"), "", "model.dtype", "mixed_precision"),
    (HEAD.replace("full", "last_layers").replace("tiny_bert", "{card: tiny_bert, dtype: float16}"), "", "model.dtype",
     "method 'last_layers' trains float32 weights"),
    (HEAD.replace("full", "scratch").replace("tiny_bert", "{card: tiny_bert, weights: random}"), "", "model.weights",
     "method 'scratch' takes random weights"),
    (HEAD.replace("tiny_bert", "{card: tiny_bert, revision: abc}"), "", "model.revision", "only for a model with an"),
    (HEAD.replace("tiny_bert", "{card: tiny_bert, subfolder: abc}"), "", "model.subfolder", "of a `package`"),
    (HEAD.replace("reviews", "{card: reviews, metrics: [f1]}"), "evaluation: {metrics: [accuracy]}",
     "dataset.metrics", "`evaluation.metrics` replaces it"),
    (HEAD.replace("reviews", "{card: reviews, prompt: {instruction: Read.}}"), "", "dataset.prompt.instruction",
     "only for `objective: text`"),
    (TEXT.replace("reviews", "{card: reviews, prompt: {hypothesis: 'Is {label}.'}}"), "", "dataset.prompt.hypothesis",
     "answer: entailment"),
    (TEXT.replace("reviews", "{card: reviews, prompt: {content_free: [x]}}"), "", "dataset.prompt.content_free",
     "calibration: content_free"),
    (TEXT.replace("reviews", "{card: reviews, prompt: {none: nothing}}"), "", "dataset.prompt.none", "multi-label"),
    (TEXT.replace("reviews", "{card: reviews, prompt: {joint: ' - '}}"), "prompting: {format: chat}",
     "dataset.prompt.joint", "format: plain"),
    (TEXT, "evaluation: {threshold: 0.3}", "evaluation.threshold", "multi_label: true"),
    (TEXT.replace("full", "{name: zero_shot, compute_dtype: float16}"), "", "method.compute_dtype", "quantized: true"),
    (TEXT.replace("full", "{name: few_shot, compute_dtype: float32}"), "", "method.compute_dtype", "quantized: true"),
    (TEXT.replace("full", "zero_shot"), "data: {train_examples: 9}", "data.train_examples", "learns from no examples"),
    (TEXT.replace("full", "zero_shot"), "speed: {compile: true}", "speed.compile", "'zero_shot' takes no training"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "text", "key", "reason"), WITHOUT_EFFECT)
def test_a_key_without_effect_is_refused_where_the_file_sets_it(write, base, text, key, reason):
    with pytest.raises(RecipeError) as caught:
        load(write("study/own.yaml", base + text))
    lines = [line for line in str(caught.value).splitlines() if f": {key}: has no effect: " in line]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "own.yaml:" in lines[0]


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (("evaluation.threshold=0.3",), "evaluation.threshold: 0.3 has no effect: only multi-label data"),
        (("head={hidden: 5}",), "head.hidden: 5 has no effect: only for `head.kind: mlp`"),
        (("limit.validation=7",), "limit.validation: 7 has no effect"),
        (("model.dtype=bfloat16",), "model.dtype: bfloat16 has no effect"),
        (("training.schedule=constant", "training.warmup=0.1"), "training.warmup: 0.1 has no effect"),
    ],
)
def test_the_command_line_is_noted(write, overrides, note):
    notes = load(write("study/own.yaml", HEAD), overrides).unused_notes
    assert len(notes) == 1
    assert notes[0].startswith(note)


def test_what_only_the_command_line_leaves_without_effect_is_noted(write):
    path = write("study/own.yaml", HEAD + "training: {warmup: 0.1}\nlimit: {validation: 5}\n")
    with pytest.raises(RecipeError, match=r"limit\.validation: has no effect"):
        load(path, ("training.schedule=constant",))
    path = write("study/own.yaml", HEAD + "training: {warmup: 0.1}\n")
    found = load(path, ("training.schedule=constant",))
    assert [note.partition(":")[0] for note in found.unused_notes] == ["training.warmup"]
    assert load(path).unused_notes == ()


def test_a_cards_default_budget_is_noted(write):
    card = (
        "task: text_classification\nlicence: none\nsource: {kind: builtin, id: reviews}\nlabels: [negative, positive]\n"
    )
    card += "splits: {train: train, test: test}\ndefaults: {training: {warmup: 0.1}}\n"
    write("datasets/mine.yaml", card)
    path = write("study/own.yaml", HEAD.replace("reviews", "mine") + "training: {schedule: constant}\n")
    assert load(path).unused_notes[0].startswith("training.warmup: 0.1 has no effect")


@pytest.mark.parametrize(
    "text",
    [
        "head: {kind: mlp, hidden: 64}", "training: {schedule: constant}", "evaluation: {threshold: 0.5}",
        "limit: {validation: 5}\ntraining: {evaluate_every: 2}", "limit: {test: 5, train: 3}",
        "checkpoints: {keep: 5}", "training: {schedule: constant_with_warmup, warmup: 2}",
    ],
)  # fmt: skip
def test_keys_with_an_effect_and_defaults_pass(write, text):
    assert load(write("study/own.yaml", HEAD + text)).unused_notes == ()


def keys_of(model, prefix=""):
    """Dotted names of a settings type's keys, but for those below one that is listed as a whole."""
    listed = {*unused.CONDITIONS, *unused.ELSEWHERE, *unused.ALWAYS}
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if path in listed or not inner:
            yield path
        if inner and path not in unused.ELSEWHERE | unused.ALWAYS:
            yield from keys_of(inner[0], f"{path}.")


def test_every_key_of_the_schema_is_used_or_has_a_condition_of_use():
    keys = {key for key in keys_of(Recipe) if key not in ("dataset", "model", "method")}
    for name in registry.names("methods"):
        keys |= set(keys_of(registry.load("methods", name).Options, "method."))
    keys.discard("dataset.prompt.answers")  # below `dataset.prompt`, whose condition is theirs
    listed = {*unused.CONDITIONS, *unused.ELSEWHERE, *unused.ALWAYS}
    assert keys - listed == set()
    assert listed - keys - {"method.name"} == set()
    assert len(keys) > 60
    groups = [set(unused.CONDITIONS), unused.ELSEWHERE, unused.ALWAYS]
    assert sum(map(len, groups)) == len(listed)
