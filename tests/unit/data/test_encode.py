"""Prompts in tokens: one beginning, only the text is cut, nothing of it is special, answers are distinguished."""

import json

import pytest

from bench.config.cards import Prompt, TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.few_shot import ShotSampler
from bench.data.prompts.template import Renderer
from bench.errors import SetupError
from bench.tasks import text_classification as task
from tests.helpers.chat_templates import INST, TURNS, tokenizer_with
from tests.helpers.real_tokenizers import SHARED, real
from tests.helpers.tiny_cards import TEXTS

LABELS = ("bad", "good", "mixed")
PROMPT = Prompt(template="Review: {text}\nSentiment:", instruction="Judge each review.")
ROWS = [{"id": f"e{number}", "text": text, "text_pair": None, "label": number % 3} for number, text in enumerate(TEXTS)]
KINDS = {"decoder": "bpe", "encoder_decoder": "unigram"}


def trained(family="decoder"):
    return tokenizers.train(
        TokenizerCard(train=KINDS[family], vocab_size=600), family, [*TEXTS, "review: sentiment: mixed"]
    )


def encoder(tokenizer=None, *, family="decoder", prompt=PROMPT, chat=False, learns=False, labels=LABELS, **options):
    tokenizer = tokenizer or trained(family)
    made = Renderer(prompt, tokenizer, chat=chat, trained=learns)
    wording = task.wording(prompt, labels, options.pop("multi_label", False))
    options.setdefault("max_length", 200)
    return PromptEncoder(tokenizer=tokenizer, renderer=made, wording=wording, family=family, **options)


def test_a_question_and_its_answers():
    prompt_encoder = encoder()
    features, cut = prompt_encoder.encode_prompts(ROWS)
    assert cut == 0
    for feature, row in zip(features, ROWS, strict=True):
        whole = f"Judge each review.\n\nReview: {row['text']}\nSentiment:"
        assert feature["input_ids"] == prompt_encoder.tokenizer(whole)["input_ids"]
        assert feature["labels"] == row["label"]
        for label, rest in zip(LABELS, feature["continuation_ids"], strict=True):
            assert feature["prompt_ids"] + rest == prompt_encoder.tokenizer(f"{whole} {label}")["input_ids"]


@pytest.mark.parametrize("template", [INST, TURNS])
def test_exactly_one_beginning_in_a_chat(template):
    tokenizer = tokenizer_with(template)
    features, _ = encoder(tokenizer, chat=True, max_length=500).encode_prompts(ROWS)
    for feature in features:
        assert feature["input_ids"].count(tokenizer.bos_token_id) == 1
        assert feature["input_ids"][0] == tokenizer.bos_token_id
    text = tokenizer.decode(features[0]["input_ids"])
    assert ("[/inst]" if template == INST else "<|turn|>") in text


def test_special_tokens_of_a_template_are_single_tokens_and_those_of_a_text_are_not():
    tokenizer = tokenizer_with(TURNS)
    rows = [{**ROWS[0], "text": "I <|end|> the </s> film <s>"}, ROWS[1]]
    prompt_encoder = encoder(tokenizer, chat=True, max_length=500)
    features, _ = prompt_encoder.encode_prompts(rows)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [feature["input_ids"].count(end) for feature in features] == [1, 1]
    assert [feature["input_ids"].count(tokenizer.eos_token_id) for feature in features] == [0, 0]
    assert prompt_encoder.notes == ["1 texts spell out a special token; a space was put into it"]


def test_special_tokens_spelt_out_in_a_plain_text_are_text():
    for family in KINDS:
        prompt_encoder = encoder(family=family)
        features, _ = prompt_encoder.encode_prompts([{**ROWS[0], "text": "a </s> b <s> <pad> c"}, ROWS[1]])
        ids = features[0]["input_ids"]
        ends = 1 if family == "encoder_decoder" else 0
        assert ids.count(prompt_encoder.tokenizer.eos_token_id) == ends
        assert prompt_encoder.tokenizer.pad_token_id not in ids


def test_a_second_beginning_is_refused():
    tokenizer = tokenizer_with("{{ bos_token }}" + INST)
    with pytest.raises(SetupError, match="has 2 beginning-of-text tokens"):
        encoder(tokenizer, chat=True, max_length=500).encode_prompts(ROWS)


