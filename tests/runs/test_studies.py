"""The studies that are shipped: they resolve in full and in small, say what others found, and one of them is run."""

import importlib.util
import math
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from bench.analysis import accessors
from bench.cli import main
from bench.config import resolve, without_model
from bench.memory import state_sizes
from bench.models import build as builder
from bench.models import heads
from bench.records import record, store
from bench.reporting import markdown, run_page
from bench.sweeps import jobs, study
from bench.sweeps.study import SweepRequest
from tests.helpers.cases import together
from tests.helpers.launching import ROOT, environment, launch_all, read_lines

FOLDER = resolve.SHIPPED / "studies"
STUDIES = {path.parent.name: path for path in study.find_studies()}
CARDS = sorted((FOLDER / "datasets").glob("*.yaml"))
BESIDE = {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml")) if path not in CARDS}
BESIDE = {name: path for name, path in BESIDE.items() if path.name != study.FILE}
# Studies with a variant `as_published`.
AS_PUBLISHED = [name for name, path in STUDIES.items() if study.load(path).as_published is not None]
# Studies that nobody has published anything like.
OWN = {"minilm", "label_curve"}
BUILT_IN = {"reviews", "posts", "passages", "passages_v2", "endings"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a study must resolve without the network")

    monkeypatch.setattr("socket.socket.connect", refused)


def systems(name, **asked):
    return study.plan([STUDIES[name]], SweepRequest(**asked)).systems


def readme(name):
    return (FOLDER / name / "README.md").read_text(encoding="utf-8")


def test_the_studies_are_there():
    expected = {"tweet_emotions", "pretrained_full_lora", "imdb", "scratch_or_pretrained", "sst2_squad_llama"}
    expected |= {"minilm", "label_curve"}
    assert set(STUDIES) == expected
    linked = re.findall(r"\]\((\w+)/README.md\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert set(linked) == expected


@pytest.mark.parametrize("name", STUDIES)
def test_it_resolves_in_full_and_in_small(name):
    study.check(STUDIES[name])
    variant = "all" if name in AS_PUBLISHED else "own"
    full, mini = (systems(name, variant=variant, mini=small) for small in (False, True))
    if name == "label_curve":  # fewer sizes in small: each method is looked at once
        full, mini = ([*{one.path: one for one in each}.values()] for each in (full, mini))
    assert len(full) == len(mini) >= 2
    for system in full:
        assert system.resolved.dataset_name not in BUILT_IN
        assert not system.resolved.model_name.startswith("tiny_")
        for band in system.resolved.recipe.published.values():
            assert band.measures or system.resolved.recipe.as_published is None
    for system in mini:
        assert system.resolved.dataset_name in BUILT_IN
        without = not without_model.uses_model(system.resolved.recipe.method.name)
        assert without or system.resolved.model_name.startswith("tiny_")
        # Another model's and other data's scores have no business here.
        assert system.resolved.recipe.published == {}
        found = system.resolved.recipe
        assert found.spans.doc_stride < found.max_length - 2
    same = [(one.resolved.recipe.method.name, one.resolved.recipe.objective) for one in full]
    assert same == [(one.resolved.recipe.method.name, one.resolved.recipe.objective) for one in mini]
    folders = [run.folder_name for system in mini for run in system.runs()]
    assert len(set(folders)) == len(folders), "two systems of the small variant are one and the same"


@together("path", [*STUDIES.values(), *BESIDE.values(), *CARDS])
def test_files_say_what_they_are_for_and_load(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    if path in CARDS:
        card = resolve.load_card("dataset", path)
        # Local files are known by their hashes, in the record.
        assert card.source.revision or card.source.folder
        assert {"train", "test"} <= set(card.split_names)
    elif path.name != study.FILE:
        resolve.load(path)


def test_no_recipe_and_no_card_lies_idle():
    used, cards = set(), set()
    for name in STUDIES:
        for system in systems(name, variant="all" if name in AS_PUBLISHED else "own"):
            used.add(system.path)
            cards.add(system.resolved.dataset_name)
    assert set(BESIDE.values()) <= used
    assert {path.stem for path in CARDS} <= cards
    assert {"imdb", "pretrained_full_lora", "tweet_emotions"} <= set(AS_PUBLISHED)
    assert "polish_slang" in cards


# What they are about


@pytest.mark.parametrize("name", STUDIES)
def test_a_data_set_is_scored_on_the_same_examples_by_all(name):
    for mini in (False, True):
        found = {}
        for system in systems(name, mini=mini):
            asked = system.resolved.recipe
            scored = (asked.evaluation.splits, asked.limit.get("test"), asked.evaluation.threshold)
            found.setdefault(system.resolved.dataset_name, set()).add(scored)
        assert all(len(kinds) == 1 for kinds in found.values()), found


def test_emotions_stop_early_by_the_tasks_own_measure():
    found = systems("tweet_emotions")
    assert {one.resolved.model_name for one in found} == {"distilbert_base_uncased", "albert_base_v2", "flan_t5_base"}
    for one in found:
        training = one.resolved.recipe.training
        assert (training.best, training.early_stopping.patience, training.evaluate_every) == (
            "jaccard_samples",
            2,
            "epoch",
        )
        assert len(one.resolved.recipe.dataset.labels) == 11


def test_untouched_full_and_lora_of_three_encoders():
    found = systems("pretrained_full_lora")
    pairs = {(one.resolved.model_name, one.resolved.recipe.method.name) for one in found}
    models = {"bert_base_uncased", "distilbert_base_uncased", "roberta_base"}
    assert pairs == {(model, method) for model in models for method in ("full", "lora")}
    assert all(one.resolved.recipe.evaluation.before for one in found)


def test_a_small_encoder_gets_the_same_budget_by_all_methods():
    found = systems("minilm")
    for data, number, seeds in (("sst2_local", 9, 5), ("imdb_local", 4, 3), ("polish_hotels_local", 4, 3)):
        of_data = [one for one in found if one.resolved.dataset_name == data]
        assert [len(one.seeds) for one in of_data] == [seeds] * number
        trained = [one.resolved.recipe for one in of_data if one.resolved.by_gradients]
        budgets = {(one.training.epochs, one.training.global_batch, one.training.warmup) for one in trained}
        assert len(budgets) == 1
        assert len({one.max_length for one in trained}) == 1
        assert len({one.resolved.recipe.limit.get("train") for one in of_data}) == 1
    assert not any(one.resolved.recipe.save for one in found)


def test_films_in_the_published_divisions():
    by_name = {one.path.stem: one for one in systems("imdb")}
    loop, trainer = (by_name[f"distilbert-{engine}"].resolved.recipe for engine in ("loop", "trainer"))
    assert (loop.training.engine, trainer.training.engine) == ("loop", "trainer")
    assert loop.training.model_copy(update={"engine": "trainer"}) == trainer.training
    assert loop.dataset.divide[0].into == {"train": 0.7, "validation": 0.1, "test": 0.2}
    few = by_name["mistral-qlora"].resolved.recipe.dataset.divide
    assert {name: count for part in few for name, count in part.into.items()} == {
        "train": 300,
        "validation": 100,
        "test": 2500,
    }
    assert all(part.balanced for part in few)
    asked = [one for one in systems("imdb") if one.path.stem in ("gemma-zero_shot", "gemma-few_shot")]
    assert [getattr(one.resolved.options, "shots", 0) for one in asked] == [0, 1, 4]
    assert all(len(one.seeds) == 5 for one in asked)


def test_scratch_and_pretrained_score_all_splits_within_a_budget():
    for one in systems("scratch_or_pretrained"):
        found = one.resolved.recipe
        assert found.evaluation.splits == ("test", "validation", "train")
        assert found.training.minutes in (90, 30)
        assert found.training.evaluate_every == "epoch"
        assert {"accuracy", "f1", "mcc", "loss", "confusion_matrix"} <= set(one.resolved.metric_names)
        assert found.head.kind == "mlp"


def test_questions_and_sentences_are_divided_by_80_and_20():
    for one in systems("sst2_squad_llama"):
        (part,) = one.resolved.recipe.dataset.divide
        assert (part.into, part.stratified) == ({"train": 0.8, "test": 0.2}, True)
        assert part.by_group == (one.resolved.recipe.dataset.task == "question_answering")
        wanted = {"squad_v2", "bleu", "meteor", "rouge"} if part.by_group else {"accuracy", "precision", "recall", "f1"}
        assert wanted <= set(one.resolved.metric_names)
        assert wanted <= set(resolve.load(one.path).metric_names)


# With the settings of others


def published(name):
    """System of the variant -> its resolved recipe, by the file's name."""
    found = {one.path.stem.removeprefix("as_published-"): one for one in systems(name, variant="as_published")}
    return {stem: one.resolved.recipe for stem, one in found.items()}


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_settings_of_others_are_marked_and_small_ones_say_what_is_different(name):
    for mini in (False, True):
        for one in systems(name, variant="as_published", mini=mini):
            mark = one.resolved.recipe.as_published
            assert re.search(r"\d{4}|on the Hub|no date", mark.source)
            assert one.path.stem.startswith("as_published-")
            if mini:
                swapped = [text.partition(": ")[0] for text in mark.but_for]
                named = {"dataset"} if one.resolved.recipe.method.name == "tfidf" else {"model", "dataset"}
                assert named <= set(swapped)
                # The fewest settings are others in small: those of the model's and the data's size.
                budget = {"training.learning_rate", "training.global_batch", "training.optimizer", "training.schedule"}
                assert not budget & set(swapped)


def test_distilbert_on_films_as_published():
    found = published("imdb")
    loop, table, notebook = (found[f"distilbert-{way}"].training for way in ("loop", "trainer", "trainer_notebook"))
    shown = [
        (one.engine, one.learning_rate, one.weight_decay, one.warmup, one.epochs, one.global_batch, one.clip_norm,
         one.best)
        for one in (loop, table, notebook)
    ]  # fmt: skip
    assert shown == [
        ("loop", 5e-5, 0.01, 500, 3, 16, 0.0, None),
        ("trainer", 2e-5, 0.01, 0, 2, 16, 1.0, "loss"),
        ("trainer", 5e-5, 0.01, 500, 3, 16, 1.0, "loss"),
    ]
    assert all(found[f"distilbert-{way}"].dataset.divide[0].into["test"] == 0.2 for way in ("loop", "trainer"))
    (part,) = found["distilbert-probe"].dataset.divide
    assert (part.into, part.stratified) == ({"train": 1500, "test": 500}, False)


def test_mistral_and_gemma_on_films_as_published():
    mistral, gemma = (published("imdb")[name] for name in ("mistral-qlora", "gemma-zero_shot"))
    options = resolve.load(FOLDER / "imdb" / "as_published-mistral-qlora.yaml").options
    assert (options.quant_type, options.double_quant, options.compute_dtype) == ("nf4", False, "float16")
    assert options.config == {
        "r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ("q_proj", "v_proj")
    }  # fmt: skip
    wanted = {
        "epochs": 4, "learning_rate": 2e-4, "schedule": "cosine", "warmup": 0.03, "global_batch": 4,
        "per_device_batch": 1, "optimizer": "paged_adamw_32bit", "weight_decay": 0.001, "clip_norm": 0.3,
        "loss_on": "all", "group_by_length": True,
    }  # fmt: skip
    assert {key: getattr(mistral.training, key) for key in wanted} == wanted
    asked = mistral.prompting
    assert (asked.answer, asked.max_new_tokens, asked.fallback_label) == ("generate", 1, "negative")
    assert (mistral.as_published.precision, mistral.max_length) == ("fp16", 512)
    assert set(mistral.published) == set(mistral.published_before)
    assert (gemma.method.name, gemma.prompting.answer, gemma.prompting.untrained_head) == (
        "zero_shot", "entailment", True
    )  # fmt: skip
    span = gemma.published["accuracy"]
    assert (span.low, span.high) == (0.44, 0.64)
    assert not any(one.resolved.recipe.published for one in systems("imdb") if "gemma" in one.path.stem)


def test_heads_of_llama_as_published():
    found = published("sst2_squad_llama")
    for recipe in found.values():
        training = recipe.training
        assert (recipe.method.name, training.learning_rate, training.epochs) == ("head", 2e-3, 3)
        assert (training.global_batch, training.per_device_batch) == (32, 8)
        assert recipe.as_published.precision == "fp16"
    assert found["sst2-head"].training.best == "loss"
    squad = found["squad-head"]
    assert squad.spans.offsets == "characters_as_tokens"
    assert squad.dataset.divide[0].into == {"train": 8000, "test": 2000}
    assert not squad.published


def test_emotions_as_published():
    found = published("tweet_emotions")
    shown = {
        name: (one.training.global_batch, one.training.weight_decay, one.training.best, one.model.weights,
               one.dataset.clean_if_installed)
        for name, one in found.items()
    }  # fmt: skip
    assert shown == {
        "distilbert": (8, 0.1, "hamming_accuracy", "random", ("content_lemmas:en_core_web_sm",)),
        "albert": (8, 0.01, "subset_accuracy", "pretrained", ()),
        "flan_t5": (4, 0.01, "subset_accuracy", "pretrained", ()),
    }
    for one in found.values():
        training = one.training
        assert (training.learning_rate, training.epochs, training.evaluate_every, training.warmup) == (3e-5, 10, 50, 0)
        assert (training.early_stopping.patience, training.early_stopping.threshold) == (5, 0.1)
        (part,) = one.dataset.divide
        assert (part.of, part.into, part.seed) == (("train", "validation"), {"train": 0.8, "validation": 0.2}, 42)
        assert (one.dataset.clean, one.dataset.splits) == ((), {"test": "test"})
    assert set(found["distilbert"].published) == {"hamming_accuracy"}
    assert set(found["albert"].published) == set(found["flan_t5"].published) == {"subset_accuracy"}


def test_untouched_full_and_lora_as_published():
    found = systems("pretrained_full_lora", variant="as_published")
    by_method = {}
    for one in found:
        recipe = one.resolved.recipe
        (part,) = recipe.dataset.divide
        assert (part.into, part.stratified, part.seed) == ({"train": 100_000, "validation": 20_000}, True, 42)
        by_method.setdefault(recipe.method.name, []).append(one)
    models = ["bert_base_uncased", "distilbert_base_uncased", "roberta_base"]
    (bayes,) = by_method["tfidf"]
    assert bayes.resolved.options.config.classifier == "naive_bayes"
    assert [one.resolved.model_name for one in by_method["untouched"]] == models
    full = [(one.resolved.model_name, one.resolved.recipe.training.learning_rate) for one in by_method["full"]]
    assert full == [(model, rate) for rate in (5e-5, 1e-5) for model in models]
    # What diverged is nothing to hold a run against.
    assert [bool(one.resolved.recipe.published) for one in by_method["full"]] == [True, True, False, True, True, True]
    configs = [one.resolved.options.config for one in by_method["lora"]]
    layers = [["query"], ["key"], ["q_lin"], ["k_lin"], ["query"], ["key"]]
    assert [list(one["target_modules"]) for one in configs] == layers * 2
    assert [one.get("use_rslora", False) for one in configs] == [False] * 6 + [True] * 6
    assert {(one["r"], one["lora_alpha"], one["lora_dropout"]) for one in configs} == {(8, 32, 0.01)}
    for one in (*by_method["full"], *by_method["lora"]):
        training = one.resolved.recipe.training
        epochs = 5 if one.resolved.recipe.method.name == "full" else 10
        assert (training.epochs, training.global_batch, training.weight_decay) == (epochs, 8, 0.01)


# Parameters, on the meta device


def counts(name, stem, method=None, variant="own"):
    (one,) = [
        system
        for system in systems(name, variant=variant)
        if system.path.stem == stem and method in (None, system.resolved.recipe.method.name)
    ]
    model = state_sizes.outline(one.resolved)
    return model, builder.count_parameters(model)


def test_a_gpt2_of_5_7_million_parameters():
    model, found = counts("scratch_or_pretrained", "gpt2-scratch")
    assert (found["total"], found["trainable"]) == (5_732_099, 5_732_099)
    biases = [p for name, p in model.named_parameters() if ".attn." in name and name.endswith("bias")]
    assert found["total"] - sum(p.numel() for p in biases) == 5_728_003  # as published


def test_bielik_with_three_blocks_and_a_head():
    model, found = counts("scratch_or_pretrained", "bielik-last_layers")
    assert (found["total"], found["trainable"]) == (1_548_144_131, 141_244_931)
    # As published: with the final norm trained, and 1,024 more in the head.
    norm = sum(p.numel() for part in heads.final_norms(model) for p in part.parameters())
    assert (found["total"] + 1_024, found["trainable"] + norm + 1_024) == (1_548_145_155, 141_247_491)


@together("stem, total, trained", [
    ("gpt2-scratch", 5_728_003, 5_728_003),
    ("bielik-last_layers", 1_548_145_155, 141_247_491),
    ("gpt2-wider", 9_771_395, 9_771_395),
])  # fmt: skip
def test_models_as_published_have_their_parameters(stem, total, trained):
    _, found = counts("scratch_or_pretrained", f"as_published-{stem}", variant="as_published")
    assert (found["total"], found["trainable"]) == (total, trained)


def test_scratch_and_pretrained_as_published():
    found = published("scratch_or_pretrained")
    for name in ("gpt2-scratch", "bielik-last_layers"):
        assert (found[name].training.schedule, found[name].training.schedule_per) == ("cosine", "epoch")
    wider = found["gpt2-wider"].training
    assert (wider.schedule, wider.clip_norm) == ("constant", 0)


def test_llama_before_and_after_a_head():
    model, found = counts("sst2_squad_llama", "sst2-tuned", "head")
    assert found["total"] - heads.count_in_heads(model) == 1_235_814_400
    assert found["trainable"] == heads.count_in_heads(model) == 2 * 2048
    _, full = counts("sst2_squad_llama", "squad-tuned", "full")
    assert full["trainable"] == full["total"] == 1_235_814_400 + 2 * 2048 + 2


def test_what_is_asked_for_in_five_executions_is_run_five_times_in_small_too():
    plan = study.plan([FOLDER / "imdb"], study.SweepRequest(mini=True))
    seeds = {one.path.stem: len(one.seeds) for one in plan.systems}
    assert {name for name, number in seeds.items() if number == 5} == {
        "distilbert-few",
        "gemma-zero_shot",
        "gemma-few_shot",
    }
    assert set(seeds.values()) == {1, 5}


# What the pages say


@pytest.mark.parametrize("name", sorted(set(STUDIES) - OWN))
def test_the_page_names_the_published_numbers(name):
    text = readme(name)
    found = systems(name, variant="all" if name in AS_PUBLISHED else "own")
    recipes = [one.resolved.recipe for one in found]
    bands = [band for one in recipes for band in (*one.published.values(), *one.published_before.values())]
    assert bands
    for band in bands:
        for end in (band.low, band.high):
            assert f"{end:.3f}".rstrip("0") in text, f"{name}: {end} is not in the page"
        assert re.search(r"\d{4}|on the Hub|no date", band.source)
    if name == "scratch_or_pretrained":
        assert all(f"{number:,}" in text for number in (5_732_099, 5_728_003, 1_548_144_131, 141_244_931))
    if name == "sst2_squad_llama":
        assert "1,235,814,400" in text


# The same test examples: study, file, learning rate or None, model -> accuracy and number of examples.
SAME_EXAMPLES = {
    ("pretrained_full_lora", "naive_bayes"): (0.9018, 7_600),
    ("pretrained_full_lora", 5e-5, "bert_base_uncased"): (0.9300, 7_600),
    ("pretrained_full_lora", 5e-5, "distilbert_base_uncased"): (0.9351, 7_600),
    ("pretrained_full_lora", 1e-5, "bert_base_uncased"): (0.9395, 7_600),
    ("pretrained_full_lora", 1e-5, "distilbert_base_uncased"): (0.9396, 7_600),
    ("pretrained_full_lora", 1e-5, "roberta_base"): (0.9384, 7_600),
    ("tweet_emotions", 3e-5, "albert_base_v2"): (0.048, 3_259),
    ("tweet_emotions", 3e-5, "flan_t5_base"): (0.023, 3_259),
}


def test_a_band_of_the_same_examples_is_as_wide_as_one_sample_varies():
    found = {}
    for name in ("pretrained_full_lora", "tweet_emotions"):
        for one in systems(name, variant="as_published"):
            asked = one.resolved.recipe
            if asked.published and asked.method.name == "tfidf":
                found[name, one.resolved.options.config.classifier] = next(iter(asked.published.values()))
            elif asked.published and asked.method.name == "full":
                found[name, asked.training.learning_rate, one.resolved.model_name] = next(
                    iter(asked.published.values())
                )
    # The split of the share of single labels is not said: either sample, so the error of both.
    unsaid = found.pop(("tweet_emotions", 3e-5, "distilbert_base_uncased"))
    error = 1.96 * math.sqrt(0.844 * 0.156 * (1 / 1_545 + 1 / 3_259))
    assert (unsaid.low, unsaid.high) == pytest.approx((0.844 - error, 0.844 + error), abs=6e-4)
    assert set(found) == set(SAME_EXAMPLES)
    for key, band in found.items():
        accuracy, count = SAME_EXAMPLES[key]
        error = 1.96 * math.sqrt(accuracy * (1 - accuracy) / count)
        assert (band.low, band.high) == pytest.approx((accuracy - error, accuracy + error), abs=6e-4)


# Study, metric -> the ends' published accuracies, with how many examples each is of, and the ends of the metric itself.
BETWEEN_DRAWS = {
    ("imdb", "as_published-mistral-qlora", "accuracy"): ((0.960, 2_500), (0.960, 2_500), None),
    ("imdb", "as_published-mistral-qlora", "recall_per_label.positive"): ((0.974, 1_250), (0.974, 1_250), None),
    ("imdb", "as_published-mistral-qlora", "recall_per_label.negative"): ((0.946, 1_250), (0.946, 1_250), None),
    ("imdb", "as_published-mistral-qlora", "before/accuracy"): ((0.630, 2_500), (0.630, 2_500), None),
    ("imdb", "as_published-mistral-qlora", "before/recall_per_label.positive"): ((0.98, 1_250), (0.98, 1_250), None),
    ("imdb", "as_published-mistral-qlora", "before/recall_per_label.negative"): ((0.28, 1_250), (0.28, 1_250), None),
    ("sst2_squad_llama", "as_published-sst2-head", "accuracy"): ((0.8954, 13_470), (0.8954, 13_470), None),
    ("sst2_squad_llama", "as_published-sst2-head", "precision_per_label.positive"): (
        (0.8954, 13_470),
        (0.8954, 13_470),
        (0.9191, 0.9191),
    ),
    ("sst2_squad_llama", "as_published-sst2-head", "recall_per_label.positive"): (
        (0.8954, 13_470),
        (0.8954, 13_470),
        (0.8909, 0.8909),
    ),
    ("sst2_squad_llama", "as_published-sst2-head", "f1_positive"): (
        (0.8954, 13_470),
        (0.8954, 13_470),
        (0.9048, 0.9048),
    ),
    ("imdb", "as_published-distilbert-loop", "accuracy"): ((0.9382, 10_000), (0.9382, 10_000), None),
    ("imdb", "as_published-distilbert-trainer_notebook", "accuracy"): ((0.9356, 10_000), (0.9356, 10_000), None),
    ("imdb", "distilbert-loop", "accuracy"): ((0.9356, 10_000), (0.9382, 10_000), None),
    ("imdb", "distilbert-trainer", "accuracy"): ((0.9356, 10_000), (0.9382, 10_000), None),
    ("imdb", "mistral-qlora", "accuracy"): ((0.960, 2_500), (0.960, 2_500), None),
    ("sst2_squad_llama", "sst2-zero_shot", "accuracy"): ((0.360, 13_470), (0.546, 13_470), None),
    ("sst2_squad_llama", "sst2-tuned", "accuracy"): ((0.944, 13_470), (0.951, 13_470), None),
    ("sst2_squad_llama", "squad-zero_shot", "squad_v2_exact"): ((0.391, 26_064), (0.391, 26_064), None),
    ("sst2_squad_llama", "squad-written", "squad_v2_exact"): ((0.456, 26_064), (0.456, 26_064), None),
    ("scratch_or_pretrained", "gpt2-scratch", "accuracy"): ((0.548, 542), (0.5488, 543), None),
    ("scratch_or_pretrained", "bielik-last_layers", "accuracy"): ((0.6593, 543), (0.6593, 543), None),
    ("scratch_or_pretrained", "gpt2-scratch", "f1_macro"): ((0.5488, 543), (0.548, 542), (0.4400, 0.491)),
    ("scratch_or_pretrained", "bielik-last_layers", "f1_macro"): ((0.6593, 543), (0.6593, 543), (0.6296, 0.6296)),
}


@pytest.mark.parametrize(("study_name", "stem", "metric"), BETWEEN_DRAWS)
def test_a_band_between_two_draws_is_as_wide_as_both_vary(study_name, stem, metric):
    *accuracies, ends = BETWEEN_DRAWS[study_name, stem, metric]
    low, high = ends or [accuracy for accuracy, _ in accuracies]
    below, above = (1.96 * math.sqrt(2 * p * (1 - p) / count) for p, count in accuracies)
    variant = "as_published" if stem.startswith("as_published") else "own"
    found = [one.resolved.recipe for one in systems(study_name, variant=variant) if one.path.stem == stem]
    when, _, metric = metric.rpartition("/")
    of_runs = [one.published_before if when else one.published for one in found]
    bands = [published[metric] for published in of_runs if metric in published]
    assert bands
    for band in bands:
        assert (band.low, band.high) == pytest.approx((low - below, high + above), abs=6e-4)


def shell_lines(text):
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("README.md")), ids=lambda path: path.parent.name)
def test_commands_and_paths_of_the_pages_are_real(path):
    text = path.read_text(encoding="utf-8")
    lines = list(shell_lines(text))
    assert len(lines) >= 3
    for words in lines:
        assert words[:3] == [".venv/bin/python", "-m", "bench"]
        main.parser().parse_args(words[3:])
    for named in re.findall(r"(?<![\w/.])recipes/[\w./-]+\w", text):
        assert (ROOT / named).exists(), named
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert set(yaml.safe_load(block)) <= {*resolve.Recipe.model_fields, *study.Study.model_fields}
    assert not re.search(r"/work/|/root/|/tmp/|\bissue #?\d|\bsession\b", text)
    assert max(map(len, text.splitlines())) <= 140


def test_check_and_list_know_the_studies(capsys):
    assert main.main(["check", str(FOLDER)]) == 0
    shown = f"{len(BESIDE)} recipes, {len(STUDIES)} studies and {len(CARDS)} cards checked, 0 problems\n"
    assert capsys.readouterr().out == shown
    assert main.main(["list", "studies"]) == 0
    found = capsys.readouterr().out
    assert all(f"studies/{name}" in found for name in STUDIES)


def test_check_says_what_is_wrong_with_a_study(write, capsys):
    path = write("own/study.yaml", "title: T\nmetric: accuracy\nruns: [{recipe: nobody}]\n")
    assert main.main(["check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{path}: unknown recipe 'nobody'.")
    assert said.out == "0 recipes, 1 studies and 0 cards checked, 1 problems\n"


# Published numbers in a record and on its page


def with_band(value, low, high):
    item = record.Published(low=low, high=high, source="Some|body 2020", value=value, inside=low <= value <= high)
    found = record.Record(name="a--b--c", started_at="x", recipe=record.RecipePart(path="p"))
    found.status, found.published = "ok", {"test": {"accuracy": item}}
    return found


@pytest.mark.parametrize(("value", "place"), [(0.5, "inside"), (0.39, "**below**"), (0.61, "**above**")])
def test_the_page_of_a_run_says_where_it_lies(tmp_path, value, place):
    page = run_page.run_report(with_band(value, 0.4, 0.6), tmp_path)
    (line,) = [line for line in page.splitlines() if "0.400 to 0.600" in line]
    cells = [cell.strip() for cell in line.strip("|").split(" | ")]
    assert cells == ["accuracy", f"{value:.3f}", "0.400 to 0.600", place, markdown.escape("Some|body 2020")]
    assert "## Published results" in page


def test_the_page_says_what_a_number_measures_and_whose_settings_they_are(tmp_path):
    found = with_band(0.5, 0.4, 0.6)
    assert "it measures" not in run_page.run_report(found, tmp_path)
    assert "| settings |" not in run_page.run_report(found, tmp_path)
    found.published["test"]["accuracy"].measures = "share of a|b"
    found.recipe.resolved = {"as_published": {"source": "Some|body 2020", "precision": None, "but_for": ["model: x"]}}
    page = run_page.run_report(found, tmp_path)
    (line,) = [line for line in page.splitlines() if "0.400 to 0.600" in line]
    assert [cell.strip() for cell in line.strip("|").split(" | ")][4] == markdown.escape("share of a|b")
    whose = markdown.escape("as published: Some|body 2020; but for model: x")
    assert f"| settings | {whose} |" in page


def test_systems_of_one_file_are_told_by_their_settings_alone():
    """Not by the band, and not by whose settings they are."""
    records = {}
    for rate in ("1e-5", "5e-5"):
        found = with_band(0.5, 0.4, 0.6)
        given = [
            f"training.learning_rate={rate}",
            f"published={{accuracy: {rate}}}",
            f"as_published={{source: {rate}}}",
        ]
        found.recipe.overrides = given
        records[rate] = found
    endings = accessors.distinguishing_endings(records)
    assert endings == {rate: f" (training.learning_rate={rate})" for rate in records}


def test_a_sweep_of_the_smallest_study(tmp_path):
    """Two runs of the small variant, cut further; with a band of their own, which their records answer."""
    words = [
        "sweep",
        STUDIES["scratch_or_pretrained"].parent,
        "--mini",
        "--num-seeds",
        "1",
        "--jobs",
        "2",
        "--out",
        tmp_path,
    ]
    for text in ("limit={train: 24, validation: 16, test: 16}", "training.steps=4", "training.evaluate_every=2"):
        words += ["--set", text]
    words += ["--set", "published={accuracy: {low: 0, high: 1, source: none}, mcc: {low: 2, high: 3, source: none}}"]
    command = [sys.executable, "-m", "bench", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.parent: store.read(path) for path in store.find([tmp_path])}
    assert {one.method for one in found.values()} == {"scratch", "last_layers"}
    for folder, one in found.items():
        assert one.status == "ok"
        assert set(one.scores["before"]) == set(one.scores["after"]) == {"test", "validation", "train"}
        names = {"accuracy", "f1_macro", "mcc", "loss", "confusion_matrix"}
        assert all(names <= set(scores) for scores in one.scores["after"].values())
        assert one.throughput["score_train"]["seconds_per_100_examples"] > 0
        assert {split: set(bands) for split, bands in one.published.items()} == {"test": {"accuracy", "mcc"}}
        bands = one.published["test"]
        assert (bands["accuracy"].inside, bands["mcc"].inside) == (True, False)
        assert bands["accuracy"].value == one.scores["after"]["test"]["accuracy"].value
        page = (folder / "report.md").read_text(encoding="utf-8")
        assert page == run_page.run_report(one, folder)
        assert "2.000 to 3.000 | **below**" in page


CUT = ("limit={train: 80, validation: 16, test: 16}", "save=false")
FEW = (*CUT, "training.steps=4", "training.evaluate_every=2")
# Study, file, overrides; of several systems of one file the last one.
SMALL = {
    "emotions": ("tweet_emotions", "as_published-distilbert", (*CUT, "training.evaluate_every=5")),
    "head": ("pretrained_full_lora", "as_published-untouched", CUT),
    "words": ("pretrained_full_lora", "as_published-naive_bayes", CUT),
    "keys": ("pretrained_full_lora", "as_published-lora", FEW),
    "loop": ("imdb", "as_published-distilbert-loop", FEW),
}


@pytest.fixture(scope="module")
def in_small(tmp_path_factory):
    """Name -> folder and record of a run of the small variant, cut further; one launch for all."""
    folder, work = tmp_path_factory.mktemp("runs"), {}
    for name, (study_name, stem, sets) in SMALL.items():
        found = systems(study_name, variant="as_published", mini=True, sets=sets)
        one = [system for system in found if system.path.stem == stem][-1]
        work[name] = jobs.arguments(jobs.jobs_of(one.runs()[:1], folder / name)[0])
    done = launch_all(work, tmp_path_factory.mktemp("printed"))
    assert {name: (one.returncode, one.stderr) for name, one in done.items() if one.returncode} == {}
    return {name: (path.parent, store.read(path)) for name in SMALL for path in store.find([folder / name])}


def test_settings_of_others_run_in_small(in_small):
    for name, (folder, one) in in_small.items():
        study_name = SMALL[name][0]
        assert (one.status, one.study, one.name.partition("--")[0]) == ("ok", study_name, f"{study_name}-as_published")
        (said,) = [note for note in one.notes if note.startswith("settings as published: ")]
        assert "; but for " in said
        assert "dataset: " in said
        assert one.published == {}
        page = (folder / "report.md").read_text(encoding="utf-8")
        (line,) = [line for line in page.splitlines() if line.startswith("| settings | as published: ")]
        assert "limit" in line


def test_an_untouched_model_has_one_score_and_nothing_trained(in_small):
    _, one = in_small["head"]
    assert (one.method, one.training, set(one.scores)) == ("untouched", None, {"after"})
    assert one.model.parameters["trainable"] == 0
    assert any("classifier" in name for name in one.model.newly_initialized) or one.model.weights == "random"
    page = run_page.run_report(one, in_small["head"][0])
    assert "as it is" in page
    assert "after training" not in page


def test_early_stopping_by_a_threshold_ends_after_its_patience(in_small):
    folder, one = in_small["emotions"]
    rows = [row for row in read_lines(folder / "train_log.jsonl") if "validation_hamming_accuracy" in row]
    values = [row["validation_hamming_accuracy"] for row in rows]
    # The first value is the first best one; then five in which none is a tenth better than the best before it.
    best = [max(values[: number + 1]) for number in range(len(values))]
    jumps = [number for number in range(1, len(values)) if values[number] - best[number - 1] > 0.1]
    assert len(values) == max(jumps, default=0) + 6
    assert (one.training.stopped_by, one.training.steps) == ("early_stopping", 5 * len(values))
    # The best weights are kept, by however little they are better.
    assert one.training.best_step == 5 * (values.index(max(values)) + 1)


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_a_run_without_spacy_says_that_texts_are_not_cleaned(in_small):
    (said,) = [warning.sentence for warning in in_small["emotions"][1].warnings if warning.code == "cleaning_skipped"]
    assert "'content_lemmas:en_core_web_sm' is skipped" in said
    assert "cleaning_skipped" not in {warning.code for warning in in_small["loop"][1].warnings}


def test_last_weights_without_clipping_and_adapters_of_keys_alone(in_small):
    loop, keys = in_small["loop"][1], in_small["keys"][1]
    assert (loop.training.engine, loop.training.best_step, loop.recipe.resolved["training"]["clip_norm"]) == (
        "loop",
        None,
        0.0,
    )
    assert keys.recipe.resolved["method"]["config"]["target_modules"] == ["key"]
    assert in_small["words"][1].method == "tfidf"
