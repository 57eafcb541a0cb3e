"""Recipes and cards: what is refused and how it is said, which layer wins, what the hash depends on."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from bench.config import prices, recipe, registry, resolve
from bench.config.cards import Divide
from bench.config.data_source import Source
from bench.config.resolve import SHIPPED, find_cards, find_recipes, load, load_card
from bench.errors import RecipeError
from tests.helpers.cases import together

ROOT = SHIPPED.parent
BASE = "dataset: reviews\nmodel: tiny_bert\nmethod: full\n"
CARD = """task: text_classification
licence: none
source:
  kind: jsonl
  folder: data
  files: {all: all.jsonl, rest: rest.jsonl}
labels: [bad, good]
splits: {train: all, test: rest}
"""
# Studies and what lies beside them have a test of their own.
ALL_YAML = sorted(path for path in SHIPPED.rglob("*.yaml") if not path.is_relative_to(SHIPPED / "studies"))


@pytest.fixture
def load_text(write):
    """load_text(recipe, *overrides, **cards as text) -> Resolved; the recipe is study/own.yaml."""

    def load_written(text, *overrides, seed=None, dataset=None, model=None):
        if dataset is not None:
            write("datasets/mine.yaml", dataset)
        if model is not None:
            write("models/mine.yaml", model)
        return load(write("study/own.yaml", text), overrides, seed)

    return load_written


@pytest.fixture
def refused(load_text, tmp_path):
    """The message with which a recipe is refused, its folder taken off."""

    def message(*arguments, **cards):
        with pytest.raises(RecipeError) as caught:
            load_text(*arguments, **cards)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return message


# What is shipped


def test_every_shipped_file_loads_and_none_is_missed():
    cards = {kind: find_cards(kind) for kind in ("dataset", "model")}
    recipes = find_recipes()
    assert len(recipes) > 5
    assert all(len(found) > 3 for found in cards.values())
    assert sorted([*recipes, *cards["dataset"], *cards["model"], SHIPPED / prices.FILE]) == ALL_YAML
    for path in recipes:
        load(path)
    for kind, found in cards.items():
        for path in found:
            load_card(kind, path)


@together("path", ALL_YAML)
def test_shipped_files_say_what_they_are_for(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


def field_names(model):
    """Names of all fields of a settings type and of the types inside it."""
    for name, field in model.model_fields.items():
        yield name
        for found in re.findall(r"bench\.(config\.\w+)\.(\w+)", repr(field.annotation)):
            inner = getattr(importlib.import_module(f"bench.{found[0]}"), found[1])
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from field_names(inner)


def yaml_keys(data):
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from yaml_keys(value)


def test_no_recipe_key_is_an_accelerate_key():
    recipe_keys = set(field_names(recipe.Recipe))
    for name in registry.names("methods"):
        recipe_keys |= set(field_names(registry.load("methods", name).Options))
    assert {"learning_rate", "global_batch", "blocks", "vocab_size"} <= recipe_keys
    configs = sorted((ROOT / "accelerate_configs").rglob("*.yaml"))
    assert len(configs) >= 5
    spread = {key for path in configs for key in yaml_keys(yaml.safe_load(path.read_text(encoding="utf-8")))}
    assert {"mixed_precision", "num_processes"} <= spread
    # Keys that accelerate's files may have, whether one of ours uses them or not.
    spread |= {"gradient_accumulation_steps", "zero_stage", "offload_optimizer_device", "num_machines", "machine_rank"}
    spread |= {"dynamo_backend", "fsdp_config", "deepspeed_config", "main_process_port", "gpu_ids", "use_cpu"}
    assert recipe_keys & spread == set()


# What is refused, and how


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {learning_rat: 1}", "4: training.learning_rat: unknown key. Did you mean 'learning_rate'?"),
        ("trainin: {}", "4: trainin: unknown key. Did you mean 'training'?"),
        (
            "training:\n  steps: 3\n  early_stopping: {patienc: 1}",
            "6: training.early_stopping.patienc: unknown key. Did",
        ),
        ("a.b: 1", "4: a.b: unknown key. Known: as_published, checkpoints, data, dataset"),
        ("ключ: 1", "4: ключ: unknown key."),
        ("__class__: 1", "4: __class__: unknown key."),
        ("<<: {seed: 1}", "4: <<: unknown key."),
        ("seed: 1\nseed: 2", "5: seed: duplicate key (first on line 4)"),
        ("training: {learning_rate: 1e-3x}", "4: training.learning_rate: expected a number, got '1e-3x'."),
        (
            "training: {learning_rate: -1e-3}",
            "4: training.learning_rate: expected a number greater than 0, got -0.001.",
        ),
        ("training: {learning_rate: true}", "4: training.learning_rate: expected a number, got true."),
        ("training: {learning_rate: .inf}", "4: training.learning_rate: expected a finite number, got .inf"),
        ("training: {weight_decay: .nan}", "4: training.weight_decay: expected a finite number, got .nan"),
        ("training: {epochs: 0}", "4: training.epochs: expected a number greater than 0, got 0."),
        ("training: {steps: 1.0}", "4: training.steps: expected a whole number, got 1.0."),
        ("training: {steps: true}", "4: training.steps: expected a whole number, got true."),
        ("training: {steps: 1:30}", "4: training.steps: expected a whole number, got '1:30'."),
        ("training: {steps: 99999999999999999999}", "4: training.steps: expected a number less than 2147483648"),
        ("training: {learning_rate: 1" + "0" * 400 + "}", "4: training.learning_rate: expected a number, got 1000"),
        ("training: {global_batch: 0}", "4: training.global_batch: expected a number greater than 0, got 0."),
        ("training: {label_smoothing: 1}", "4: training.label_smoothing: expected a number less than 1, got 1."),
        ("training: {schedule: liner}", "got 'liner'. Did you mean 'linear'?"),
        (
            "training: {evaluate_every: epochs}",
            "expected a whole number or 'epoch', got 'epochs'. Did you mean 'epoch'?",
        ),
        ("training: {evaluate_every: 0}", "expected a number greater than 0 or 'epoch', got 0."),
        ("training: []", "4: training: expected a mapping of keys to values, got []."),
        ("training:", "4: training: expected a mapping of keys to values, got nothing."),
        ("seed: -1", "4: seed: expected a number greater than or equal to 0, got -1."),
        ("seed: 4294967296", "4: seed: expected a number less than 4294967296"),
        ("save: yes", "4: save: expected true or false, got 'yes'."),
        ("save: 1", "4: save: expected true or false, got 1."),
        ("objective: hed", "4: objective: expected 'head' or 'text', got 'hed'. Did you mean 'head'?"),
        ("objective: text", "an encoder can't generate or score text; use a decoder, or objective: head"),
        ("prompting: {answer: generate}", "4: prompting: `prompting` is only for `objective: text`"),
        ("prompting: {answer: likely}", "4: prompting.answer: expected 'label_likelihood', 'generate' or 'entailment'"),
        ("trackers: wandb", "4: trackers: expected a list, as in [a, b], got 'wandb'."),
        ("trackers: [wndb]", "4: trackers.0: expected 'wandb', 'tensorboard', 'mlflow' or 'trackio', got 'wndb'. Did"),
        (
            "evaluation: {splits: [tset]}",
            "4: evaluation.splits.0: the data set has no split 'tset'. Did you mean 'test'?",
        ),
        ("evaluation: {splits: []}", "4: evaluation.splits: expected at least one item, got []."),
        ("evaluation: {splits: [test, test]}", "4: evaluation.splits: 'test' is listed twice"),
        ("evaluation: {splits: [../test]}", "4: evaluation.splits.0: expected a name of letters"),
        (
            "evaluation: {metrics: [acuracy]}",
            "4: evaluation.metrics.0: there is no metric 'acuracy'. Did you mean 'acc",
        ),
        ("evaluation: {metrics: [../../x]}", "4: evaluation.metrics.0: there is no metric '../../x'. Known: accuracy"),
        ("evaluation: {metrics: [__init__]}", "4: evaluation.metrics.0: there is no metric '__init__'."),
        ("evaluation: {metrics: [jaccard]}", "'jaccard' is not defined for data with one label per example"),
        ("limit: {tran: 5}", "4: limit.tran: the data set has no split 'tran'. Did you mean 'train'?"),
        ("limit: {train: 0}", "4: limit.train: expected a number greater than 0, got 0."),
        ("max_length: 129", "4: max_length: 129 is more than the model's context of 128 tokens"),
        ("head: {dropout: 1}", "4: head.dropout: expected a number less than 1, got 1."),
        ("training: {epochs: 1, steps: 2}", "4: training.steps: set `epochs` or `steps`, not both"),
        ("training: {best: f1_macro}", "4: training.best: `best` needs `evaluate_every`"),
        (
            "training: {best: f1_macr, evaluate_every: 1}",
            "4: training.best: no metric computes 'f1_macr'. Did you mean 'f1_m",
        ),
        ("training: {warmup: 1.5}", "4: training.warmup: expected a share of all steps below 1, or a whole number of"),
        (
            "training: {warmup: 2.0001}",
            "4: training.warmup: expected a share of all steps below 1, or a whole number of",
        ),
        ("training: {warmup: -0.1}", "4: training.warmup: expected a number greater than or equal to 0, got -0.1."),
        (
            "training: {steps: 5, warmup: 5}",
            "4: training.warmup: 5 warm-up steps of 5 in all: the full learning rate is",
        ),
        ("training: {steps: 5, warmup: 50}", "4: training.warmup: 50 warm-up steps of 5 in all"),
        ("training: {steps: 1, warmup: 1}", "4: training.warmup: 1 warm-up steps of 1 in all"),
        (
            "evaluation: {validation: test}\ntraining: {evaluate_every: 1, best: accuracy}",
            "4: evaluation.validation: 'test' is scored too, and would choose the best step by 'accuracy'; name",
        ),
        (
            "evaluation: {splits: [test, validation]}\ntraining: {evaluate_every: epoch, best: loss}",
            "evaluation.validation: 'validation' is scored too, and would choose the best step by 'loss'",
        ),
        ("training: {early_stopping: {}}", "4: training.early_stopping: `early_stopping` needs `best`"),
        ("training: {per_device_batch: 5}", "training.global_batch: 32 is not a multiple of per_device_batch 5"),
        (
            "evaluation: {validation: dev}\ntraining: {evaluate_every: 1}",
            "4: evaluation.validation: the data set has no",
        ),
        ("training: {steps: 5, min_steps: 9}", "4: training.min_steps: only with `epochs`: `steps` is a number"),
        ("data: {train_examples: 0}", "4: data.train_examples: expected a number greater than 0, got 0"),
        ("data: {train_subset_seed: 3}", "4: data.train_subset_seed: needs `train_examples`: how many rows"),
        ("data: {fold: 3}", "4: data.fold: needs `folds`: into how many the rows are dealt"),
        ("data: {fold_of: [test]}", "4: data.fold_of: needs `folds`: into how many the rows are dealt"),
        ("data: {folds: 3}", "4: data.folds: needs `fold`: which one is held out, from 1 to 3"),
        ("data: {folds: 3, fold: 4}", "4: data.fold: 4 is more than `folds`, 3; the first is 1"),
        (
            "data: {folds: 3, fold: 1}",
            "evaluation.splits: the fold that is held out is not scored; write splits: [fold]",
        ),
        (
            "data: {folds: 3, fold: 1, fold_of: [train, tset]}\nevaluation: {splits: [fold]}",
            "4: data.fold_of.1: the data set has no split 'tset'. Did you mean 'test'?",
        ),
        (
            "data: {folds: 3, fold: 1, fold_of: [test]}\nevaluation: {splits: [fold]}",
            "4: data.fold_of: 'train' is not among them, and would not be used; add it",
        ),
        (
            "data: {folds: 3, fold: 1, fold_of: [train, test]}\nevaluation: {splits: [fold, test]}",
            "evaluation.splits.1: the data set has no split 'test'",
        ),
        (
            "limit: {fold: 3}\ndata: {folds: 3, fold: 1}\nevaluation: {splits: [fold]}",
            "4: limit.fold: the data set has",
        ),
        ("head: &a {kind: mlp}", "4: anchors and aliases are not supported"),
        ("head: !!python/object/apply:os.system ['true']", "4: tags like"),
        ("head: " + "[" * 5000, "4: nested more than 32 levels deep"),
    ],
)
def test_refused_with_file_line_key_and_what_was_expected(refused, text, message):
    found = refused(BASE + text)
    assert found.startswith("study/own.yaml:")
    assert message in found


def test_what_a_file_says_for_its_own_method_does_not_forbid_another_one(write):
    path = write("study/own.yaml", BASE + "training: {steps: 3}\n")
    assert load(path, ("method=probe",)).recipe.training.steps == 3
    for overrides in (("method=probe", "training.steps=4"), ("method={name: probe}", "training={steps: 4}")):
        with pytest.raises(RecipeError, match=r"^command line: training\.steps: method 'probe' is not trained"):
            load(path, overrides)


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("head", "objective: text", "4: objective: method 'head' has no objective 'text'; set objective: head"),
        (
            "untouched",
            "objective: text",
            "4: objective: method 'untouched' has no objective 'text'; set objective: head",
        ),
        ("untouched", "training: {steps: 3}", "4: training.steps: method 'untouched' is not trained and can't use"),
        ("probe", "objective: text", "4: objective: method 'probe' has no objective 'text'; set objective: head"),
        ("zero_shot", "", "objective: method 'zero_shot' has no objective 'head'; set objective: text"),
        ("zero_shot", "objective: text\ntraining: {steps: 3}", "5: training.steps: method 'zero_shot' is not trained"),
        (
            "probe",
            "training: {steps: 3}",
            "4: training.steps: method 'probe' is not trained by gradients and can't use",
        ),
        ("probe", "checkpoints: {keep: 1}", "4: checkpoints.keep: method 'probe' is not trained by gradients"),
        ("probe", "head: {kind: mlp}", "4: head.kind: method 'probe' is not trained by gradients and can't use this"),
        ("zero_shot", "objective: text\nhead: {kind: mlp}", "5: head: `head` is only for `objective: head`"),
        (
            "full",
            "objective: text\ntraining: {label_smoothing: 0.1}",
            "5: training.label_smoothing: label smoothing is only for `objective: head`",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {answer: generate, calibration: content_free}",
            "5: prompting.calibration: only for `answer: label_likelihood`",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {answer: generate, normalization: tokens}",
            "5: prompting.normalization: only for `answer: label_likelihood`",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {max_new_tokens: 3}",
            "5: prompting.max_new_tokens: only for `answer: generate`",
        ),
        (
            "full",
            "objective: text\nprompting: {answer: entailment}",
            "5: prompting.answer: entailment is zero-shot only; set method: zero_shot",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {answer: entailment, format: chat}",
            "5: prompting.format: an NLI model has no chat template",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {date: 2024-07-27}",
            "5: prompting.date: only for `format: chat`, whose template may write the date",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {format: chat, date: 2024-02-30}",
            "'2024-02-30' is no date; write year, month and day, e.g. 2024-07-26",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {format: chat, date: today}",
            "'today' is no date; write year, month and day, e.g. 2024-07-26",
        ),
        (
            "zero_shot",
            "objective: text\nprompting: {answer: generate}\nevaluation: {metrics: [loss]}",
            "6: evaluation.metrics.0: 'loss' needs probabilities, which generated answers do not have",
        ),
        (
            "few_shot",
            "objective: text\nevaluation: {splits: [train]}",
            "5: evaluation.splits: the shots are drawn from 'train', so that split can't be scored too",
        ),
        ("{name: few_shot, shots: 0}", "objective: text", "method.shots: expected a number greater than 0, got 0."),
        ("{name: few_shot, draw: each}", "objective: text", "expected 'fixed' or 'per_example', got 'each'"),
    ],
)
def test_ways_to_ask_that_do_not_go_together(refused, method, text, message):
    found = refused(BASE.replace("tiny_bert", "tiny_gpt2").replace("method: full", f"method: {method}") + text)
    assert found.startswith("study/own.yaml:")
    assert message in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("dataset.prompt={template: no field}", "prompt.template: must contain {text} exactly once"),
        ("dataset.prompt={template: '{text} {text}'}", "prompt.template: must contain {text} exactly once"),
        ("dataset.prompt={template: '{txt} {text}'}", "unknown placeholder {txt}. Did you mean '{text}'?"),
        ("dataset.prompt={template: '{text} {text_pair}'}", "where `columns.text_pair` is set, and only there"),
        ("dataset.prompt.hypothesis=It is so.", "prompt.hypothesis: must contain {label} exactly once"),
        ("dataset.prompt.answers={positive: negative}", "prompt.answers: two labels have the same answer, 'negative'"),
        ('dataset.prompt.answers={positive: "negative "}', "two labels have the same answer, 'negative'"),
        ('dataset.prompt.answers={positive: "so\\ngood"}', "must be one line that is not empty"),
        ('dataset.prompt.answers={positive: " "}', "the answer ' ' must be one line that is not empty"),
        ("dataset.prompt.answers={postive: good}", "there is no label 'postive'. Did you mean 'positive'?"),
        ("dataset.prompt.instruction=Read {text}.", "unknown placeholder {text}. Known: {labels}"),
    ],
)
def test_prompts_that_can_not_be_filled(refused, changes, message):
    base = BASE.replace("tiny_bert", "tiny_gpt2").replace("method: full", "method: zero_shot")
    assert message in refused(base + "objective: text", changes)


def test_generated_answers_leave_the_loss_out_and_say_so(load_text):
    base = BASE.replace("tiny_bert", "tiny_gpt2").replace("method: full", "method: zero_shot") + "objective: text\n"
    written = load_text(base + "prompting: {answer: generate}")
    assert "loss" not in written.metric_names
    assert written.metrics_left_out == ("loss",)
    likely = load_text(base)
    assert "loss" in likely.metric_names
    assert likely.metrics_left_out == ()


def test_a_decoder_without_a_prompt(refused):
    base = BASE.replace("tiny_bert", "tiny_gpt2").replace("method: full", "method: zero_shot")
    changes = ("dataset={card: reviews, prompt: null}",)
    assert "needs a `prompt` in the dataset card" in refused(base + "objective: text", *changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.yaml:1: dataset: this key is required: the name of a dataset card"),
        ("dataset: reviews\nmodel: tiny_bert\n", "own.yaml:1: method: this key is required"),
        ("dataset:\nmodel: tiny_bert\n", "own.yaml:1: dataset: this key is required"),
        (
            "model: tiny_bert\ndataset: reviws",
            "own.yaml:2: dataset: there is no dataset card 'reviws'. Did you mean 'rev",
        ),
        (
            "dataset: reviews\nmodel: tiny_brt",
            "own.yaml:2: model: there is no model card 'tiny_brt'. Did you mean 'tiny_b",
        ),
        (
            "dataset: ../datasets/reviws",
            "own.yaml:1: dataset: there is no file or folder '../datasets/reviws'; looked in",
        ),
        ("dataset: /etc/passwords", "own.yaml:1: dataset: there is no file or folder '/etc/passwords'."),
        ('dataset: "reviews\\0"', "own.yaml:1: dataset: there is no dataset card 'reviews\\x00'."),
        ("dataset: ../..../x", "own.yaml:1: dataset: there is no file or folder '../..../x'; looked in"),
        ("dataset: [reviews]", "own.yaml:1: dataset: expected the name of a dataset card, or a mapping with `card`"),
        (
            "dataset: {car: reviews}",
            "own.yaml:1: dataset: expected the name of a dataset card, or a mapping with `card`",
        ),
        ("dataset: 3", "own.yaml:1: dataset: expected the name"),
        (BASE.replace("full", "fulll"), "own.yaml:3: method: there is no method 'fulll'. Did you mean 'full'?"),
        (BASE.replace("full", "../full"), "own.yaml:3: method: expected a name of letters"),
        (BASE.replace("full", "__init__"), "own.yaml:3: method: expected a name of letters"),
        (BASE.replace("full", "[full]"), "own.yaml:3: method: expected a mapping of keys to values, got ['full']."),
        (BASE.replace("full", "{nam: full}"), "own.yaml:3: method.name: this key is required"),
        (BASE.replace("full", "{name: full, x: 1}"), "own.yaml:3: method.x: unknown key. None is known here."),
        (
            BASE.replace("full", "{name: last_layers, block: 1}"),
            "own.yaml:3: method.block: unknown key. Did you mean 'bl",
        ),
        (
            BASE.replace("full", "{name: last_layers, blocks: 0}"),
            "own.yaml:3: method.blocks: expected a number greater",
        ),
        (BASE.replace("full", "{name: probe, C: .inf}"), "own.yaml:3: method.C: expected a finite number, got .inf"),
        (
            BASE.replace("full", "{name: probe, pooling: men}"),
            "own.yaml:3: method.pooling: expected 'first' or 'mean', got",
        ),
        (
            BASE.replace("full", "{name: lora, config: {rr: 1}}"),
            "own.yaml:3: method.config.rr: LoraConfig has no field 'rr'. Did",
        ),
        ("- a\n- b", "own.yaml:1: expected a mapping of keys to values, got a list"),
        (b"\x00\x01\xff", "own.yaml: can't be read as UTF-8 text"),
    ],
)
def test_whole_files_refused(refused, text, message):
    assert message in refused(text)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(RecipeError, match="this is a folder"):
        load(tmp_path)
    with pytest.raises(RecipeError, match=r"none\.yaml: there is no such file"):
        load(tmp_path / "none.yaml")


def test_one_e_minus_three_is_a_number(load_text):
    assert load_text(BASE + "training: {learning_rate: 1e-3}").recipe.training.learning_rate == 1e-3


def test_a_misspelt_key_is_not_said_to_be_missing_too(refused):
    found = refused("dataset: mine\nmodel: tiny_bert\nmethod: full", dataset=CARD.replace("licence", "licens"))
    assert found == "datasets/mine.yaml:2: licens: unknown key. Did you mean 'licence'?"


def test_all_problems_come_at_once(refused):
    text = BASE.replace("full", "{name: probe, C: -1, pool: mean}") + "seed: -1\ntraining:\n  steps: 1.5\nsaves: true\n"
    card = CARD.replace("licence: none", "licence: 3") + "defaults: {training: {step: 3}}\n"
    assert refused(text.replace("reviews", "mine"), dataset=card).splitlines() == [
        "datasets/mine.yaml:9: defaults.training.step: unknown key. Did you mean 'steps'?",
        "study/own.yaml:7: saves: unknown key. Did you mean 'save'?",
        "datasets/mine.yaml:2: licence: expected text, got 3. Quote it to make it text.",
        "study/own.yaml:6: training.steps: expected a whole number, got 1.5.",
        "study/own.yaml:4: seed: expected a number greater than or equal to 0, got -1.",
        "study/own.yaml:3: method.pool: unknown key. Did you mean 'pooling'?",
        "study/own.yaml:3: method.C: expected a number greater than 0, got -1.",
    ]


def test_all_broken_rules_come_at_once(refused):
    text = (
        BASE
        + "max_length: 129\nlimit: {tran: 5}\nprompting: {answer: generate}\nevaluation: {metrics: [acuracy, jaccard]}"
    )
    assert refused(text).splitlines() == [
        "study/own.yaml:6: prompting: `prompting` is only for `objective: text`",
        "study/own.yaml:7: evaluation.metrics.0: there is no metric 'acuracy'. Did you mean 'accuracy'?",
        "study/own.yaml:7: evaluation.metrics.1: metric 'jaccard' is not defined for data with one label per example",
        "study/own.yaml:5: limit.tran: the data set has no split 'tran'. Did you mean 'train'?",
        "study/own.yaml:4: max_length: 129 is more than the model's context of 128 tokens",
    ]


def test_types_checks_between_keys_and_rules_come_in_one_round(refused):
    text = (
        BASE.replace("full", "{name: last_layers, blocks: 0}")
        + "max_length: 129\nseed: -1\nhead: {hidden: 3}\n"
        + "training: {learning_rate: fast, epochs: 1, steps: 2, evalute_every: 1}\n"
    )
    assert refused(text).splitlines() == [
        "study/own.yaml:7: training.evalute_every: unknown key. Did you mean 'evaluate_every'?",
        "study/own.yaml:7: training.learning_rate: expected a number, got 'fast'.",
        "study/own.yaml:5: seed: expected a number greater than or equal to 0, got -1.",
        "study/own.yaml:7: training.steps: set `epochs` or `steps`, not both",
        "study/own.yaml:3: method.blocks: expected a number greater than 0, got 0.",
        "study/own.yaml:4: max_length: 129 is more than the model's context of 128 tokens",
        "study/own.yaml:6: head.hidden: has no effect: only for `head.kind: mlp`; remove it",
    ]


def test_a_rule_that_asks_for_a_key_which_is_wrong_has_nothing_to_say(refused):
    assert refused(BASE + "training: {best: accuracy, evalute_every: 1}").splitlines() == [
        "study/own.yaml:4: training.evalute_every: unknown key. Did you mean 'evaluate_every'?"
    ]
    assert refused(BASE + "training: {best: 3, evaluate_every: 1, early_stopping: {}}").splitlines() == [
        "study/own.yaml:4: training.best: expected text, got 3. Quote it to make it text."
    ]


@pytest.mark.parametrize("missing", ["dataset", "model"])
def test_a_card_that_is_not_there_hides_no_mistyped_key(refused, missing):
    names = {"dataset": "reviews", "model": "tiny_bert", missing: "tiny_brt"}
    text = f"dataset: {names['dataset']}\nmodel: {names['model']}\nmethod: ful\nseed: -1\ntrainin: {{}}\n"
    found = refused(text).splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == [missing, "trainin", "seed", "method"]


def test_both_cards_that_do_not_exist_are_named(refused):
    assert refused("dataset: reviws\nmodel: tiny_brt\nmethod: full").splitlines() == [
        "study/own.yaml:1: dataset: there is no dataset card 'reviws'. Did you mean 'reviews'?",
        "study/own.yaml:2: model: there is no model card 'tiny_brt'. Did you mean 'tiny_bert'?",
    ]


# Which file is at fault


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("licence: none", "licence: 3"),
            "datasets/mine.yaml:2: licence: expected text, got 3. Quote it to make it text.",
        ),
        (("task: text_classification\n", ""), "datasets/mine.yaml:1: task: this key is required"),
        (("  kind: jsonl", "  kind: jsn"), "datasets/mine.yaml:4: source.kind: expected 'hub', 'jsonl',"),
        (("  kind: jsonl", "  kind: hub"), "datasets/mine.yaml:4: source.kind: a source of kind 'hub' needs `id`"),
        (
            ("  kind: jsonl", "  kind: builtin\n  id: reviews"),
            "mine.yaml:6: source.folder: a source of kind 'builtin' has",
        ),
        (
            ("  folder: data", "  folder: data\n  seed: 3"),
            "mine.yaml:6: source.seed: a source of kind 'jsonl' has no `seed`",
        ),
        (("  folder: data\n", ""), "datasets/mine.yaml:4: source.kind: a source of kind 'jsonl' needs `folder`"),
        (
            ("all.jsonl", "../secret.jsonl"),
            "mine.yaml:6: source.files.all: '../secret.jsonl' must lie inside the folder",
        ),
        (("all.jsonl", "/etc/passwd"), "mine.yaml:6: source.files.all: '/etc/passwd' must lie inside the folder"),
        (("[bad, good]", "[bad, bad]"), "datasets/mine.yaml:7: labels: 'bad' is listed twice"),
        (("[bad, good]", "[bad]"), "datasets/mine.yaml:7: labels: classification needs at least two labels"),
        (
            ("[bad, good]", "[bad, 1]"),
            "datasets/mine.yaml:7: labels.1: expected text, got 1. Quote it to make it text.",
        ),
        (
            ("test: rest", "test: rst"),
            "datasets/mine.yaml:8: splits.test: `source.files` has no split 'rst'. Did you mean",
        ),
        (("splits:", "spits:"), "datasets/mine.yaml:8: spits: unknown key. Did you mean 'splits'?"),
        (
            ("splits: {train: all, test: rest}", ""),
            "datasets/mine.yaml:1: needs `splits` (name: source split) or `divide`",
        ),
        (("train: all, ", ""), "datasets/mine.yaml:8: splits: the data set has no split 'train'."),
        (
            ("task: text_classification", "task: text_clasification"),
            "mine.yaml:1: task: there is no task 'text_clasificat",
        ),
    ],
)
def test_the_card_is_blamed_by_its_own_lines(refused, change, message):
    assert change[0] in CARD
    assert message in refused("\n\ndataset: mine\nmodel: tiny_bert\nmethod: full", dataset=CARD.replace(*change))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("metrics: [f1, acuracy]", "mine.yaml:9: metrics.1: there is no metric 'acuracy'. Did you mean 'accuracy'?"),
        ("metrics: [jaccard]", "mine.yaml:9: metrics.0: metric 'jaccard' is not defined for data with one label"),
        ("clean: [strp]", "mine.yaml:9: clean.0: there is no clean-up step 'strp'. Did you mean 'strip'?"),
        ("clean: ['lemmas:']", "mine.yaml:9: clean.0: there is no clean-up step 'lemmas:'."),
        ("clean_if_installed: [strp]", "mine.yaml:9: clean_if_installed.0: there is no clean-up step 'strp'. Did you"),
        ("filters: {labels: [goood]}", "mine.yaml:9: filters.labels: there is no label 'goood'. Did you mean 'good'?"),
        ("filters: {min_words: 5, max_words: 4}", "mine.yaml:9: filters.min_words: 5 is more than `max_words`, 4"),
        ("columns: {label_flags: true}", "mine.yaml:9: columns.label_flags: one column per label needs `labels`, and"),
        ("columns: {txt: a}", "mine.yaml:9: columns.txt: unknown key. Did you mean 'text'?"),
        ("leakage: ignore", "mine.yaml:9: leakage: expected 'error', 'drop' or 'allow', got 'ignore'."),
        (
            "divide: [{of: [all], into: {dev: 0}}]",
            "mine.yaml:9: divide.0.into.dev: expected a number greater than 0, got 0.",
        ),
        ("divide: [{of: [all], into: {}}]", "mine.yaml:9: divide.0.into: expected at least one item"),
        (
            "divide: [{of: [all], into: {a: 0.7, b: 0.4}}]",
            "mine.yaml:9: divide.0.into: shares must not sum to more than 1",
        ),
        ("divide: [{of: [all], into: {a: 300.0}}]", "write a number of rows without a decimal point"),
        (
            "divide:\n- {of: [all], into: {dev: 1}}\n- {of: [al], into: {a: 1}}",
            "mine.yaml:11: divide.1.of: `source.files`",
        ),
        ("divide: [{of: [all], into: {test: 5}}]", "mine.yaml:9: divide: the split 'test' is defined twice"),
        (
            "multi_label: true\ndivide: [{of: [all], into: {dev: 1}, balanced: true}]",
            "mine.yaml:10: divide.0.balanced: multi",
        ),
        ("defaults: {trainin: {}}", "mine.yaml:9: defaults.trainin: unknown key. Did you mean 'training'?"),
        (
            "defaults: {head: {}}",
            "mine.yaml:9: defaults.head: unknown key. Known: evaluation, max_length, prompting, training.",
        ),
        (
            "defaults: {training: {learning_rat: 1}}",
            "mine.yaml:9: defaults.training.learning_rat: unknown key. Did you",
        ),
        ("defaults:\n  training: {epochs: 1, steps: 1}", "mine.yaml:10: defaults.training.steps: set `epochs` or"),
    ],
)
def test_a_card_is_refused_by_itself_and_in_a_recipe(refused, write, line, message):
    card = write("datasets/mine.yaml", CARD + line)
    with pytest.raises(RecipeError) as caught:
        load_card("dataset", card)
    assert message in str(caught.value)
    assert message in refused("dataset: mine\nmodel: tiny_bert\nmethod: full")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("familiy: encoder\nlicence: x\nid: y", "mine.yaml:1: familiy: unknown key. Did you mean 'family'?"),
        (
            "family: encodr\nlicence: x\nid: y",
            "mine.yaml:1: family: expected 'encoder', 'decoder' or 'encoder_decoder'",
        ),
        ("family: encoder\nlicence: x", "mine.yaml:1: weights: pretrained weights need `id` or `package`"),
        ("family: encoder\nlicence: x\nweights: random", "mine.yaml:3: weights: random weights need `architecture`"),
        (
            "family: encoder\nlicence: x\nid: y\narchitecture:\n  a: .nan",
            "mine.yaml:5: architecture.a: expected a finite",
        ),
        ("family: encoder\nlicence: x\npackage: os.path\nsubfolder: ../..", "mine.yaml:4: subfolder: '../..' must lie"),
        ("family: encoder\nlicence: x\npackage: ../os", "mine.yaml:3: package: expected a name"),
        (
            "family: encoder\nlicence: x\nid: y\nmax_length: 0",
            "mine.yaml:4: max_length: expected a number greater than 0",
        ),
    ],
)
def test_model_cards_refused(refused, text, message):
    assert message in refused("dataset: reviews\nmodel: mine\nmethod: full", model=text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dataset:\n  card: reviews\n  source:\n    sead: 4",
            "own.yaml:4: dataset.source.sead: unknown key. Did you mean 'se",
        ),
        ("dataset:\n  card: reviews\n  labels: [a, a]", "own.yaml:3: dataset.labels: 'a' is listed twice"),
        ("dataset:\n  card: reviews\n  tsk: x", "own.yaml:3: dataset.tsk: unknown key. Did you mean 'task'?"),
        ("dataset:\n  card: reviews\n  defaults: {}", "own.yaml:3: dataset.defaults: these are the card's own"),
        (
            "dataset:\n  card: posts\n  metrics: [accuracy]",
            "own.yaml:3: dataset.metrics.0: metric 'accuracy' is not defined",
        ),
    ],
)
def test_what_a_recipe_replaces_of_a_card_is_blamed_by_the_recipes_lines(refused, text, message):
    assert message in refused(text + "\nmodel: tiny_bert\nmethod: full")


def test_a_model_replaced_in_the_recipe_is_blamed_there(refused):
    found = refused("dataset: reviews\nmodel:\n  card: tiny_bert\n  weights: pretrained\nmethod: full")
    assert found == "study/own.yaml:4: model.weights: pretrained weights need `id` or `package`"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", "command line: training.learning_rat: unknown key. Did you mean 'learning_rate'?"),
        ("training.learning_rate=1e-3x", "command line: training.learning_rate: expected a number, got '1e-3x'."),
        ("training.learning_rate=.inf", "command line: training.learning_rate: expected a finite number, got .inf"),
        ("training.learning_rate.x=1", "command line: training.learning_rate: expected a number, got {'x': 1}."),
        ("training=3", "command line: training: expected a mapping of keys to values, got 3."),
        ("training={stps: 3}", "command line: training.stps: unknown key. Did you mean 'steps'?"),
        ("nonsense=1", "command line: nonsense: unknown key."),
        ("evaluation.splits=test", "command line: evaluation.splits: expected a list, as in [a, b], got 'test'."),
        ("evaluation.splits=[tset]", "command line: evaluation.splits.0: the data set has no split 'tset'."),
        ("limit.tran=3", "command line: limit.tran: the data set has no split 'tran'. Did you mean 'train'?"),
        ("dataset=nope", "command line: dataset: there is no dataset card 'nope'."),
        ("dataset=../no-such-file", "command line: dataset: there is no file or folder '../no-such-file'; looked in"),
        ("dataset=", "command line: dataset: this key is required"),
        ("dataset.nope.x=4", "command line: dataset.nope: unknown key."),
        ("dataset.labels.0=x", "command line: dataset.labels: expected a list, as in [a, b], got {'0': 'x'}."),
        ("dataset.defaults.max_length=3", "command line: dataset.defaults.max_length: these are the card's own"),
        ("method=ful", "command line: method: there is no method 'ful'. Did you mean 'full'?"),
        ("method.blocks=3", "command line: method.blocks: unknown key."),
        ("x", "command line: 'x' is not of the form key.path=value"),
        ("=3", "command line: '=3' is not of the form key.path=value"),
        ("a..b=3", "command line: 'a..b=3' is not of the form key.path=value"),
        ("seed=[", "command line: seed: not valid YAML"),
        ("seed=&a 3", "command line: seed: anchors and aliases are not supported"),
        ("seed=!!python/name:os.system", "command line: seed: tags like"),
        ("seed=" + "[" * 100_000, "command line: seed: nested more than 32 levels deep"),
    ],
)
def test_the_command_line_is_blamed_for_its_own(refused, override, message):
    assert refused(BASE + "training: {epochs: 4, learning_rate: 1}", override).startswith(message)


def test_a_key_may_be_given_once(refused):
    assert refused(BASE, "seed=1", "seed=1") == "command line: seed: this key is given twice"
    assert "set `epochs` or `steps`, not both" in refused(BASE, "training.steps=1", "training.epochs=1")


@pytest.mark.parametrize("seed", [2**32, -1])
def test_a_bad_seed_is_the_command_lines(load_text, seed):
    with pytest.raises(RecipeError, match=r"^command line: --seed: expected a number"):
        load_text(BASE, seed=seed)


# Overrides and precedence


def test_override_values_are_yaml(load_text):
    found = load_text(
        BASE, "training.learning_rate=1e-4", "evaluation.splits=[test, train]", "limit={train: 7}", "limit.test=9",
        "save=false", "model.revision='1'", "dataset.source.seed=4", "model.architecture.hidden_size=32",
        "head={kind: mlp}", "head.hidden=3",
    )  # fmt: skip
    assert found.recipe.training.learning_rate == 1e-4
    assert found.recipe.evaluation.splits == ("test", "train")
    assert found.recipe.limit == {"train": 7, "test": 9}
    assert found.recipe.save is False
    assert found.recipe.model.revision == "1"
    assert found.recipe.model.architecture["hidden_size"] == 32
    assert found.recipe.model.architecture["model_type"] == "bert"
    assert (found.recipe.head.kind, found.recipe.head.hidden) == ("mlp", 3)
    assert found.recipe.dataset.source.seed == 4
    assert found.card_overrides == {
        "model.revision": "1", "dataset.source.seed": 4, "model.architecture.hidden_size": 32,
    }  # fmt: skip
    assert found.overrides[0] == "training.learning_rate=1e-4"


def test_default_then_card_then_recipe_then_command_line(load_text):
    card = CARD + "defaults: {training: {learning_rate: 2e-5, warmup: 0.2, weight_decay: 0.3}, max_length: 64}\n"
    text = "dataset: mine\nmodel: tiny_bert\nmethod: full\ntraining: {warmup: 0.4, weight_decay: 0.5}\n"
    training = load_text(text, "training.weight_decay=0.6", dataset=card).recipe.training
    assert training.optimizer == recipe.Training().optimizer
    assert (training.learning_rate, training.warmup, training.weight_decay) == (2e-5, 0.4, 0.6)
    assert load_text(text).recipe.max_length == 64
    assert load_text(text + "max_length: 32").recipe.max_length == 32
    assert load_text(text + "max_length: 32", "max_length=16").recipe.max_length == 16


def test_steps_of_a_later_layer_replace_epochs_of_an_earlier_one(load_text):
    card = CARD + "defaults: {training: {epochs: 3}}\n"
    text = "dataset: mine\nmodel: tiny_bert\nmethod: full\n"
    assert load_text(text, dataset=card).recipe.training.epochs == 3

    def budget(*arguments):
        training = load_text(*arguments).recipe.training
        return training.epochs, training.steps

    assert budget(text + "training: {steps: 5}") == (None, 5)
    assert budget(text + "training: {learning_rate: 1}") == (3, None)
    assert budget(text + "training: {epochs: 4}", "training.steps=6") == (None, 6)
    assert budget(text + "training: {epochs: 4}", "training={steps: 6}") == (None, 6)
    assert budget(text + "training: {steps: 4}", "training.epochs=6") == (6, None)
    assert budget(text + "training: {epochs: 4}", "training.epochs=null", "training.steps=6") == (None, 6)
    assert budget(text + "training: {epochs: 4}", "training.steps=null") == (4, None)
    # The card as such is not changed by what a recipe replaces.
    assert load_text(text + "training: {steps: 5}").recipe.dataset.defaults == {"training": {"epochs": 3}}


def test_the_models_context_bounds_the_default_length(load_text):
    assert load_text(BASE).recipe.max_length == 128
    assert load_text(BASE, "model.max_length=64").recipe.max_length == 64
    assert load_text(BASE.replace("tiny_bert", "{card: tiny_bert, max_length: 32}")).recipe.max_length == 32
    assert load_text(BASE.replace("tiny_bert", "{card: tiny_bert, max_length: 512}")).recipe.max_length == 256
    card = CARD + "defaults: {max_length: 100}\n"
    text = "dataset: mine\nmodel: tiny_bert\nmethod: full\n"
    assert load_text(text, "model.max_length=64", dataset=card).recipe.max_length == 64
    with pytest.raises(
        RecipeError, match=r"own\.yaml:4: max_length: 100 is more than the model's context of 64 tokens"
    ):
        load_text(text + "max_length: 100", "model.max_length=64")


def test_cards_chosen_and_changed_on_the_command_line(load_text):
    assert load_text(BASE, "dataset=posts").recipe.dataset.multi_label
    assert load_text(BASE, "dataset.card=posts").dataset_name == "posts"
    assert load_text(BASE, "model=tiny_gpt2").name == "study--tiny_gpt2--full"
    both = load_text(BASE, "dataset={card: posts, source: {seed: 9}}")
    assert (both.dataset_name, both.recipe.dataset.source.seed) == ("posts", 9)
    assert both.card_overrides == {"dataset.source": {"seed": 9}}
    # Another card takes back what the recipe replaced of its own; another card's name alone does not.
    own = BASE.replace("reviews", "{card: reviews, source: {seed: 5}}")
    assert load_text(own).recipe.dataset.source.seed == 5
    assert load_text(own).card_overrides == {"dataset.source": {"seed": 5}}
    assert load_text(own, "dataset=posts").recipe.dataset.source.seed == 0
    assert load_text(own, "dataset.card=posts").recipe.dataset.source.seed == 5


def test_another_method_comes_without_the_options_of_the_former(load_text):
    text = BASE.replace("full", "{name: last_layers, blocks: 2}")
    assert load_text(text).options.blocks == 2
    assert load_text(text, "method.blocks=3").options.blocks == 3
    assert load_text(text, "method=full").recipe.method.name == "full"
    assert load_text(text, "method={name: last_layers}").options.blocks == 1
    with pytest.raises(RecipeError, match=r"own\.yaml:3: method\.blocks: unknown key"):
        load_text(text, "method.name=full")


def test_a_card_beside_the_recipe_comes_before_a_shipped_one(load_text, write):
    write("datasets/reviews.yaml", CARD.replace("bad, good", "awful, fine"))
    assert load_text(BASE).recipe.dataset.labels == ("awful", "fine")


def test_words_that_other_yaml_takes_for_truth_values_are_labels(load_text):
    card = CARD.replace("[bad, good]", "[no, yes]")
    assert load_text(BASE.replace("reviews", "mine"), dataset=card).recipe.dataset.labels == ("no", "yes")


# The hash


def test_hash_depends_on_what_moves_a_result_only(load_text):
    text = BASE.replace("reviews", "mine") + "training: {epochs: 2, warmup: 0.1}\nlimit: {train: 5, test: 6}\n"
    hash_ = load_text(text, dataset=CARD).hash
    assert re.fullmatch(r"[0-9a-f]{64}", hash_)
    same = [
        ("seed=5",), ("save=false",), ("trackers=[wandb]",), ("dataset.source.folder=/elsewhere",),
        ("dataset.licence=other",), ("dataset.homepage=x",),
        ("dataset.quote=false",), ("limit={test: 6, train: 5}",), ("training.epochs=2.0",),
        ("method={name: full}",), ("checkpoints={every_steps: 5, keep: 1}",),
        ("published={accuracy: {low: 0.5, high: 0.6, source: x}}",),
    ]  # fmt: skip
    for overrides in same:
        assert load_text(text, *overrides).hash == hash_, overrides
    assert load_text(text, seed=77).hash == hash_
    reordered = (
        "limit: {test: 6, train: 5}\ntraining: {warmup: 0.1, epochs: 2}\nmethod: full\nmodel: tiny_bert\ndataset: mine"
    )
    assert load_text(reordered).hash == hash_
    other = [
        ("training.epochs=3",), ("training.learning_rate=1e-3",), ("max_length=16",), ("method=head",),
        ("head.kind=mlp",), ("limit.train=6",), ("dataset.source.files.all=other.jsonl",),
        ("dataset.labels=[good, bad]",), ("dataset.clean=[strip]",), ("dataset.columns.text=sentence",),
        ("dataset.leakage=allow",),
        ("dataset.splits={train: rest, test: all}",), ("model=tiny_roberta",), ("model.architecture.hidden_size=32",),
        ("model.revision=abc",), ("model.dtype=bfloat16",), ("evaluation.metrics=[f1]",), ("evaluation.threshold=0.4",),
        ("training.engine=loop",), ("training.min_steps=50",), ("data.train_examples=5",),
        ("data={train_examples: 5, train_subset_seed: 1}",),
    ]  # fmt: skip
    hashes = {load_text(text, *overrides).hash for overrides in other}
    assert len(hashes | {hash_}) == len(other) + 1


def test_selection_on_a_scored_split_is_another_recipe_and_nothing_else_changes_the_hash(load_text):
    plain = load_text(BASE)
    assert load_text(BASE + "evaluation: {allow_selection_on_test: false}").hash == plain.hash
    text = BASE + "training: {evaluate_every: 1, best: accuracy}\nevaluation: {validation: test, %s}"
    allowed = load_text(text % "allow_selection_on_test: true")
    assert allowed.recipe.evaluation.allow_selection_on_test
    # Without `best`, nothing is chosen by what is validated.
    watched = load_text(BASE + "training: {evaluate_every: 1}\nevaluation: {validation: test}")
    assert watched.hash != allowed.hash


def test_sizes_and_folds_are_recipes_of_one_series(load_text):
    plain = load_text(BASE)
    sizes = [load_text(BASE, f"data.train_examples={size}") for size in (5, 9)]
    assert plain.series_hash is None
    assert {one.series_hash for one in sizes} == {plain.hash}
    assert len({plain.hash, *(one.hash for one in sizes)}) == 3
    folds = [load_text(BASE, f"data={{folds: 3, fold: {n}}}", "evaluation.splits=[fold]") for n in (1, 2)]
    assert folds[0].series_hash == folds[1].series_hash != load_text(BASE, "evaluation.splits=[validation]").hash
    assert folds[0].hash != folds[1].hash


def test_hash_knows_a_methods_defaults(load_text):
    short, long = BASE.replace("full", "last_layers"), BASE.replace("full", "{name: last_layers, blocks: 1}")
    assert load_text(short).hash == load_text(long).hash
    assert load_text(short, "method.blocks=2").hash != load_text(short).hash


def test_hash_does_not_depend_on_the_default_budget_that_a_recipe_replaces(load_text):
    text = BASE.replace("reviews", "mine") + "training: {epochs: 2}"
    first = load_text(text, dataset=CARD + "defaults: {training: {epochs: 1}}").hash
    assert load_text(text, dataset=CARD + "defaults: {training: {epochs: 9}}").hash == first


# The types


def test_settings_are_frozen_and_finite(load_text):
    found = load_text(BASE).recipe
    with pytest.raises(ValidationError):
        found.seed = 3
    for value in (float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            recipe.Training(learning_rate=value)


def test_counts_and_shares_of_a_division_stay_what_they_are():
    part = Divide(of=("all",), into={"a": 300, "b": 0.5, "c": 1})
    assert [type(amount) for amount in part.into.values()] == [int, float, int]


@pytest.mark.parametrize("name", ["a", "A-1.b_c"])
def test_names(name):
    assert recipe.CardChoice(card=name).card == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "/a", "-a", "a\n", "a b", "ä", "a" * 101, "a\0"])
def test_names_that_could_be_paths_are_refused(name):
    with pytest.raises(ValidationError):
        recipe.CardChoice(card=name)


@pytest.mark.parametrize("path", ["a.jsonl", "sub/a.jsonl", "a..b"])
def test_paths_inside(path):
    assert Source(kind="jsonl", folder="x", files={"all": path}).files["all"] == path


@pytest.mark.parametrize("path", ["/a", "../a", "sub/../../a", "a/..", "a\0b"])
def test_paths_outside(path):
    with pytest.raises(ValidationError):
        Source(kind="jsonl", folder="x", files={"all": path})


def test_recipe_module_imports_nothing_heavy():
    tree = ast.parse(Path(resolve.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names & {"torch", "transformers", "datasets", "evaluate"} == set()


def test_secrets_of_overrides_do_not_reach_the_record(write):
    token = "glpat-" + "a" * 20
    path = write("study/own.yaml", f"dataset: reviews\nmodel: tiny_bert\nmethod: full\n# {token}\n")
    found = resolve.load(path, (f"model.tokenizer.id=https://me:{token}@example.org/x", "model.tokenizer.train=null"))
    record = resolve.first_record(found)
    record.note(f"loaded from https://{token}@example.org/x")
    assert token not in record.model_dump_json()
    assert record.recipe.overrides[0] == "model.tokenizer.id=https://me:<removed>@example.org/x"
    assert record.recipe.resolved["model"]["tokenizer"]["id"] == "https://me:<removed>@example.org/x"
    assert record.recipe.hash == found.hash
    assert record.notes == ["loaded from https://<removed>@example.org/x"]
