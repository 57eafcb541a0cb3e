"""Tasks of lm_eval as data: every document is scored as lm_eval itself scores it, and the task can be learned from."""

import json
import textwrap
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import load_yaml
from transformers import AutoConfig, AutoModelForCausalLM

from bench.config import foreign_code, registry, resolve
from bench.config.cards import TokenizerCard
from bench.data import card_from_lm_eval, dataset, lm_eval_tasks
from bench.data import tokenizer as tokenizers
from bench.errors import DataError, RecipeError, SetupError
from bench.evaluation import lm_eval_examples, new_texts, predict_until, scoring
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from tests.helpers import models as tiny
from tests.helpers.cases import together

TOLERANCE = 1e-4
WORDS = ["old mill", "red bridge", "small inn", "tall tower", "cold river", "quiet market", "green garden", "wet road"]
ENDINGS = ["is closed", "is open on every day but Monday", "was sold", "belongs to nobody, as they say", "is near"]
# Questions with two to five choices of their own, with the right one by number, letter, text and key.
ROWS = [
    {
        "question": f"What is said of the {WORDS[number % 8]} number {number}?",
        "passage": f"In the year {1700 + number} much was said.",
        "options": [f"it {ENDINGS[(number + place) % 5]}" for place in range(2 + number % 4)],
        "gold": number % (2 + number % 4),
        "letter": "ABCDE"[number % (2 + number % 4)],
        "named": {
            "text": [f"{ENDINGS[(number + place) % 5]} now" for place in range(4)],
            "label": list("1234" if number % 3 else "ABCD"),
        },
        "key": ("1234" if number % 3 else "ABCD")[number % 4],
        "first": f"the {WORDS[number % 8]}",
        "second": f"not the {WORDS[(number + 3) % 8]}",
        "yes": number % 2,
        "is_so": number % 3 == 0,
        "ending": "  and so it is" if number % 2 else "",
    }
    for number in range(30)
]
# Shapes of multiple-choice tasks: name -> keys beside those of `COMMON`.
TASKS = {
    "varying": """
        doc_to_text: "Question: {{question}}\\nAnswer:"
        doc_to_choice: options
        doc_to_target: gold
        """,
    "of_a_column": """
        doc_to_text: question
        doc_to_choice: "{{options}}"
        doc_to_target: "{{gold}}"
        """,
    "arc": """
        doc_to_text: "Question: {{question}}\\nAnswer:"
        doc_to_choice: "{{named.text}}"
        doc_to_target: "{{named.label.index(key)}}"
        metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
        """,
    "two_listed": """
        doc_to_text: "{{passage}} {{question}} Is it so?"
        doc_to_choice: ["no", "yes, certainly"]
        doc_to_target: is_so
        """,
    "letters": """
        description: "The following are questions with answers.\\n\\n"
        doc_to_text: "{{question}}\\nA. {{named.text[0]}}\\nB. {{named.text[1]}}\\nC. {{named.text[2]}}\\nAnswer:"
        doc_to_choice: ["A", "B", "C"]
        doc_to_target: "{{yes}}"
        """,
    "no_delimiter": """
        doc_to_text: "{{passage}} They say: "
        doc_to_choice: "{{[first, second]}}"
        doc_to_target: "{{yes}}"
        target_delimiter: ""
        """,
    "line_break": """
        doc_to_text: "{{question}}"
        doc_to_choice: options
        doc_to_target: gold
        target_delimiter: "\\n"
        fewshot_delimiter: "\\n###\\n"
        """,
    "by_text": """
        doc_to_text: "{{question}}"
        doc_to_choice: options
        doc_to_target: "{{options[gold]}}"
        """,
    "described_by_document": """
        description: "{{passage}} "
        doc_to_text: "{{question}}{{ending}}"
        doc_to_choice: options
        doc_to_target: gold
        fewshot_config: {sampler: first_n}
        """,
    "prompt_for_each": """
        doc_to_text: "{{gold}}"
        doc_to_choice: "{{options}}"
        doc_to_target: "{{passage}}"
        """,
    "mutual_information": """
        doc_to_text: "{{question}}"
        doc_to_choice: options
        doc_to_target: gold
        metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_mutual_info}]
        """,
}
COMMON = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: train.jsonl, test: test.jsonl}}
output_type: multiple_choice
training_split: train
test_split: test
fewshot_split: train
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tasks and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in (("train", ROWS[:18]), ("test", ROWS[18:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, keys in TASKS.items():
        text = COMMON.format(name=name) + textwrap.dedent(keys)
        if "metric_list" not in text:
            text += "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model():
    """A tiny Llama with random weights, and a tokenizer that puts a token before every text."""
    known = tiny.narrow("llama", max_position_embeddings=512)
    texts = [row["question"] for row in ROWS] + [text for row in ROWS for text in row["options"]]
    tokenizer = tokenizers.train(TokenizerCard(train=known.tokenizer.train, vocab_size=500), known.family, texts)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    torch.manual_seed(13)
    config = AutoConfig.for_model(**known.architecture, **special)
    return tiny.liven(AutoModelForCausalLM.from_config(config)).eval(), tokenizer


def recipe_of(write, spec, *overrides):
    model = "{card: tiny_llama, max_length: 512}"
    text = f"dataset: {json.dumps(spec)}\nmodel: {model}\nmethod: zero_shot\nobjective: text\nmax_length: 512\n"
    return resolve.load(write("study/own.yaml", text), overrides)


@pytest.fixture
def write(tmp_path):
    def _write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def scored(resolved, model):
    """Our predictions on the test split, and their per-example values."""
    network, tokenizer = model
    recipe = resolved.recipe
    plan = registry.load("methods", recipe.method.name).load_plan(resolved.options)
    corpus = dataset.load(recipe.dataset, {}, {"test"})
    examples = lm_eval_examples.encode_corpus(recipe, plan, corpus, tokenizer)
    metrics = MetricSet(resolved.metric_names, multi_label=False, num_labels=len(corpus.labels))
    how = Scoring(
        tokenizer=tokenizer,
        metrics=metrics,
        threshold=0.5,
        device=torch.device("cpu"),
        precision="no",
        reader=examples.reader,
    )
    predictions = scoring.run(network, examples.splits["test"], how, "test").predictions
    return predictions, metrics.per_example(predictions)


def theirs(folder, names, shots, model, **options):
    """lm_eval's own samples of some tasks: name -> samples by document."""
    network, tokenizer = model
    files = {"data_files": {part: str(folder / f"{part}.jsonl") for part in ("train", "test")}}
    results = simple_evaluate(
        HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, **options.pop("settings", {})),
        tasks=[{**lm_eval_tasks.read(folder / f"{name}.yaml").settings, "dataset_kwargs": files} for name in names],
        num_fewshot=shots,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    return {name: sorted(each, key=lambda one: one["doc_id"]) for name, each in results["samples"].items()}


def assert_equal(predictions, values, samples):
    assert len(predictions.ids) == len(samples) == 12
    for place, sample in enumerate(samples):
        assert int(predictions.ids[place]) == sample["doc_id"]
        sums = predictions.extra[place]["log_likelihoods"]
        # Behind them, where a task compares the two, stand the likelihoods without a context.
        expected = [float(answer[0]) for answer in sample["filtered_resps"]][: len(sums)]
        assert sums == pytest.approx(expected, abs=TOLERANCE)
        for metric in {"acc", "acc_norm", "acc_bytes"} & set(sample):
            assert values[metric][place] == sample[metric], (place, metric)


@together("shots", [0, 2])
def test_every_document_is_scored_as_lm_eval_scores_it(shots, folder, model, write):
    method = f"method={{name: few_shot, shots: {shots}}}" if shots else "method=zero_shot"
    expected = theirs(folder, TASKS, shots, model)
    assert set(expected) == set(TASKS)
    for name, samples in expected.items():
        predictions, values = scored(recipe_of(write, f"lm_eval:{folder / name}.yaml", method), model)
        assert_equal(predictions, values, samples)


def test_in_a_chat_template_too(folder, model, write):
    _, tokenizer = model
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    tokenizer.chat_template = template + "{% if add_generation_prompt %}[assistant] {% endif %}"
    try:
        for name, shots in (("letters", 2), ("varying", 0)):
            method = f"method={{name: few_shot, shots: {shots}}}" if shots else "method=zero_shot"
            resolved = recipe_of(write, f"lm_eval:{folder / name}.yaml", method, "prompting.format=chat")
            predictions, values = scored(resolved, model)
            expected = theirs(folder, [name], shots, model, apply_chat_template=True, fewshot_as_multiturn=True)
            assert_equal(predictions, values, expected[name])
    finally:
        tokenizer.chat_template = None


def test_what_is_too_long_loses_its_beginning_as_in_lm_eval(folder, model, write):
    resolved = recipe_of(write, f"lm_eval:{folder / 'two_listed'}.yaml", "max_length=24")
    predictions, values = scored(resolved, model)
    # Of its own choices the longer one leaves less room, and lm_eval cuts for each of them alone.
    samples = theirs(folder, ["two_listed"], 0, model, settings={"max_length": 24})["two_listed"]
    longer = [float(sample["filtered_resps"][1][0]) for sample in samples]
    assert [extra["log_likelihoods"][1] for extra in predictions.extra] == pytest.approx(longer, abs=TOLERANCE)
    assert set(values) >= {"acc", "acc_norm", "acc_bytes", "acc_tokens"}


def test_the_training_split_is_learned_from_with_the_prompt_that_is_scored(folder, model, write):
    _, tokenizer = model
    resolved = recipe_of(write, f"lm_eval:{folder / 'letters'}.yaml", "method=full")
    recipe = resolved.recipe
    plan = registry.load("methods", "full").load_plan(resolved.options)
    corpus = dataset.load(recipe.dataset, {}, {"train", "test"})
    asked = lm_eval_examples.encode_corpus(recipe, plan, corpus, tokenizer)
    both = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"splits": ("train",)})})
    as_scored = lm_eval_examples.encode_corpus(both, plan, corpus, tokenizer).splits["train"]
    assert asked.train.ids == as_scored.ids
    for learned, question in zip(asked.train.features, as_scored.features, strict=True):
        answer = [*question["continuation_ids"][question["labels"]], tokenizer.eos_token_id]
        assert learned["input_ids"] == question["prompt_ids"] + answer
        assert learned["token_labels"] == [-100] * len(question["prompt_ids"]) + answer
    first = ROWS[0]
    text = tokenizer.decode(asked.train.features[0]["input_ids"], skip_special_tokens=True)
    assert text.strip().startswith(
        "the following are questions with answers."
    )  # its description; the tokenizer has no case
    assert text.endswith(f"answer: {'ab'[first['yes']]}")


