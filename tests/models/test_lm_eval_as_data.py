"""Tasks of lm_eval as data: every document is scored as lm_eval itself scores it, and the task can be learned from."""

import json
import textwrap

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoConfig, AutoModelForCausalLM

from bench.config import registry, resolve
from bench.config.cards import TokenizerCard
from bench.data import dataset, lm_eval_tasks
from bench.data import tokenizer as tokenizers
from bench.evaluation import lm_eval_examples, scoring
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


def theirs(folder, name, shots, model, **options):
    """lm_eval's own samples, by document."""
    network, tokenizer = model
    manager = TaskManager(include_defaults=False)
    config = {**lm_eval_tasks.read(folder / f"{name}.yaml").settings}
    config["dataset_kwargs"] = {"data_files": {part: str(folder / f"{part}.jsonl") for part in ("train", "test")}}
    results = simple_evaluate(
        HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, **options.pop("model", {})),
        tasks=[config],
        num_fewshot=shots,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    return sorted(results["samples"][name], key=lambda sample: sample["doc_id"])


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


@together(
    "name, shots", [(name, shots) for number, name in enumerate(TASKS) for shots in ((0, 3) if number % 2 else (2, 0))]
)
def test_every_document_is_scored_as_lm_eval_scores_it(name, shots, folder, model, write):
    method = f"method={{name: few_shot, shots: {shots}}}" if shots else "method=zero_shot"
    predictions, values = scored(recipe_of(write, f"lm_eval:{folder / name}.yaml", method), model)
    assert_equal(predictions, values, theirs(folder, name, shots, model))
