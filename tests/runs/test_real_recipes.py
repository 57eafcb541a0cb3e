"""Recipes of real models and cards of Hub data sets: they resolve offline, none is forgotten, names tell the truth."""

import re

import datasets
import pytest

from bench.config import registry
from bench.config.resolve import SHIPPED, find_cards, find_recipes, load, load_card
from bench.data import dataset
from tests.helpers import suites
from tests.helpers.cases import together

PATHS = {
    f"{path.parent.name}/{path.stem}": path
    for path in find_recipes()
    if path.parent.name not in ("tiny", "minilm", "passages", "endings", "written") and path.is_relative_to(SHIPPED)
}
IN_STUDIES = [path for path in (SHIPPED / "studies").glob("*/*-*.yaml") if path.parent.name != "datasets"]
STUDIES = sorted({path.parent.name for path in PATHS.values()})
MODELS = [path.stem for path in find_cards("model") if not path.stem.startswith(("tiny_", "minilm"))]
DATASETS = {path.stem: path for path in find_cards("dataset")}
HUB = {name: path for name, path in DATASETS.items() if load_card("dataset", path).source.kind == "hub"}
LARGE = [name for name in MODELS if "_7b" in name]


def questions(article, answers):
    """Rows of SQuAD in the Hub's flat form: passages of one article, each with a question."""
    return [
        {
            "id": f"{article}-{number}",
            "title": article,
            "context": f"Passage {number} of {article}.",
            "question": f"What is it, {number}?",
            "answers": {"text": [f"Passage {number}"][:answers], "answer_start": [0][:answers]},
        }
        for number in range(10)
    ]


# The columns of the Hub's data sets as they are published; the test labels of GLUE are secret.
EMOTIONS = ("anger", "anticipation", "disgust", "fear", "joy", "love", "optimism", "pessimism", "sadness", "surprise")
ROWS = {
    "sst2": {
        "train": [{"sentence": f"phrase {number} ", "label": number % 2, "idx": number} for number in range(100)],
        "validation": [{"sentence": "a fine film ", "label": 1, "idx": 0}, {"sentence": "dull ", "label": 0, "idx": 1}],
        "test": [{"sentence": "whatever ", "label": -1, "idx": 0}],
    },
    "imdb": {
        "train": [{"text": f"review<br /><br />{number}", "label": number % 2} for number in range(20)],
        "test": [{"text": "fine &amp; short", "label": 1}, {"text": "dull", "label": 0}],
        "unsupervised": [{"text": "whatever", "label": -1}],
    },
    "tweet_emotions": {
        split: [
            {"ID": f"{split}-1", "text": f"{split} one", **dict.fromkeys(EMOTIONS, False), "trust": True, "labels": []},
            {
                "ID": f"{split}-2",
                "text": f"{split} two",
                **dict.fromkeys(EMOTIONS, False),
                "trust": False,
                "labels": [],
            },
        ]
        for split in ("train", "test", "validation")
    },
    "polish_slang": {
        "train": [{"tekst": f"wypowiedź {number} ", "sentyment": number % 3} for number in range(6)],
        "validation": [{"tekst": "spoko", "sentyment": 2}],
        "test": [{"tekst": "siema ", "sentyment": 1}],
    },
    "squad": {
        "train": [row for number in range(10) for row in questions(f"article {number}", 1)],
        "validation": questions("another article", 1),
    },
    "squad_v2": {
        "train": [row for number in range(10) for row in questions(f"article {number}", number % 2)],
        "validation": [*questions("one more", 1), *questions("and another", 0)],
    },
}


