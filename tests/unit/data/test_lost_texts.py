"""data/lost_texts.py: texts and answers that are cut away, and positions of other words than the answers."""

import pytest

from bench.config.cards import TokenizerCard
from bench.data import lost_texts, windows
from bench.data import tokenizer as tokenizers

PASSAGE = (
    "The survey of 1987 was led by Marta Nowak, who spent ten winters on the Baltic coast; her team of 23 people "
    "measured the cliffs near Jastrzębia Góra, and found that they lose 84 cm of rock each year, most of it in March."
)
ASKED = [
    ("Who led the survey?", "Marta Nowak"), ("When was it?", "1987"), ("How many people?", "23"),
    ("How much rock is lost?", "84 cm"), ("Where?", "near Jastrzębia Góra"), ("In which month?", "March"),
]  # fmt: skip


def rows(asked=ASKED):
    return [
        {
            "id": str(number),
            "text": PASSAGE,
            "text_pair": question,
            "answers": [answer] if answer else [],
            "answer_starts": [PASSAGE.index(answer)] if answer else [],
        }
        for number, (question, answer) in enumerate(asked)
    ]


def made(kind, asked=ASKED, max_length=64):
    texts = [PASSAGE, *(question for question, _ in asked)]
    tokenizer = tokenizers.train(TokenizerCard(train=kind, vocab_size=300), "encoder", texts)
    given = rows(asked)
    return given, windows.make_windows(given, tokenizer, max_length, 16, positions=True).features


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_positions_of_answers_are_taken_for_what_they_are(kind):
    assert lost_texts.positions(*made(kind)) is None
    assert lost_texts.positions(*made(kind, [*ASKED, ("Who paid?", "")], max_length=256)) is None
    assert lost_texts.positions([], []) is None


def test_characters_that_are_taken_for_tokens_are_found():
    given, features = made("wordpiece", max_length=256)
    for feature, row in zip(features, given, strict=True):
        start = row["answer_starts"][0]
        feature["start_positions"], feature["end_positions"] = start, start + len(row["answers"][0])
    past = sum(feature["end_positions"] >= feature["context_end"] for feature in features)
    past += sum(feature["start_positions"] < feature["context_start"] for feature in features)
    found = lost_texts.positions(given, features)
    assert found.code == "offsets_not_tokens"
    assert 0 < past < 6
    assert found.sentence == (
        f"train: 6 of 6 positions to learn (100%) are not those of the answer: {past} lie outside the text's tokens, "
        f"{6 - past} mark other words"
    )


def test_a_span_of_more_words_than_the_answer_is_another_one():
    given, features = made("wordpiece", max_length=256)
    features[1]["end_positions"] += 3
    found = lost_texts.positions(given, features)
    assert "1 of 6 positions to learn (17%) are not those of the answer: 0 lie outside" in found.sentence


def test_many_texts_that_are_cut_are_a_warning():
    found = lost_texts.texts_cut({"train": (260, 1000), "test": (190, 1000), "dev": (50, 50)}, "texts", 128)
    assert (found.code, found.sentence) == (
        "texts_cut",
        "texts cut to max_length 128 tokens: train 260 of 1,000 (26%); dev 50 of 50 (100%)",
    )
    assert lost_texts.texts_cut({"train": (190, 1000), "test": (0, 0)}, "texts", 128) is None


def test_few_answers_that_are_cut_are_a_warning():
    found = lost_texts.answers_cut("test", 60, 1000, "have more tokens than prompting.max_new_tokens, 8")
    assert (found.code, found.sentence) == (
        "answers_cut",
        "test: 60 of 1,000 answers (6%) have more tokens than prompting.max_new_tokens, 8",
    )
    assert lost_texts.answers_cut("test", 40, 1000, "are gone") is None
    assert lost_texts.answers_cut("test", 0, 0, "are gone") is None


def test_texts_without_a_known_word_are_a_warning_where_they_are_many():
    found = lost_texts.without_terms("test", 20, 200)
    assert (found.code, found.sentence) == (
        "no_known_terms",
        "test: 20 of 200 texts (10%) hold no term of the training texts, and all get the same answer",
    )
    assert lost_texts.without_terms("test", 19, 200) is None
    assert lost_texts.without_terms("test", 0, 0) is None
