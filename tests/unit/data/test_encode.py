"""Questions in tokens: one beginning, only the text is cut, nothing of it is special, answers are told apart."""

import json

import pytest

from bench.config.cards import Prompt, TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.data.prompts.encode import Asker
from bench.data.prompts.few_shot import Shots
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


def asker(tokenizer=None, *, family="decoder", prompt=PROMPT, chat=False, learns=False, labels=LABELS, **options):
    tokenizer = tokenizer or trained(family)
    made = Renderer(prompt, tokenizer, chat=chat, trained=learns)
    wording = task.wording(prompt, labels, options.pop("multi_label", False))
    options.setdefault("max_length", 200)
    return Asker(tokenizer=tokenizer, renderer=made, wording=wording, family=family, **options)


def test_a_question_and_its_answers():
    asking = asker()
    features, cut = asking.questions(ROWS)
    assert cut == 0
    for feature, row in zip(features, ROWS, strict=True):
        whole = f"Judge each review.\n\nReview: {row['text']}\nSentiment:"
        assert feature["input_ids"] == asking.tokenizer(whole)["input_ids"]
        assert feature["labels"] == row["label"]
        for label, rest in zip(LABELS, feature["rests"], strict=True):
            assert feature["trunk"] + rest == asking.tokenizer(f"{whole} {label}")["input_ids"]


@pytest.mark.parametrize("template", [INST, TURNS])
def test_exactly_one_beginning_in_a_chat(template):
    tokenizer = tokenizer_with(template)
    features, _ = asker(tokenizer, chat=True, max_length=500).questions(ROWS)
    for feature in features:
        assert feature["input_ids"].count(tokenizer.bos_token_id) == 1
        assert feature["input_ids"][0] == tokenizer.bos_token_id
    text = tokenizer.decode(features[0]["input_ids"])
    assert ("[/inst]" if template == INST else "<|turn|>") in text


def test_special_tokens_of_a_template_are_single_tokens_and_those_of_a_text_are_not():
    tokenizer = tokenizer_with(TURNS)
    rows = [{**ROWS[0], "text": "I <|end|> the </s> film <s>"}, ROWS[1]]
    asking = asker(tokenizer, chat=True, max_length=500)
    features, _ = asking.questions(rows)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [feature["input_ids"].count(end) for feature in features] == [1, 1]
    assert [feature["input_ids"].count(tokenizer.eos_token_id) for feature in features] == [0, 0]
    assert asking.notes == ["1 texts spell out a special token; a space was put into it"]


def test_special_tokens_spelt_out_in_a_plain_text_are_text():
    for family in KINDS:
        asking = asker(family=family)
        features, _ = asking.questions([{**ROWS[0], "text": "a </s> b <s> <pad> c"}, ROWS[1]])
        ids = features[0]["input_ids"]
        ends = 1 if family == "encoder_decoder" else 0
        assert ids.count(asking.tokenizer.eos_token_id) == ends
        assert asking.tokenizer.pad_token_id not in ids


def test_a_second_beginning_is_refused():
    tokenizer = tokenizer_with("{{ bos_token }}" + INST)
    with pytest.raises(SetupError, match="holds 2 beginning-of-text tokens"):
        asker(tokenizer, chat=True, max_length=500).questions(ROWS)


@pytest.mark.parametrize("learns", [False, True])
def test_only_the_text_is_cut(learns):
    rows = [{**ROWS[0], "text": "the room was clean and the staff were friendly " * 30}, *ROWS[1:]]
    asking = asker(max_length=60, learns=learns)
    features, cut = (asking.lessons if learns else asking.questions)(rows)
    assert cut == 1
    whole = asker(max_length=2000, learns=learns)
    others, _ = (whole.lessons if learns else whole.questions)(rows)
    assert [feature["input_ids"] for feature in features[1:]] == [feature["input_ids"] for feature in others[1:]]
    ids = features[0]["input_ids"]
    text = asking.tokenizer.decode(ids)
    assert text.startswith("<s> judge each review.\n\nreview: the room was clean")
    longest = max(len(rest) for rest in asking.questions(rows)[0][0]["rests"]) + len(asking.end_ids)
    if learns:
        assert text.endswith("sentiment: bad</s>")
        assert 60 - longest <= len(ids) <= 60
    else:
        assert text.endswith("sentiment:")
        assert 60 - longest - 2 <= len(ids) <= 60 - longest


def test_room_is_kept_for_what_is_written():
    rows = [{**ROWS[0], "text": "clean " * 300}]
    features, cut = asker(max_length=80, room=20).questions(rows)
    assert cut == 1
    assert 57 <= len(features[0]["input_ids"]) <= 60


def test_a_prompt_without_room_for_its_text():
    with pytest.raises(SetupError, match=r"of e0 does not fit max_length 10: the question and \d+ tokens kept"):
        asker(max_length=10).questions(ROWS)
    shots = Shots(ROWS, LABELS, 3, seed=0)
    with pytest.raises(SetupError, match=r"its 3 shots, the question and \d+ tokens kept .* or fewer shots"):
        asker(max_length=60, shots=shots).questions([{**ROW, "id": "q"} for ROW in ROWS])


def test_shots_stand_before_every_question():
    shots = Shots(ROWS, LABELS, 3, seed=0)
    fixed = asker(shots=shots, max_length=500).questions(ROWS)[0]
    texts = [trained().decode(feature["input_ids"]) for feature in fixed]
    assert {text.count("sentiment:") for text in texts} == {4}
    assert len({text.split("review:")[1] for text in texts}) == 1
    each = asker(shots=shots, per_example=True, max_length=500).questions(ROWS)[0]
    assert len({trained().decode(feature["input_ids"]).split("review:")[1] for feature in each}) > 1