ARC = {"text": ["ice", "fire", "sand"], "label": ["A", "B", "C"]}
# Of the other tasks: name -> (the source's splits, a row of them by its number).
OF_OTHER_TASKS = {
    "alpaca": (("train",), lambda n: {"instruction": f"Say {n}.", "input": "", "output": f"{n}", "text": "unused"}),
    "arc_challenge": (("train", "validation", "test"), lambda n: {
        "id": f"q{n}", "question": f"What is cold {n}?", "choices": ARC, "answerKey": "ABC"[n % 3]}),
    "conll2003": (("train", "validation", "test"), lambda n: {
        "id": f"{n}", "tokens": ["EU", f"call {n}", "."], "pos_tags": [1, 2, 3], "chunk_tags": [1, 2, 3],
        "ner_tags": [3, 0, 0]}),
    "copa": (("train", "validation", "test"), lambda n: {
        "premise": f"It rained {n}.", "choice1": "It got wet.", "choice2": "It got dry.", "question": "effect",
        "idx": n, "label": n % 2}),
    "gsm8k": (("train", "test"), lambda n: {"question": f"1 + {n}?", "answer": f"It is <<1+{n}>>.\n#### {n + 1}"}),
    "hellaswag": (("train", "validation", "test"), lambda n: {
        "ind": n, "activity_label": "x", "ctx_a": "A man", "ctx_b": "", "ctx": f"A man {n}", "split": "x",
        "endings": ["sits.", "flies.", "melts.", "sings."], "source_id": "x", "split_type": "x", "label": f"{n % 4}"}),
    "metamathqa": (("train",), lambda n: {
        "type": "GSM_Rephrased", "query": f"2 + {n}?", "original_question": "x",
        "response": f"2 + {n} is.\n#### {n + 2}\nThe answer is: {n + 2}"}),
    "piqa": (("train", "validation"), lambda n: {"goal": f"Cool {n}", "sol1": "ice", "sol2": "fire", "label": n % 2}),
    "samsum": (("train", "validation", "test"), lambda n: {
        "id": f"{n}", "dialogue": f"A: Hi {n}\r\nB: Hi", "summary": f"A greets B {n}."}),
    "stsb": (("train", "validation", "test"), lambda n: {
        "sentence1": f"a cat {n}", "sentence2": f"a dog {n}", "label": n % 6 * 1.0, "idx": n}),
    "swag": (("train", "validation", "test"), lambda n: {
        "video-id": "x", "fold-ind": f"{n}", "startphrase": f"He {n}", "sent1": "x", "sent2": "x", "gold-source": "x",
        **{f"ending{k}": f"goes {k}." for k in range(4)}, "label": n % 4}),
    "xsum": (("train", "validation", "test"), lambda n: {
        "document": f"A long text {n}.", "summary": f"Short {n}.", "id": f"{n}"}),
}  # fmt: skip
OF_OTHER_TASKS["arc_easy"] = OF_OTHER_TASKS["arc_challenge"]
ROWS |= {
    name: {split: [row(1000 * number + each) for each in range(50)] for number, split in enumerate(splits)}
    for name, (splits, row) in OF_OTHER_TASKS.items()
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a recipe must resolve without the network")

    monkeypatch.setattr("socket.socket.connect", refused)


@pytest.fixture(scope="module")
def resolved():
    return {name: load(path) for name, path in PATHS.items()}


def trains(found):
    plan = registry.load("methods", found.recipe.method.name).load_plan(found.options)
    return plan.trains != "nothing"


@together("name", PATHS)
def test_it_resolves_and_is_called_after_model_objective_and_method(resolved, name):
    found = resolved[name]
    writes = found.recipe.objective == "text" and trains(found)
    method = f"{'text_' if writes else ''}{found.recipe.method.name}"
    # One for a GPU of some size says so at the end of its name, one of a smaller model than its card's behind that.
    assert re.sub(r"_\d+gib$|(?<=^gpt2)_\d+m(?=-)", "", name.split("/")[1]) == f"{found.model_name}-{method}"
    assert found.recipe.model.weights == "pretrained"  # random ones only by method: scratch


@together("name", PATHS)
def test_what_is_trained_is_scored_before_and_after(resolved, name):
    recipe = resolved[name].recipe
    assert recipe.evaluation.before
    assert recipe.evaluation.splits == ("test",)


def test_every_real_model_has_a_recipe(resolved):
    assert len(MODELS) >= 15
    assert {found.model_name for found in resolved.values()} == set(MODELS)


def test_every_method_and_every_way_to_answer_occurs(resolved):
    recipes = [found.recipe for found in resolved.values()]
    in_studies = {load(path).recipe.method.name for path in IN_STUDIES}
    assert {recipe.method.name for recipe in recipes} | in_studies == set(registry.names("methods"))
    assert {recipe.objective for recipe in recipes} == {"head", "text"}
    assert {recipe.prompting.format for recipe in recipes} == {"plain", "chat"}
    assert {recipe.prompting.answer for recipe in recipes} == {"label_likelihood", "generate", "entailment"}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_scores_all_models_on_the_same_examples(resolved, study):
    found = [item for name, item in resolved.items() if name.startswith(f"{study}/")]
    assert len(found) > 1
    assert len({item.dataset_name for item in found}) == 1
    assert len({item.recipe.limit.get("test") for item in found}) == 1
    assert len({(item.recipe.evaluation.splits, item.recipe.evaluation.threshold) for item in found}) == 1


def test_only_chat_models_are_asked_in_a_chat(resolved):
    for found in resolved.values():
        if found.recipe.objective == "text":
            assert (found.recipe.prompting.format == "chat") == ("instruct" in found.model_name), found.name


def test_entailment_is_asked_of_entailment_models_alone(resolved):
    for found in resolved.values():
        assert (found.recipe.prompting.answer == "entailment") == found.model_name.endswith("mnli"), found.name


def test_large_models_are_trained_and_asked_in_4_bits(resolved):
    plans = {
        name: registry.load("methods", found.recipe.method.name).load_plan(found.options)
        for name, found in resolved.items()
        if found.model_name in LARGE
    }
    assert len(plans) > len(LARGE)
    for name, plan in plans.items():
        assert plan.quantization is not None, name
        if plan.trains == "gradient":
            training = resolved[name].recipe.training
            assert training.gradient_checkpointing, name
            assert training.optimizer == "paged_adamw_8bit", name


@together("name", PATHS)
def test_adapters_are_the_same_everywhere(resolved, name):
    recipe = resolved[name].recipe
    if recipe.method.name in ("lora", "qlora"):
        config = resolved[name].options.config
        assert config == {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
        assert 1e-4 <= recipe.training.learning_rate <= 3e-4


# ---------------------------------------------------------------- data sets on the Hub


def test_every_card_of_the_hub_is_looked_at():
    assert set(HUB) == {*ROWS, *suites.LAYOUTS}


@pytest.mark.parametrize("name", HUB)
def test_a_hub_card_is_pinned_or_says_why_not(name):
    card = load_card("dataset", HUB[name])
    text = HUB[name].read_text(encoding="utf-8")
    revision = card.source.revision
    assert re.fullmatch(r"[0-9a-f]{40}", revision or "") or "# revision: not pinned" in text


@pytest.mark.parametrize("name", [name for name in HUB if f"{name}_local" in DATASETS])
def test_a_hub_card_agrees_with_the_local_one(name):
    card, local = (load_card("dataset", DATASETS[each]) for each in (name, f"{name}_local"))
    assert (card.labels, card.multi_label, card.prompt) == (local.labels, local.multi_label, local.prompt)
    assert set(card.split_names) == set(local.split_names) == {"train", "validation", "test"}


@pytest.fixture
def hub(monkeypatch):
    """hub(name) -> the corpus that a card makes of rows like the Hub's."""

    def loaded(name):
        card = load_card("dataset", HUB[name])

        places = {(each.source.id, each.source.config, each.source.revision): other
                  for other, each in card.other_sources.items()}  # fmt: skip
        places[card.source.id, card.source.config, card.source.revision] = name

        def load_dataset(place, config, revision):
            rows_of = ROWS[places[place, config, revision]]
            return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in rows_of.items()})

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        return dataset.load(card, {}, {"train", "validation", "test"})

    return loaded