@pytest.mark.parametrize("learns", [False, True])
def test_only_the_text_is_cut(learns):
    rows = [{**ROWS[0], "text": "the room was clean and the staff were friendly " * 30}, *ROWS[1:]]
    prompt_encoder = encoder(max_length=60, learns=learns)
    features, cut = (prompt_encoder.encode_train_examples if learns else prompt_encoder.encode_prompts)(rows)
    assert cut == 1
    whole = encoder(max_length=2000, learns=learns)
    others, _ = (whole.encode_train_examples if learns else whole.encode_prompts)(rows)
    assert [feature["input_ids"] for feature in features[1:]] == [feature["input_ids"] for feature in others[1:]]
    ids = features[0]["input_ids"]
    text = prompt_encoder.tokenizer.decode(ids)
    assert text.startswith("<s> judge each review.\n\nreview: the room was clean")
    longest = max(len(rest) for rest in prompt_encoder.encode_prompts(rows)[0][0]["continuation_ids"]) + len(
        prompt_encoder.end_ids
    )
    if learns:
        assert text.endswith("sentiment: bad</s>")
        assert 60 - longest <= len(ids) <= 60
    else:
        assert text.endswith("sentiment:")
        assert 60 - longest - 2 <= len(ids) <= 60 - longest


def test_room_is_kept_for_what_is_written():
    rows = [{**ROWS[0], "text": "clean " * 300}]
    features, cut = encoder(max_length=80, max_new_tokens=20).encode_prompts(rows)
    assert cut == 1
    assert 57 <= len(features[0]["input_ids"]) <= 60


def test_a_prompt_without_room_for_its_text():
    with pytest.raises(SetupError, match=r"of e0 does not fit max_length 10: the question and \d+ tokens kept"):
        encoder(max_length=10).encode_prompts(ROWS)
    shots = ShotSampler(ROWS, LABELS, 3, seed=0)
    with pytest.raises(SetupError, match=r"its 3 shots, the question and \d+ tokens kept .* or use fewer shots"):
        encoder(max_length=60, shots=shots).encode_prompts([{**ROW, "id": "q"} for ROW in ROWS])


def test_shots_stand_before_every_question():
    shots = ShotSampler(ROWS, LABELS, 3, seed=0)
    fixed = encoder(shots=shots, max_length=500).encode_prompts(ROWS)[0]
    texts = [trained().decode(feature["input_ids"]) for feature in fixed]
    assert {text.count("sentiment:") for text in texts} == {4}
    assert len({text.split("review:")[1] for text in texts}) == 1
    each = encoder(shots=shots, per_example=True, max_length=500).encode_prompts(ROWS)[0]
    assert len({trained().decode(feature["input_ids"]).split("review:")[1] for feature in each}) > 1


@pytest.mark.parametrize("per_example", [False, True])
def test_the_same_prompts_in_any_order_and_with_any_limit(per_example):
    def hashes(rows):
        prompt_encoder = encoder(shots=ShotSampler(ROWS, LABELS, 3, seed=0), per_example=per_example, max_length=500)
        features, _ = prompt_encoder.encode_prompts(rows)
        return {row["id"]: feature["prompt_hash"] for row, feature in zip(rows, features, strict=True)}

    whole = hashes(ROWS)
    assert len(set(whole.values())) == len(ROWS)
    assert hashes(ROWS[::-1]) == whole
    assert hashes(ROWS[2:4]) == {row["id"]: whole[row["id"]] for row in ROWS[2:4]}
    assert hashes(ROWS[5:]) == {ROWS[5]["id"]: whole[ROWS[5]["id"]]}


def test_the_hash_of_a_prompt_covers_its_answers():
    words = PROMPT.model_copy(update={"answers": {"bad": "poor"}})
    one, other = (encoder(prompt=prompt).encode_prompts(ROWS)[0][0] for prompt in (PROMPT, words))
    assert one["input_ids"] == other["input_ids"]
    assert one["prompt_hash"] != other["prompt_hash"]


def test_an_answer_that_begins_another_is_scored_with_its_end():
    labels = ("good", "good film", "bad")
    prompt_encoder = encoder(labels=labels)
    assert prompt_encoder.scores_end
    assert "the answer 'good' is a prefix of 'good film'" in prompt_encoder.notes[0]
    features, _ = prompt_encoder.encode_prompts(ROWS)
    end = prompt_encoder.end_ids
    assert end
    continuations = features[0]["continuation_ids"]
    assert all(rest[-len(end) :] == end for rest in continuations)
    assert continuations[1][: len(continuations[0])] != continuations[0]


def test_answers_with_the_same_tokens_are_refused():
    with pytest.raises(SetupError, match="'good' and 'GOOD' have the same tokens"):
        encoder(labels=("good", "GOOD", "bad"))


def test_a_lesson_is_the_question_the_answer_and_its_end():
    prompt_encoder = encoder(learns=True)
    features, cut = prompt_encoder.encode_train_examples(ROWS)
    questions, _ = encoder(learns=True).encode_prompts(ROWS)
    assert cut == 0
    for example, question, row in zip(features, questions, ROWS, strict=True):
        answer = question["continuation_ids"][row["label"]] + [prompt_encoder.tokenizer.eos_token_id]
        assert example["input_ids"] == question["prompt_ids"] + answer
        assert example["token_labels"] == [-100] * len(question["prompt_ids"]) + answer