def test_of_a_prompt_for_each_choice_the_right_one_is_learned(folder, model, write):
    network, tokenizer = model
    resolved = recipe_of(write, f"lm_eval:{folder / 'prompt_for_each'}.yaml", "method=full")
    plan = registry.load("methods", "full").load_plan(resolved.options)
    corpus = dataset.load(resolved.recipe.dataset, {}, {"train", "test"})
    examples = lm_eval_examples.encode_corpus(resolved.recipe, plan, corpus, tokenizer)
    for row, feature in zip(ROWS[:18], examples.train.features, strict=True):
        whole = tokenizer.encode(f"{row['options'][row['gold']]} {row['passage']}")
        assert feature["input_ids"] == [*whole, tokenizer.eos_token_id]
    split = examples.splits["test"]
    how = Scoring(
        tokenizer=tokenizer,
        metrics=MetricSet((), multi_label=False, num_labels=len(corpus.labels)),
        threshold=0.5,
        device=torch.device("cpu"),
        precision="no",
    )
    reader = examples.reader(network, split, how)
    checked = reader.check(network, [0, 3, 5])
    assert (checked.examples, checked.changed) == (3, 0)
    assert checked.largest < TOLERANCE
    assert sorted(number for batch in reader.batches for number in batch) == [*range(len(split.features))]
    assert examples.notes == []
    said = lm_eval_examples.described(resolved.recipe, tokenizer)
    assert said == {"choices_in_prompts": True}
    with pytest.raises(DataError, match="a prompt for each choice, which new texts are not put into"):
        new_texts.check([{"text": "a"}], {"task": "multiple_choice", **said})