def test_sst2_scores_the_sentences_whose_labels_are_known(hub):
    splits = hub("sst2").splits
    assert [(row["id"], row["text"], row["label"]) for row in splits["test"].rows] == [
        ("0", "a fine film", 1),
        ("1", "dull", 0),
    ]
    assert {name: len(split.rows) for name, split in splits.items()} == {"test": 2, "train": 98, "validation": 2}


def test_imdb_holds_its_validation_out_of_the_training(hub):
    splits = hub("imdb").splits
    assert {name: len(split.rows) for name, split in splits.items()} == {"test": 2, "train": 18, "validation": 2}
    assert [row["text"] for row in splits["test"].rows] == ["fine & short", "dull"]
    assert all("<br" not in row["text"] for row in splits["train"].rows)


def test_slang_is_read_from_its_columns(hub):
    corpus = hub("polish_slang")
    assert corpus.labels == ("negative", "neutral", "positive")
    assert [(row["text"], row["label"]) for row in corpus.splits["test"].rows] == [("siema", 1)]
    assert [len(corpus.splits[name].rows) for name in ("train", "validation", "test")] == [6, 1, 1]


@pytest.mark.parametrize("name", OF_OTHER_TASKS)
def test_cards_of_the_other_tasks_read_the_columns_of_the_hub(hub, name):
    corpus = hub(name)
    splits = {split: found.rows for split, found in corpus.splits.items()}
    assert set(splits) == {"train", "validation", "test"}
    assert min(map(len, splits.values())) >= 1
    row = splits["test"][0]
    expected = {
        "conll2003": {"tokens": ["EU", "call 2000", "."], "tags": ["B-ORG", "O", "O"]},
        "stsb": {"text": "a cat 1000", "text_pair": "a dog 1000", "label": 4.0},
        "gsm8k": {"text": "1 + 1000?", "answers": ["It is <<1+1000>>.\n#### 1001"]},
        "metamathqa": {"text": "1 + 1000?", "answers": ["It is <<1+1000>>.\n#### 1001"]},
        "copa": {"choices": ["It got wet.", "It got dry."], "label": 0, "text_pair": "effect"},
        "arc_easy": {"choices": ["ice", "fire", "sand"], "label": 2},
        "hellaswag": {"text": "A man 1000", "choices": ["sits.", "flies.", "melts.", "sings."], "label": 0},
        "swag": {"choices": [f"goes {k}." for k in range(4)], "label": 0},
        "piqa": {"text": "Cool 1000", "choices": ["ice", "fire"], "label": 0},
        "xsum": {"text": "A long text 2000.", "answers": ["Short 2000."]},
    }.get(name, {})
    assert {key: row[key] for key in expected} == expected