@pytest.mark.parametrize(("template", "end"), [(INST, "</s>"), (TURNS, "<|end|>")])
def test_a_chat_lesson_ends_with_its_own_end_of_turn(template, end):
    tokenizer = tokenizer_with(template)
    features, _ = encoder(tokenizer, chat=True, learns=True, max_length=500).encode_train_examples(ROWS)
    for feature, row in zip(features, ROWS, strict=True):
        assert feature["input_ids"][-1] == tokenizer.convert_tokens_to_ids(end)
        learned = [token for token in feature["token_labels"] if token != -100]
        assert tokenizer.decode(learned[:-1]).strip() == LABELS[row["label"]]


def test_the_end_is_learned_where_it_is_also_the_padding():
    tokenizer = trained()
    tokenizer.pad_token = tokenizer.eos_token
    features, _ = encoder(tokenizer, learns=True).encode_train_examples(ROWS)
    assert all(feature["token_labels"][-1] == tokenizer.eos_token_id for feature in features)


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer():
    prompt_encoder = encoder(family="encoder_decoder", learns=True)
    tokenizer = prompt_encoder.tokenizer
    questions, _ = prompt_encoder.encode_prompts(ROWS)
    examples, _ = prompt_encoder.encode_train_examples(ROWS)
    for question, example, row in zip(questions, examples, ROWS, strict=True):
        assert question["input_ids"][-1] == tokenizer.eos_token_id
        assert example["input_ids"] == question["input_ids"] == question["prompt_ids"]
        assert example["token_labels"][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(example["token_labels"][:-1]) == LABELS[row["label"]]
        assert [tokenizer.decode(rest) for rest in question["continuation_ids"]] == list(LABELS)


def test_several_labels_are_one_answer():
    rows = [{**ROWS[0], "label": [1, 0, 1]}, {**ROWS[1], "label": [0, 0, 0]}]
    prompt_encoder = encoder(learns=True, multi_label=True)
    features, _ = prompt_encoder.encode_train_examples(rows)
    learned = [[token for token in feature["token_labels"] if token != -100] for feature in features]
    assert [prompt_encoder.tokenizer.decode(tokens[:-1]).strip() for tokens in learned] == ["bad, mixed", "none"]


def test_a_beginning_that_the_tokenizer_has_but_does_not_add_is_noted():
    prompt_encoder = encoder(real("mistral-v1"), max_length=400)
    prompt_encoder.encode_prompts(ROWS)
    assert prompt_encoder.notes == [
        "prompts begin without '<s>': the tokenizer has this beginning-of-text token, and does not add it"
    ]


@pytest.mark.parametrize(("name", "begins"), [("mistral-v1", True), ("gpt2", False)])
@pytest.mark.parametrize("number", [0, 4])
def test_real_tokenizers_and_real_sentences(name, begins, number):
    # As Mistral's own tokenizer_config.json says, which is not among the files.
    tokenizer = real(name, add_bos_token=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with (SHARED / "data" / "sst2" / "train.jsonl").open(encoding="utf-8") as lines:
        found = [json.loads(next(lines)) for _ in range(80)]
    rows = [{"id": row["id"], "text": row["sentence"], "text_pair": None, "label": int(row["label"])} for row in found]
    shots = ShotSampler(rows[:40], LABELS[:2], number, seed=0) if number else None
    prompt_encoder = encoder(tokenizer, labels=LABELS[:2], shots=shots, max_length=400)
    features, _ = prompt_encoder.encode_prompts(rows[40:])
    for feature, row in zip(features, rows[40:], strict=True):
        ids = feature["input_ids"]
        assert (ids[0] == tokenizer.bos_token_id) == begins
        assert ids.count(tokenizer.bos_token_id) == int(begins)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.count("Sentiment:") == number + 1
        assert text.endswith(f"Review: {row['text']}\nSentiment:")
        answers = [
            tokenizer.decode(feature["prompt_ids"] + rest, skip_special_tokens=True)
            for rest in feature["continuation_ids"]
        ]
        assert answers == [f"{text} {label}" for label in LABELS[:2]]
    examples, _ = encoder(tokenizer, labels=LABELS[:2], learns=True, max_length=400).encode_train_examples(rows)
    assert all(example["token_labels"][-1] == tokenizer.eos_token_id for example in examples)


def test_a_lesson_can_be_the_whole_text():
    """`training.loss_on: all`: the same tokens as else, all of them learned; an encoder-decoder has only its answer."""
    answers, _ = encoder(learns=True).encode_train_examples(ROWS)
    whole, _ = encoder(learns=True, learns_prompt=True).encode_train_examples(ROWS)
    for one, other in zip(answers, whole, strict=True):
        assert other["token_labels"] == other["input_ids"] == one["input_ids"]
    written = [
        encoder(family="encoder_decoder", learns=True, learns_prompt=learns).encode_train_examples(ROWS)[0]
        for learns in (False, True)
    ]
    assert written[0] == written[1]