# ---------------------------------------------------------------- written answers

FIRST = {"function": "take_first"}
WRITTEN = {
    "plain": {},
    "two_filters": {
        "description": "Some answers.\n\n",
        "generation_kwargs": {"until": ["\n", "the", "?"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0},
        "filter_list": [
            {
                "name": "letter",
                "filter": [{"function": "regex", "regex_pattern": "([a-z])"}, {"function": "take_first"}],
            },
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    },
    "several_golds": {"doc_to_target": "golds", "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 5}},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, model):
    """Tasks whose answers are written; every other gold text is what the model writes."""
    folder = tmp_path_factory.mktemp("written")
    rows = [{"question": row["question"], "gold": "-", "golds": ["-", "+"]} for row in ROWS]
    for name, keys in WRITTEN.items():
        settings = {
            "task": name,
            "dataset_path": "json",
            "output_type": "generate_until",
            "training_split": "train",
            "test_split": "test",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{gold}}",
            "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
            "generation_kwargs": {"until": ["Q:"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
            **keys,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")

    def save():
        for part, own in (("train", rows[:18]), ("test", rows[18:])):
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")

    save()
    said = {name: theirs(folder, [name], 0, model)[name] for name in ("two_filters", "several_golds")}
    for number, row in enumerate(rows[18:]):
        own = [each for each in said["two_filters"] if each["doc_id"] == number and each["filter"] == "whole"]
        row["gold"] = own[0]["resps"][0][0].upper() if number % 2 else row["gold"]
        row["golds"] = ["+", said["several_golds"][number]["resps"][0][0]] if number % 3 else row["golds"]
    save()
    return folder


@together("name, shots", [("plain", 0), ("plain", 2), ("two_filters", 1), ("two_filters", 0), ("several_golds", 0)])
def test_every_written_answer_is_that_of_lm_eval_and_scored_as_there(name, shots, written, model, write):
    method = f"method={{name: few_shot, shots: {shots}}}" if shots else "method=zero_shot"
    resolved = recipe_of(write, f"lm_eval:{written / name}.yaml", method)
    predictions, values = scored(resolved, model)
    samples = theirs(written, [name], shots, model)[name]
    filters = {sample["filter"] for sample in samples}
    assert set(values) == {f"lm_eval:exact_match,{key}" for key in filters}
    for sample in samples:
        place = predictions.ids.index(f"{sample['doc_id']:06d}")
        assert predictions.extra[place]["text"] == sample["resps"][0][0]
        assert values[f"lm_eval:exact_match,{sample['filter']}"][place] == sample["exact_match"]
    if (name, shots) in (("two_filters", 0), ("several_golds", 0)):  # right and wrong ones
        assert {0.0, 1.0} == {sample["exact_match"] for sample in samples}


def test_answers_are_scored_by_a_function_of_lm_evals_own_task(tmp_path, model, write):
    """Of hendrycks_math: the last boxed term of a solution, whatever its LaTeX; a stranger's function is refused."""
    own = lm_eval_tasks.find("hendrycks_math_algebra")
    files = {part: str(tmp_path / f"{part}.jsonl") for part in ("train", "test")}
    settings = {"include": str(own), "task": "own_math", "dataset_path": "json", "dataset_name": None}
    settings |= {
        "dataset_kwargs": {"data_files": files},
        "generation_kwargs": {"until": ["Problem:"], "max_gen_toks": 6},
    }
    path = tmp_path / "own_math.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    said = []
    for _ in range(2):  # every other solution is what the model writes
        answers = [said[number] if said and number % 2 else "\\frac{1}{2}" for number in range(8)]
        rows = [
            {"problem": ROWS[number]["question"], "solution": f"So $\\boxed{{{answer}}}$."}
            for number, answer in enumerate(answers)
        ]
        for file in files.values():
            Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        lm_eval_tasks.build.cache_clear()
        predictions, values = scored(recipe_of(write, f"lm_eval:{path}", "method=zero_shot"), model)
        said = [extra["text"] for extra in predictions.extra]
    network, tokenizer = model
    results = simple_evaluate(
        HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4),
        tasks=[load_yaml(path)],
        num_fewshot=0,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(results["samples"]["own_math"], key=lambda one: one["doc_id"])
    assert said == [sample["resps"][0][0] for sample in samples]
    found = values["lm_eval:exact_match,none"].tolist()
    assert found == [float(sample["exact_match"]) for sample in samples]
    assert {0.0, 1.0} == set(found)
    (tmp_path / "utils.py").write_text("def score(doc, results): return {'exact_match': 1}\n")
    text = path.read_text().removesuffix("}")
    (tmp_path / "strange.yaml").write_text(f"{text}, process_results: !function utils.score}}")
    with pytest.raises(SetupError, match="it scores answers by a function of its own"):
        card_from_lm_eval.make(f"lm_eval:{tmp_path / 'strange.yaml'}")


def test_new_texts_are_answered_as_the_documents_are(written, model, write):
    """By `predict`: the task's description, stop texts and number of tokens."""
    network, tokenizer = model
    for name in ("two_filters", "plain"):
        resolved = recipe_of(write, f"lm_eval:{written / name}.yaml", "method=zero_shot")
        expected, _ = scored(resolved, model)
        rows = dataset.load(resolved.recipe.dataset, {}, {"test"}).splits["test"].rows
        description = {
            **lm_eval_examples.described(resolved.recipe, tokenizer),
            "threshold": 0.5,
            "max_length": resolved.recipe.max_length,
            "model_card": {"family": "decoder"},
        }
        assert description["until"]["around"][1] == ""
        assert description["until"]["around"][0].startswith("Some answers." if name == "two_filters" else "")
        found = predict_until.predict(network, tokenizer, description, [{"text": row["text"]} for row in rows])
        wanted = {row_id: extra["text"] for row_id, extra in zip(expected.ids, expected.extra, strict=True)}
        assert [one["written"] for one in found] == [wanted[row["id"]] for row in rows]
        assert len({one["written"] for one in found}) > 1
    unlike = {**description, "until": {**description["until"], "around": None}}
    with pytest.raises(DataError, match="each document has its own prompt"):
        predict_until.predict(network, tokenizer, unlike, [{"text": "a"}])


def test_of_written_answers_the_gold_text_is_learned(written, model, write):
    _, tokenizer = model
    resolved = recipe_of(write, f"lm_eval:{written / 'plain'}.yaml", "method=full")
    plan = registry.load("methods", "full").load_plan(resolved.options)
    corpus = dataset.load(resolved.recipe.dataset, {}, {"train", "test"})
    train = lm_eval_examples.encode_corpus(resolved.recipe, plan, corpus, tokenizer).train
    prompt = tokenizer.encode(f"Q: {ROWS[0]['question']}\nA:")
    whole = tokenizer.encode(f"Q: {ROWS[0]['question']}\nA: -")
    assert train.features[0]["input_ids"] == [*whole, tokenizer.eos_token_id]
    assert train.features[0]["token_labels"][: len(prompt)] == [-100] * len(prompt)


# ---------------------------------------------------------------- cards, and what is refused


def test_the_card_is_made_of_the_task(folder):
    card = card_from_lm_eval.make(f"lm_eval:{folder / 'arc.yaml'}")
    assert card["source"] == {"kind": "lm_eval", "id": "arc", "folder": str(folder), "files": {"task": "arc.yaml"}}
    assert card["splits"] == {"train": "train", "test": "test"}
    assert card["normalization"] == "characters"
    for name in ("arc_easy", "hellaswag", "piqa"):  # by name alone, without their data
        made = card_from_lm_eval.make(f"lm_eval:{name}")
        assert made["source"] == {"kind": "lm_eval", "id": name}
        assert made["splits"]["test"] == ("test" if name == "arc_easy" else "validation")
    assert card_from_lm_eval.make("lm_eval:copa")["normalization"] == "none"


def test_a_moved_task_has_the_same_hash_and_an_override_shows(folder, write, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (place / path.name).write_bytes(path.read_bytes())
    here, there = (recipe_of(write, f"lm_eval:{root / 'arc.yaml'}") for root in (folder, place))
    assert here.hash == there.hash
    assert "lm_eval/arc.yaml" in here.files
    with (place / "arc.yaml").open("a", encoding="utf-8") as stream:
        stream.write("description: x\n")
    assert recipe_of(write, f"lm_eval:{place / 'arc.yaml'}").hash != here.hash
    other = recipe_of(write, f"lm_eval:{folder / 'arc.yaml'}", "dataset.normalization=bytes")
    assert other.hash != here.hash
    assert other.recipe.dataset.normalization == "bytes"


REFUSED = [
    ("lm_eval:arc_eazy", "lm_eval knows no task 'arc_eazy'. Did you mean 'arc_easy'?"),
    ("lm_eval:zzzzzzzzz", "lm-eval ls tasks"),
    ("lm_eval:./nowhere.yaml", "there is no task file './nowhere.yaml'"),
    ("lm_eval:mmlu", "'mmlu' is a group of tasks"),
    ("lm_eval:wikitext", "output_type is loglikelihood_rolling, the perplexity of whole texts"),
    ("lm_eval:lambada_openai", "output_type is loglikelihood, the likelihood of one given text"),
]


@together("spec, message", REFUSED)
def test_tasks_that_are_unknown_or_of_another_kind_are_refused(spec, message, write):
    with pytest.raises(RecipeError) as error:
        recipe_of(write, spec)
    assert message in str(error.value)
    assert "study/own.yaml:1: dataset" in str(error.value)


def local(tmp_path, keys, name="own"):
    path = tmp_path / f"{name}.yaml"
    settings = {
        "task": name,
        "dataset_path": "json",
        "output_type": "multiple_choice",
        "training_split": "train",
        "test_split": "test",
        "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
        "doc_to_text": "{{question}}",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        **keys,
    }
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}), encoding="utf-8")
    return f"lm_eval:{path}"


@together(
    "keys, message",
    [
        ({"doc_to_choice": None}, "it has no doc_to_choice"),
        ({"doc_to_image": "picture"}, "it shows images"),
        ({"process_results": "x"}, "it scores answers by a function of its own"),
        ({"metric_list": [{"metric": "mcc"}]}, "its metrics are mcc; supported: acc_norm, acc_bytes, acc"),
        ({"output_type": "generate_until", "generation_kwargs": {"do_sample": True}}, "drawn at random"),
        ({"output_type": "generate_until", "metric_list": [{"metric": "bleu"}]}, "its metrics are bleu; of written"),
        ({"output_type": "generate_until", "generation_kwargs": {"num_beams": 2}}, "generation_kwargs have num_beams"),
        ({"test_split": None}, "has neither test_split nor validation_split"),
        ({"task": ["a", "b"]}, "it is a group of tasks"),
        ({"include": "none.yaml"}, "can't be read"),
    ],
)
def test_settings_that_are_not_supported_are_refused(keys, message, tmp_path):
    with pytest.raises(SetupError, match=message):
        card_from_lm_eval.make(local(tmp_path, keys))


@together(
    "keys, message",
    [
        ({"doc_to_target": "{{[0, 1]}}"}, "has several right choices"),
        ({"doc_to_text": "{{gold}}"}, "a prompt for each choice, and behind them"),
        ({"doc_to_target": "{{17 if gold == 1 else gold}}"}, "label 17, which is none of its"),
        ({"doc_to_choice": "{{[question, '' if gold else 'x']}}", "doc_to_target": "{{0}}"}, "choice 2 of 2 is empty"),
        ({"doc_to_text": "{{unknown_column}}"}, "can't build the task"),
        ({"dataset_path": "/no/such/place"}, "can't build the task"),
        ({"doc_to_text": "{{ ''.__class__.__mro__ }}"}, "SecurityError|can't build the task"),
    ],
)
def test_documents_that_are_none_are_refused(keys, message, tmp_path, write):
    number = len(list(tmp_path.iterdir()))
    spec = local(tmp_path, keys, name=f"own{number}")
    with pytest.raises((DataError, SetupError), match=message):
        dataset.load(recipe_of(write, spec).recipe.dataset, {}, {"test"})


def test_a_task_with_python_code_of_its_own_is_foreign_code(tmp_path, write, monkeypatch):
    local(tmp_path, {})
    (tmp_path / "mine.py").write_text("def ask(doc):\n    return doc['question']\n", encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        (tmp_path / "own.yaml").read_text(encoding="utf-8").replace('"{{question}}"', "!function mine.ask"),
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)  # where its data files are, as lm_eval looks for them
    spec = f"lm_eval:{tmp_path / 'own.yaml'}"
    with pytest.raises(SetupError, match=r"runs Python code that is not lm_eval's own \(mine.ask\)"):
        dataset.load(recipe_of(write, spec).recipe.dataset, {}, {"test"})
    trusted = recipe_of(write, spec, "dataset.source.trust_remote_code=true").recipe.dataset
    with pytest.raises(SetupError, match="confirm it with --trust-remote-code"):
        dataset.load(trusted, {}, {"test"})
    monkeypatch.setattr(foreign_code, "is_confirmed", lambda: True)
    rows = dataset.load(trusted, {}, {"test"}).splits["test"].rows
    assert rows[0]["text"] == ROWS[0]["question"]


def written_card(path):
    """Return a whole card of a task's file, as a recipe may write it; no maker has looked at the file."""
    source = {"kind": "lm_eval", "id": path.stem, "folder": str(path.parent), "files": {"task": path.name}}
    columns = {"id": "id", "text": "text", "choices": "choices", "label": "label", "label_as": "from_0"}
    return {
        "task": "multiple_choice",
        "source": source,
        "columns": columns,
        "licence": "none",
        "splits": {"test": "test"},
        "leakage": "allow",
        "prompt": {"template": "{text}"},
    }


def planted(folder):
    """Return (file, mark): Python that leaves a mark if anything imports it, as a metric, a script or a function."""
    mark = folder / "it_ran"
    for name in ("evil", f"{folder.name}", "acc"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n", encoding="utf-8")
    return folder / "evil.py", mark


ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}


@pytest.mark.parametrize("with_functions", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_metric_that_lm_eval_does_not_have_is_never_loaded(with_functions, whole, tmp_path, write, monkeypatch):
    evil, mark = planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    listed = [ACC, {**ACC, "metric": str(evil)}, {**ACC, "metric": "./evil.py"}, {**ACC, "hf_evaluate": True}]
    own = {}
    if with_functions:  # of lm_eval's own, so nothing asks for a confirmation
        base = tmp_path / "base.yaml"
        base.symlink_to(lm_eval_tasks.find("copa"))
        own = {"include": str(base), "process_docs": None, "dataset_name": None, "target_delimiter": " "}
    keys = {"metric_list": listed, "validation_split": None, **own}
    local(tmp_path, {key: value for key, value in keys.items() if key in own or value is not None})
    if with_functions:
        text = (tmp_path / "own.yaml").read_text(encoding="utf-8")
        nulls = '"dataset_name": null, "validation_split": null, "process_docs": null, "fewshot_split": "train", '
        (tmp_path / "own.yaml").write_text("{" + nulls + text[1:], encoding="utf-8")
        assert lm_eval_tasks.read(tmp_path / "own.yaml").functions
    spec = written_card(tmp_path / "own.yaml") if whole else f"lm_eval:{tmp_path / 'own.yaml'}"
    rows = dataset.load(recipe_of(write, spec).recipe.dataset, {}, {"test"}).splits["test"].rows
    assert len(rows) == len(ROWS)
    assert not mark.exists()


@together(
    "keys, message",
    [
        ({"metric_list": [{"metric": "./evil.py"}]}, "none of them is supported"),
        ({"dataset_path": "./evil.py"}, r"is not lm_eval's own \(dataset_path './evil.py'\)"),
        ({"dataset_path": "."}, r"is not lm_eval's own \(dataset_path '.'\)"),
        ({"dataset_path": "pandas"}, r"is not lm_eval's own \(dataset_path 'pandas'\)"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, r"is not lm_eval's own \(dataset_path 'json'\)"),
        ({"class": "evil.py"}, "a group of tasks, or a class"),
        ({"group": "g", "task": [{"task": "t", "metric_list": [{"metric": "./evil.py"}]}]}, "a group of tasks"),
        ({"task": ["a"]}, "a group of tasks"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "./evil.py"}]}]}, "can't build the task"),
        ({"metric_list": [{**ACC, "aggregation": "./evil.py"}], "doc_to_target": "{{17}}"}, "can't build the task"),
        ({"include": "inner.yaml"}, r"is not lm_eval's own \(evil.run\)"),
    ],
)
def test_what_a_card_in_a_recipe_names_runs_no_code_of_a_stranger(keys, message, tmp_path, write, monkeypatch):
    _, mark = planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    number = len(list(tmp_path.iterdir()))
    (tmp_path / "inner.yaml").write_text("process_docs: !function evil.run\n", encoding="utf-8")
    local(tmp_path, keys, name=f"own{number}")
    card = written_card(tmp_path / f"own{number}.yaml")
    with pytest.raises((DataError, SetupError), match=message):
        dataset.load(recipe_of(write, card).recipe.dataset, {}, {"test"})
    assert not mark.exists()


def test_without_lm_eval_a_sentence_says_how_to_install_it(write, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks.importlib.util, "find_spec", lambda name: None)
    lm_eval_tasks.folder.cache_clear()
    try:
        with pytest.raises(RecipeError, match=r'not installed: pip install "finetune-bench\[lm_eval\]"'):
            recipe_of(write, "lm_eval:./own.yaml")
    finally:
        lm_eval_tasks.folder.cache_clear()