def test_emotions_are_read_from_their_columns(hub):
    corpus = hub("tweet_emotions")
    assert corpus.labels == (*EMOTIONS, "trust")
    for split in corpus.splits.values():
        assert [row["label"] for row in split.rows] == [[0] * 10 + [1], [0] * 11]


@pytest.mark.parametrize(("name", "version", "answerable"), [("squad", "1.1", [10, 0]), ("squad_v2", "2.0", [10, 10])])
def test_squad_holds_whole_articles_out_of_the_training(hub, name, version, answerable):
    corpus = hub(name)
    counts = corpus.splits["test"].labels(corpus.labels)
    assert (corpus.version, [counts["answerable"], counts["unanswerable"]]) == (version, answerable)
    titles = {split: {row["title"] for row in found.rows} for split, found in corpus.splits.items()}
    assert [len(titles["train"]), len(titles["validation"])] == [9, 1]
    assert not titles["train"] & titles["validation"]


def test_the_files_of_the_task_itself_are_read(tmp_path):
    card = load_card("dataset", DATASETS["tweet_emotions_local"])
    header = "\t".join(("ID", "Tweet", *EMOTIONS, "trust"))
    for split, file in card.source.files.items():
        line = "\t".join((f"2018-{split}", f'"quoted @someone in {split} &amp; more', *"1" * 10, "0"))
        (tmp_path / file).write_text(f"{header}\n{line}\n", encoding="utf-8")
    source = card.source.model_copy(update={"folder": str(tmp_path)})
    corpus = dataset.load(card.model_copy(update={"source": source}), {}, {"train", "test"})
    row = corpus.splits["test"].rows[0]
    assert (row["id"], row["text"], row["label"]) == (
        "2018-test",
        '"quoted @user in test & more',
        [1] * 10 + [0],
    )
