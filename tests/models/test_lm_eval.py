"""lm_eval gives its own tasks the same scores with the model `bench` as with its model `hf`."""

import json
import os
import subprocess
import sys

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from bench.config.cards import TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.evaluation import likelihood
from bench.evaluation import lm_eval_model as lm_eval
from tests.helpers import models as tiny
from tests.helpers.launching import ROOT, environment

TOLERANCE = 1e-4
LONGEST = 256
# One label begins another, and one is of many tokens.
LABELS = ["good", "bad", "dear", "unfathomable", "good enough"]
SUBJECTS = ["room", "garden", "small library", "breakfast by the pool", "early train to the north"]
TRAIN = [
    {"text": f"The {subject} was {label}, {more}.", "label": number}
    for subject in SUBJECTS
    for number, (label, more) in enumerate(
        zip(LABELS, ["again", "we said", "alas", "for once", "and dear"], strict=True)
    )
]
TEST = [
    {"text": f"Was the {subject} {word}? {'Noise all night. ' * (number % 4)}", "label": number % len(LABELS)}
    for number, (subject, word) in enumerate((s, w) for s in SUBJECTS for w in ("clean", "worth the price"))
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}
  cache_dir: {folder}/cache
output_type: multiple_choice
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 4
fewshot_config: {{sampler: {sampler}}}
doc_to_text: "Text: {{{{text}}}}\\nMood:"
doc_to_choice: {labels}
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
# Shots drawn anew for every text, the same ones for all, and once more the same: its prompts occur in two tasks.
SAMPLERS = {"mood_default": "default", "mood_first": "first_n", "mood_again": "first_n"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with the data and, in lm_eval's format, the tasks of SAMPLERS."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in (("train", TRAIN), ("test", TEST)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, sampler in SAMPLERS.items():
        text = TASK.format(name=name, folder=folder, sampler=sampler, labels=json.dumps(LABELS))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def manager(tasks):
    return TaskManager(include_path=str(tasks), include_defaults=False)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def saved(request, tmp_path_factory):
    """A folder with a tiny random decoder and its tokenizer."""
    length = {"llama": "max_position_embeddings", "gpt2": "n_positions"}[request.param]
    return save(tiny.narrow(request.param, **{length: LONGEST}), tmp_path_factory.mktemp("model"), AutoModelForCausalLM)


def save(known, folder, auto_class):
    texts = [row["text"] for row in TRAIN] + [row["text"] for row in TEST]
    trained = tokenizers.train(TokenizerCard(train=known.tokenizer.train, vocab_size=500), known.family, texts)
    trained.save_pretrained(folder)
    special = {f"{name}_token_id": getattr(trained, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    torch.manual_seed(13)
    config = AutoConfig.for_model(**known.architecture, **special, decoder_start_token_id=special["pad_token_id"])
    tiny.liven(auto_class.from_config(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def both(saved):
    """(lm_eval's model, ours), of the same weights."""
    return both_of(saved)


def both_of(folder, budget=None, **options):
    common = {"pretrained": str(folder), "device": "cpu", "batch_size": 4, **options}
    return HFLM(**common), lm_eval.register()(budget=budget, **common)


def instances(pairs, kind="loglikelihood"):
    return [Instance(kind, {}, pair, number) for number, pair in enumerate(pairs)]


def assert_same(answers, expected):
    assert len(answers) == len(expected)
    for ours, theirs in zip(answers, expected, strict=True):
        # HFLM adds up float32; 256 tokens' sum of some 2,000 nats has no finer steps than that.
        assert ours[0] == pytest.approx(theirs[0], abs=TOLERANCE, rel=2e-7)
        assert ours[1] == theirs[1]


def refuse(*arguments, **options):
    raise AssertionError("this must not be called")


def evaluate(model, manager, **options):
    return simple_evaluate(
        model, tasks=list(SAMPLERS), task_manager=manager, bootstrap_iters=0, log_samples=True, **options
    )


def test_a_task_gives_the_same_scores(both, manager, monkeypatch):
    theirs, ours = both
    # HFLM computes its log-likelihoods by this method: ours does not fall back to it.
    monkeypatch.setattr(ours, "_model_call", refuse)
    expected, found = evaluate(theirs, manager), evaluate(ours, manager)
    for task in SAMPLERS:
        for metric in ("acc,none", "acc_norm,none"):
            assert found["results"][task][metric] == expected["results"][task][metric]
        assert len(found["samples"][task]) == len(TEST)
        for one, other in zip(found["samples"][task], expected["samples"][task], strict=True):
            assert one["doc_id"] == other["doc_id"]
            assert one["arguments"] == other["arguments"]
            assert_same([answer for (answer,) in one["resps"]], [answer for (answer,) in other["resps"]])
    chosen = {
        max(range(len(LABELS)), key=lambda label: sample["resps"][label][0][0])
        for task in SAMPLERS
        for sample in expected["samples"][task]
    }
    assert len(chosen) > 1, "a model that always says the same proves nothing"


PROMPT = "Text: The room was clean.\nMood:"
REQUESTS = {
    "one label begins another": [(PROMPT, " good"), (PROMPT, " good enough"), (PROMPT, " good enough, alas")],
    "another order, and twice": [(PROMPT, " bad"), ("Mood:", " bad"), (PROMPT, " good"), (PROMPT, " bad")],
    "a space at the context's end": [("Text: ", "good"), ("Text:  ", "good"), ("Text:", " good"), ("Text: ", "bad")],
    "no context": [("", "The room was clean."), ("", "good"), ("<s>", " good")],
    "longer than the model": [
        ("Noise all night. " * 100 + "Mood:", " good"),
        ("Noise all night. " * 100 + "Mood:", " bad"),
        ("Noise all night. " * 100 + "Mood:", " unfathomable"),
        ("Noise all night. " * 90 + "Mood:", " good"),
        ("Mood:", " good" * (LONGEST // 2)),
    ],
}


@pytest.mark.parametrize("case", REQUESTS)
def test_log_likelihoods_are_hflms(both, case, monkeypatch):
    theirs, ours = both
    monkeypatch.setattr(ours, "_model_call", refuse)
    requests = instances(REQUESTS[case])
    assert_same(ours.loglikelihood(requests), theirs.loglikelihood(requests))


def test_tokens_up_to_the_models_length(both):
    theirs, ours = both
    generator = torch.Generator().manual_seed(1)
    draw = lambda length: torch.randint(5, 400, (length,), generator=generator).tolist()  # noqa: E731
    lengths = [(1, 1), (LONGEST, 1), (LONGEST - 1, 2), (LONGEST + 1, 1), (3, LONGEST), (1, LONGEST), (LONGEST, LONGEST)]
    requests = [((str(number), ""), draw(context), draw(label)) for number, (context, label) in enumerate(lengths)]
    assert_same(ours._loglikelihood_tokens(requests), theirs._loglikelihood_tokens(requests))


def test_greedy_continuations_are_seen(both):
    theirs, ours = both
    context = ours.tok_encode(PROMPT)
    with torch.no_grad():
        said = ours.model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False)[0].tolist()
    said = said[len(context) :]
    other = [*said[:-1], (said[-1] + 1) % 400]
    requests = [(("a", str(number)), context, label) for number, label in enumerate([said, said[:1], other])]
    answers = ours._loglikelihood_tokens(requests)
    assert [greedy for _, greedy in answers] == [True, True, False]
    assert_same(answers, theirs._loglikelihood_tokens(requests))


def test_everything_else_is_hflms(both):
    theirs, ours = both
    texts = instances([("Noise all night. " * 100,), ("good",)], "loglikelihood_rolling")
    assert ours.loglikelihood_rolling(texts) == theirs.loglikelihood_rolling(texts)
    asked = instances(
        [(PROMPT, {"until": ["\n"], "max_gen_toks": 8}), ("Text:", {"max_gen_toks": 4})], "generate_until"
    )
    assert ours.generate_until(asked) == theirs.generate_until(asked)


@pytest.mark.parametrize("label", [[], [5] * (LONGEST + 1)], ids=["empty", "too long"])
def test_what_hflm_refuses_is_refused(both, label):
    for model in both:
        with pytest.raises(AssertionError):
            model._loglikelihood_tokens([(("a", "b"), [7], [8]), (("c", "d"), [9], label)])


def test_an_encoder_decoder_is_left_to_hflm(tmp_path):
    theirs, ours = both_of(save(tiny.card("t5"), tmp_path, AutoModelForSeq2SeqLM))
    requests = instances([(PROMPT, f" {label}") for label in LABELS])
    assert ours.loglikelihood(requests) == theirs.loglikelihood(requests)


def test_an_adapter_of_peft(saved, tmp_path):
    torch.manual_seed(13)
    base = AutoModelForCausalLM.from_pretrained(saved)
    is_gpt2 = base.config.model_type == "gpt2"
    targets = ["c_attn"] if is_gpt2 else ["q_proj", "v_proj"]
    config = LoraConfig(target_modules=targets, fan_in_fan_out=is_gpt2, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path)
    requests = instances(REQUESTS["one label begins another"])
    bare = both_of(saved)[1].loglikelihood(requests)
    theirs, ours = both_of(saved, peft=str(tmp_path))
    ours._model_call = refuse
    answers = ours.loglikelihood(requests)
    assert_same(answers, theirs.loglikelihood(requests))
    assert abs(answers[0][0] - bare[0][0]) > 100 * TOLERANCE


def test_mixed_precision_is_hflms(saved):
    requests = instances(REQUESTS["one label begins another"])
    exact = both_of(saved)[1].loglikelihood(requests)
    theirs, ours = both_of(saved, mixed_precision_dtype="bfloat16")
    for answer, other, exactly in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests), exact, strict=True):
        assert answer[0] == pytest.approx(other[0], abs=0.2)
        assert answer[0] != pytest.approx(exactly[0], abs=TOLERANCE)


def test_a_fallback_is_said(saved, monkeypatch, caplog):
    theirs, ours = both_of(saved)
    monkeypatch.setattr(likelihood.shared_prefix, "supports", lambda *_, **__: "is of another kind")
    requests = instances(REQUESTS["one label begins another"])
    assert_same(ours.loglikelihood(requests), theirs.loglikelihood(requests))
    assert "is of another kind" in caplog.text


def test_a_context_is_encoded_once(both, monkeypatch):
    _, ours = both
    encoded = []
    plain = HFLM.tok_encode
    monkeypatch.setattr(
        HFLM, "tok_encode", lambda self, text, *rest, **more: encoded.append(text) or plain(self, text, *rest, **more)
    )
    ours.loglikelihood(instances([(PROMPT, f" {label}") for label in LABELS]))
    assert encoded.count(PROMPT) == 1
    assert len(encoded) == 1 + len(LABELS)


def test_answers_are_kept_as_they_come(saved, monkeypatch, tmp_path, manager):
    """lm_eval's cache of answers: an interrupted evaluation is resumed, and a second one asks the model for nothing."""
    _, ours = both_of(saved, budget=LONGEST)
    run, ran = likelihood.Scorer.run, []

    def interrupted(scorer, numbers):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.extend([numbers])
        return run(scorer, numbers)

    monkeypatch.setattr(likelihood.Scorer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(ours, manager, use_cache=str(tmp_path / "answers"))
    seen = []
    monkeypatch.setattr(likelihood.Scorer, "run", lambda scorer, numbers: seen.extend(numbers) or run(scorer, numbers))
    first = evaluate(ours, manager, use_cache=str(tmp_path / "answers"))
    # The prompts of mood_again are those of mood_first.
    assert len(seen) == 2 * len(TEST) - sum(map(len, ran))
    monkeypatch.setattr(likelihood.Scorer, "run", refuse)
    second = evaluate(ours, manager, use_cache=str(tmp_path / "answers"))
    assert second["results"] == first["results"]


def test_grouping():
    keys = [("", str(number)) for number in range(5)]
    contexts = [[1, 2], [3], [1, 2], [1, 2], [3]]
    labels = [[9], [9], [9, 8], [9], [7]]
    items, members = lm_eval.grouped(list(zip(keys, contexts, labels, strict=True)), max_length=8)
    assert items == [
        likelihood.Item(context=(1, 2), continuations=((9,), (9, 8))),
        likelihood.Item(context=(3,), continuations=((9,), (7,))),
    ]
    assert members == [[(0, 0), (2, 1), (3, 0)], [(1, 0), (4, 1)]]


def test_registering_twice_is_no_error():
    assert lm_eval.register() is lm_eval.register()


def start(*arguments, code=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "bench", "lm-eval", *arguments])]
    changed = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, text=True, timeout=300, check=False)


def test_without_lm_eval_a_sentence():
    hidden = "import sys; sys.modules['lm_eval'] = None; from bench.cli.main import main; sys.exit(main(['lm-eval']))"
    done = start(code=hidden)
    assert done.returncode == 2
    assert done.stderr == 'error: lm-evaluation-harness is not installed: pip install "finetune-bench[lm_eval]"\n'


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
def test_the_command(saved, tasks, manager, both, tmp_path):
    done = start(
        *("--model", "bench", "--model_args", f"pretrained={saved}", "--device", "cpu"),
        *("--include_path", str(tasks), "--tasks", ",".join(SAMPLERS), "--output_path", str(tmp_path / "out.json")),
    )
    assert done.returncode == 0, done.stderr
    assert "|mood_first " in done.stdout
    (written,) = tmp_path.glob("*.json")
    results = json.loads(written.read_text(encoding="utf-8"))["results"]
    expected = evaluate(both[0], manager)["results"]
    for task in SAMPLERS:
        assert results[task]["acc,none"] == expected[task]["acc,none"]
        assert results[task]["acc_norm,none"] == expected[task]["acc_norm,none"]
