"""The studies that are shipped: they resolve in full and in small, say what others found, and one of them is run."""

import math
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from bench.cli import main
from bench.config import resolve
from bench.memory import state_sizes
from bench.models import build as builder
from bench.models import heads
from bench.records import record, store
from bench.reporting import markdown, run_page
from bench.sweeps import study
from bench.sweeps.study import SweepRequest
from tests.helpers.cases import together
from tests.helpers.launching import ROOT, environment

FOLDER = resolve.SHIPPED / "studies"
STUDIES = {path.parent.name: path for path in study.find_studies()}
CARDS = sorted((FOLDER / "datasets").glob("*.yaml"))
BESIDE = {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml")) if path not in CARDS}
BESIDE = {name: path for name, path in BESIDE.items() if path.name != study.FILE}
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


def test_the_five_studies_are_there():
    expected = {"tweet_emotions", "pretrained_full_lora", "imdb", "scratch_or_pretrained", "sst2_squad_llama"}
    assert set(STUDIES) == expected
    linked = re.findall(r"\]\((\w+)/README.md\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert set(linked) == expected


@pytest.mark.parametrize("name", STUDIES)
def test_it_resolves_in_full_and_in_small(name):
    study.check(STUDIES[name])
    full, mini = systems(name), systems(name, mini=True)
    assert len(full) == len(mini) >= 2
    for system in full:
        assert system.resolved.dataset_name not in BUILT_IN
        assert not system.resolved.model_name.startswith("tiny_")
    for system in mini:
        assert system.resolved.dataset_name in BUILT_IN
        assert system.resolved.model_name.startswith("tiny_")
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
        assert card.source.revision
        assert {"train", "test"} <= set(card.split_names)
    elif path.name != study.FILE:
        resolve.load(path)


def test_no_recipe_and_no_card_lies_idle():
    used, cards = set(), set()
    for name in STUDIES:
        for system in systems(name):
            used.add(system.path)
            cards.add(system.resolved.dataset_name)
    assert set(BESIDE.values()) <= used
    assert {path.stem for path in CARDS} <= cards
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


# Parameters, on the meta device


def counts(name, stem, method=None):
    (one,) = [
        system
        for system in systems(name)
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


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_names_the_published_numbers(name):
    text = readme(name)
    bands = [band for one in systems(name) for band in one.resolved.recipe.published.values()]
    assert bands
    for band in bands:
        for end in (band.low, band.high):
            assert f"{end:.3f}".rstrip("0") in text, f"{name}: {end} is not in the page"
        assert re.search(r"\d{4}|on the Hub|no date", band.source)
    if name == "scratch_or_pretrained":
        assert all(f"{number:,}" in text for number in (5_732_099, 5_728_003, 1_548_144_131, 141_244_931))
    if name == "sst2_squad_llama":
        assert "1,235,814,400" in text


# Study, metric -> the ends' published accuracies, with how many examples each is of, and the ends of the metric itself.
BETWEEN_DRAWS = {
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
    found = [one.resolved.recipe.published for one in systems(study_name) if one.path.stem == stem]
    bands = [published[metric] for published in found if metric in published]
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
        assert set(yaml.safe_load(block)) <= set(resolve.Recipe.model_fields)
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