@pytest.mark.parametrize("per_example", [False, True])
def test_the_same_prompts_in_any_order_and_with_any_limit(per_example):
    def hashes(rows):
        asking = asker(shots=Shots(ROWS, LABELS, 3, seed=0), per_example=per_example, max_length=500)
        features, _ = asking.questions(rows)
        return {row["id"]: feature["prompt_hash"] for row, feature in zip(rows, features, strict=True)}

    whole = hashes(ROWS)
    assert len(set(whole.values())) == len(ROWS)
    assert hashes(ROWS[::-1]) == whole
    assert hashes(ROWS[2:4]) == {row["id"]: whole[row["id"]] for row in ROWS[2:4]}
    assert hashes(ROWS[5:]) == {ROWS[5]["id"]: whole[ROWS[5]["id"]]}


def test_the_hash_of_a_prompt_covers_its_answers():
    words = PROMPT.model_copy(update={"answers": {"bad": "poor"}})
    one, other = (asker(prompt=prompt).questions(ROWS)[0][0] for prompt in (PROMPT, words))
    assert one["input_ids"] == other["input_ids"]
    assert one["prompt_hash"] != other["prompt_hash"]


def test_an_answer_that_begins_another_is_scored_with_its_end():
    labels = ("good", "good film", "bad")
    asking = asker(labels=labels)
    assert asking.ended
    assert "the answer 'good' begins 'good film'" in asking.notes[0]
    features, _ = asking.questions(ROWS)
    end = asking.end_ids
    assert end
    rests = features[0]["rests"]
    assert all(rest[-len(end) :] == end for rest in rests)
    assert rests[1][: len(rests[0])] != rests[0]


def test_answers_with_the_same_tokens_are_refused():
    with pytest.raises(SetupError, match="'good' and 'GOOD' have the same tokens"):
        asker(labels=("good", "GOOD", "bad"))


def test_a_lesson_is_the_question_the_answer_and_its_end():
    asking = asker(learns=True)
    features, cut = asking.lessons(ROWS)
    questions, _ = asker(learns=True).questions(ROWS)
    assert cut == 0
    for lesson, question, row in zip(features, questions, ROWS, strict=True):
        answer = question["rests"][row["label"]] + [asking.tokenizer.eos_token_id]
        assert lesson["input_ids"] == question["trunk"] + answer
        assert lesson["token_labels"] == [-100] * len(question["trunk"]) + answer


@pytest.mark.parametrize(("template", "end"), [(INST, "</s>"), (TURNS, "<|end|>")])
def test_a_chat_lesson_ends_with_its_own_end_of_turn(template, end):
    tokenizer = tokenizer_with(template)
    features, _ = asker(tokenizer, chat=True, learns=True, max_length=500).lessons(ROWS)
    for feature, row in zip(features, ROWS, strict=True):
        assert feature["input_ids"][-1] == tokenizer.convert_tokens_to_ids(end)
        learned = [token for token in feature["token_labels"] if token != -100]
        assert tokenizer.decode(learned[:-1]).strip() == LABELS[row["label"]]


def test_the_end_is_learned_where_it_is_also_the_padding():
    tokenizer = trained()
    tokenizer.pad_token = tokenizer.eos_token
    features, _ = asker(tokenizer, learns=True).lessons(ROWS)
    assert all(feature["token_labels"][-1] == tokenizer.eos_token_id for feature in features)


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer():
    asking = asker(family="encoder_decoder", learns=True)
    tokenizer = asking.tokenizer
    questions, _ = asking.questions(ROWS)
    lessons, _ = asking.lessons(ROWS)
    for question, lesson, row in zip(questions, lessons, ROWS, strict=True):
        assert question["input_ids"][-1] == tokenizer.eos_token_id
        assert lesson["input_ids"] == question["input_ids"] == question["trunk"]
        assert lesson["token_labels"][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(lesson["token_labels"][:-1]) == LABELS[row["label"]]
        assert [tokenizer.decode(rest) for rest in question["rests"]] == list(LABELS)


def test_several_labels_are_one_answer():
    rows = [{**ROWS[0], "label": [1, 0, 1]}, {**ROWS[1], "label": [0, 0, 0]}]
    asking = asker(learns=True, multi_label=True)
    features, _ = asking.lessons(rows)
    learned = [[token for token in feature["token_labels"] if token != -100] for feature in features]
    assert [asking.tokenizer.decode(tokens[:-1]).strip() for tokens in learned] == ["bad, mixed", "none"]


def test_a_beginning_that_the_tokenizer_has_but_does_not_add_is_noted():
    asking = asker(real("mistral-v1"), max_length=400)
    asking.questions(ROWS)
    assert asking.notes == ["prompts begin without '<s>': the tokenizer has it, and does not add it"]


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
    shots = Shots(rows[:40], LABELS[:2], number, seed=0) if number else None
    asking = asker(tokenizer, labels=LABELS[:2], shots=shots, max_length=400)
    features, _ = asking.questions(rows[40:])
    for feature, row in zip(features, rows[40:], strict=True):
        ids = feature["input_ids"]
        assert (ids[0] == tokenizer.bos_token_id) == begins
        assert ids.count(tokenizer.bos_token_id) == int(begins)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.count("Sentiment:") == number + 1
        assert text.endswith(f"Review: {row['text']}\nSentiment:")
        answers = [tokenizer.decode(feature["trunk"] + rest, skip_special_tokens=True) for rest in feature["rests"]]
        assert answers == [f"{text} {label}" for label in LABELS[:2]]
    lessons, _ = asker(tokenizer, labels=LABELS[:2], learns=True, max_length=400).lessons(rows)
    assert all(lesson["token_labels"][-1] == tokenizer.eos_token_id for lesson in lessons)
