"""bench/corpora.py: the same bytes for everyone, labels that follow from the text, and no leaks."""

import hashlib
import json
import random
import re
import string
from collections import Counter

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bench import corpora
from bench.errors import DataError

SPLITS = ("train", "validation", "test")
# A change of a grammar changes every score that was ever measured on it, so it must not happen by accident.
PINNED = {
    "reviews": "30aef54915a8b414285d9daae6fc84ef0ad9bbe3488fce6ef40cf6daed120c96",
    "posts": "fc5bb998769ce6fee93a0d7bea7db6d3396754bd93ddb9d93a4a63ac97590890",
    "passages": "0632d5a20f2d945e2a687d1b0916046ab9fee36186a857eb1ca7149a62e7d13b",
}
SMALL = {"train": 60, "validation": 20, "test": 20}


@pytest.fixture(scope="module")
def generated():
    return {name: corpora.generate(name) for name in corpora.NAMES}


@pytest.fixture(scope="module")
def reviews(generated):
    return generated["reviews"]


@pytest.fixture(scope="module")
def posts(generated):
    return generated["posts"]


@pytest.fixture(scope="module")
def passages(generated):
    return generated["passages"]


def every_row(splits):
    return [row for rows in splits.values() for row in rows]


def normalised(text):
    return " ".join(text.lower().split())


# ---------------------------------------------------------------- all three


@pytest.mark.parametrize("name", corpora.NAMES)
def test_seed_zero_is_pinned(generated, name):
    as_json = json.dumps(generated[name], ensure_ascii=True, sort_keys=True)
    assert hashlib.sha256(as_json.encode()).hexdigest() == PINNED[name]


@pytest.mark.parametrize("name", corpora.NAMES)
def test_equal_arguments_give_equal_rows_and_another_seed_others(name):
    first = corpora.generate(name, seed=3, sizes=SMALL)
    random.seed(99)  # the state of the module `random` must not matter
    assert corpora.generate(name, seed=3, sizes=SMALL) == first
    other = corpora.generate(name, seed=4, sizes=SMALL)
    for split in SPLITS:
        key = "context" if name == "passages" else "text"
        assert {row[key] for row in other[split]} != {row[key] for row in first[split]}


@pytest.mark.parametrize("name", corpora.NAMES)
def test_sizes_and_ids(generated, name):
    assert {split: len(rows) for split, rows in generated[name].items()} == {
        "train": 1600, "validation": 200, "test": 400
    }  # fmt: skip
    for split, rows in generated[name].items():
        assert [row["id"] for row in rows] == [f"{name}-{split}-{number:05d}" for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize("name", corpora.NAMES)
def test_a_split_depends_on_no_other_and_a_smaller_one_is_a_prefix(generated, name):
    fewer = corpora.generate(name, sizes={"train": 31, "validation": 0, "test": 57})
    assert {split: len(rows) for split, rows in fewer.items()} == {"train": 31, "validation": 0, "test": 57}
    assert fewer["train"] == generated[name]["train"][:31]
    assert fewer["test"] == generated[name]["test"][:57]
    assert corpora.generate(name, sizes={"test": 57})["validation"] == generated[name]["validation"]


@pytest.mark.parametrize("name", ["reviews", "posts"])
def test_no_text_occurs_twice(generated, name):
    texts = Counter(normalised(row["text"]) for row in every_row(generated[name]))
    assert texts.most_common(1)[0][1] == 1
    # Not even the splits of different seeds share a text.
    others = {normalised(row["text"]) for row in corpora.generate(name, seed=1)["train"]}
    assert not others & {normalised(row["text"]) for row in generated[name]["test"]}


@pytest.mark.parametrize("name", corpora.NAMES)
def test_no_symbol_of_the_grammar_and_no_odd_character_is_left(generated, name):
    allowed = set(string.printable) - set("{}[]|\n\t\r\x0b\x0c")
    for row in every_row(generated[name]):
        for text in (row[key] for key in ("text", "title", "context", "question") if key in row):
            assert set(text) <= allowed
            assert text == " ".join(text.split())


def test_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(DataError, match=r"no built-in corpus 'review'\. Did you mean 'reviews'\?"):
        corpora.generate("review")
    with pytest.raises(DataError, match="Known: passages, posts, reviews"):
        corpora.generate("imagenet")


def test_unknown_split_is_refused():
    with pytest.raises(DataError, match=r"'reviews' has no split 'tests'\. Did you mean 'test'\?"):
        corpora.generate("reviews", sizes={"tests": 10})


@pytest.mark.parametrize("size", [-1, 100_000, 1.5, True, "10", None])
def test_a_size_that_is_no_count_is_refused(size):
    with pytest.raises(DataError, match=f"size {size!r} of 'test' is not in 0 to 99999"):
        corpora.generate("posts", sizes={"test": size})


def test_more_rows_than_the_grammar_can_give_are_refused():
    with pytest.raises(DataError, match=r"'passages' has no new text for split 'validation' after \d+ rows"):
        corpora.generate("passages", sizes={"train": 0, "validation": 30_000, "test": 0})


# ---------------------------------------------------------------- reviews


def words_of(grammar):
    """The adjectives and verbs of one polarity."""
    return [option for key in ("same", "did_same") for option in re.split(r"[|\n]", grammar[key]) if option.strip()]


def ruling_part(sentence):
    """What is left of a sentence without the clauses that are overruled."""
    if re.match(r"(although|while) ", sentence):
        sentence = sentence.split(", ", 1)[1]
    sentence = re.split(r", though ", sentence)[0]
    return re.split(r", (?:but|yet) ", sentence)[-1]


def polarities(text):
    """+1 and -1 for each opinion that counts, read from the structure of the text alone."""
    signs = {word.strip(): 1 for word in words_of(corpora._GOOD)}
    signs |= {word.strip(): -1 for word in words_of(corpora._BAD)}
    word = "|".join(map(re.escape, sorted(signs, key=len, reverse=True)))
    found = []
    for sentence in text.lower().split("."):
        for clause in re.split(r" (?:and|but) ", ruling_part(sentence.strip())):
            turn = -1 if re.search(r"\b(?:not|never)\b", clause) else 1
            found += [turn * signs[match] for match in re.findall(rf"\b(?:{word})\b", clause)]
    return found


def test_reviews_are_balanced_at_every_length(reviews):
    for rows in reviews.values():
        signs = [1 if row["label"] == "positive" else -1 for row in rows]
        assert {row["label"] for row in rows} == {"negative", "positive"}
        assert all(abs(sum(signs[:size])) <= 1 for size in range(len(signs) + 1))
        # The order is no pattern: some neighbours of a pair differ from the pair before.
        assert len({tuple(signs[index : index + 2]) for index in range(0, len(signs), 2)}) == 2


def test_reviews_have_the_asked_shape(reviews):
    lengths = sorted(len(row["text"].split()) for row in every_row(reviews))
    assert (lengths[0] >= 6, lengths[-1] <= 60, lengths[-1] > 50) == (True, True, True)
    assert 19 < sum(lengths) / len(lengths) < 25
    # A long tail: the median lies below the mean.
    assert lengths[len(lengths) // 2] < sum(lengths) / len(lengths)
    assert all(set(row) == {"id", "text", "label"} for row in every_row(reviews))


def test_a_reader_of_the_structure_gets_every_review_right(reviews):
    for row in every_row(reviews):
        found = polarities(row["text"])
        assert set(found) == {1 if row["label"] == "positive" else -1}, row


@pytest.mark.parametrize("cue", [r"\b(not|never)\b", r", (but|yet) ", r"(?i)\b(although|while) ", r", though "])
def test_every_structure_occurs_with_both_labels(reviews, cue):
    labels = Counter(row["label"] for row in reviews["train"] if re.search(cue, row["text"]))
    assert min(labels.values()) > 10
    assert len(labels) == 2


def test_a_bag_of_words_learns_something_but_not_the_structure(reviews):
    bag_of_words = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=2000))
    train, test = (([row["text"] for row in rows], [row["label"] for row in rows])
                   for rows in (reviews["train"], reviews["test"]))  # fmt: skip
    bag_of_words.fit(*train)
    assert 0.68 <= bag_of_words.score(*test) <= 0.82


# ---------------------------------------------------------------- posts


def test_posts_have_known_labels_in_alphabetical_order(posts):
    assert tuple(sorted(corpora.EMOTIONS)) == corpora.EMOTIONS
    assert len(corpora.EMOTIONS) == 11
    for row in every_row(posts):
        assert set(row) == {"id", "text", "labels"}
        assert row["labels"] == sorted(set(row["labels"]))
        assert set(row["labels"]) <= set(corpora.EMOTIONS)
        assert 5 <= len(row["text"].split()) <= 30


def test_posts_have_several_labels_at_once_and_some_none(posts):
    numbers = Counter(len(row["labels"]) for row in posts["train"])
    shares = {number: count / 1600 for number, count in numbers.items()}
    assert 0.05 <= shares[0] <= 0.08
    assert shares[1] + shares[2] + shares[3] > 0.9
    assert shares[2] > 0.3
    assert max(shares) <= 4


def test_emotions_are_unequal_but_each_is_there(posts):
    for rows in posts.values():
        shares = {emotion: sum(emotion in row["labels"] for row in rows) / len(rows) for emotion in corpora.EMOTIONS}
        assert min(shares.values()) >= 0.01
        assert max(shares.values()) < 0.5
        assert max(shares.values()) > 4 * min(shares.values())


@pytest.mark.parametrize(("first", "second"), [("anger", "disgust"), ("joy", "optimism"), ("joy", "love")])
def test_emotions_have_companions(posts, first, second):
    rows = [row["labels"] for row in posts["train"]]
    share = sum(second in labels for labels in rows) / len(rows)
    with_first = [labels for labels in rows if first in labels]
    assert sum(second in labels for labels in with_first) / len(with_first) > 1.4 * share


def test_a_feeling_that_is_denied_is_no_label(posts):
    denied = 0
    for row in every_row(posts):
        for emotion, words in corpora._FEELINGS.items():
            for match in re.finditer(rf"(.{{0,20}})\b(?:{words})\b", row["text"]):
                is_denied = re.search(r"\b(?:not|not even|no longer|nobody here is) $", match[1]) is not None
                assert (emotion in row["labels"]) != is_denied, row
                denied += is_denied
    assert denied > 300


def test_posts_look_like_posts(posts):
    texts = [row["text"] for row in posts["train"]]
    for pattern, least in (
        (r"#\w+", 0.4),
        (r"^@\w+ ", 0.2),
        (r"[:;]['-]?[)(D/&O]|<3", 0.1),
        (r"https://example\.org/", 0.01),
    ):
        share = sum(bool(re.search(pattern, text)) for text in texts) / len(texts)
        assert least < share < 0.8, pattern
    urls = re.findall(r"\w+://([^/]*)", " ".join(texts))
    assert set(urls) == {"example.org"}


# ---------------------------------------------------------------- passages


def test_passages_have_the_flat_form_and_exact_offsets(passages):
    for row in every_row(passages):
        assert set(row) == {"id", "title", "context", "question", "answers"}
        answers = row["answers"]
        assert set(answers) == {"text", "answer_start"}
        assert len(answers["text"]) == len(answers["answer_start"]) == len(set(answers["text"]))
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert text
            assert row["context"][start : start + len(text)] == text
            # Whole words, so that an offset that slipped together with its text is seen.
            assert re.search(r"(?<!\w)$", row["context"][:start])
            assert re.match(r"(?!\w)", row["context"][start + len(text) :])
        assert row["question"].endswith("?")
        assert row["title"].removeprefix("River ") in row["context"]


def test_no_title_and_no_context_is_in_two_splits(passages):
    for key in ("title", "context"):
        values = {split: {normalised(row[key]) for row in rows} for split, rows in passages.items()}
        assert not values["train"] & values["validation"]
        assert not values["train"] & values["test"]
        assert not values["validation"] & values["test"]


def test_articles_have_paragraphs_and_paragraphs_have_different_questions(passages):
    contexts = {}
    for row in passages["train"]:
        contexts.setdefault(row["context"], []).append(row)
    titles = Counter(rows[0]["title"] for rows in contexts.values())
    # The last article may be cut off by the asked size.
    assert set(list(titles.values())[:-1]) == {3}
    for rows in contexts.values():
        assert len({row["title"] for row in rows}) == 1
        assert len({row["question"] for row in rows}) == len(rows)
    assert all(5 <= len(rows) <= 8 for rows in list(contexts.values())[:-1])


def test_about_a_third_of_the_questions_has_no_answer(passages):
    for rows in passages.values():
        assert 0.28 < sum(not row["answers"]["text"] for row in rows) / len(rows) < 0.4


def test_a_question_without_an_answer_is_answered_elsewhere_in_its_article(passages):
    answered = {(row["title"], row["question"]) for row in passages["train"] if row["answers"]["text"]}
    unanswered = {(row["title"], row["question"]) for row in passages["train"] if not row["answers"]["text"]}
    assert len(unanswered & answered) > 0.7 * len(unanswered)


# Kind of answer -> how a question for it begins, and what a paragraph that offers one contains.
KINDS = {
    "year": (r"^(When|In which year|In what year) ", r"\b1[6-9]\d\d\b"),
    "person": (r"^(Who|Whom|Which person) ", r"\bthe [a-z]+ [A-Z][a-z]+ [A-Z]"),
    "number": (r"^How ", r"\b\d{3}\b|(?i:three|four|five|seven|eight|nine|eleven|twelve|fourteen) [a-z]+"),
}


def test_the_paragraph_offers_an_answer_of_the_kind_that_a_question_without_one_wants(passages):
    asked = Counter()
    for row in every_row(passages):
        kind = next((kind for kind, (begin, _) in KINDS.items() if re.search(begin, row["question"])), None)
        if kind and not row["answers"]["text"]:
            asked[kind] += 1
            assert re.search(KINDS[kind][1], row["context"]), row
    assert min(asked[kind] for kind in KINDS) > 50


def sentence_around(context, position):
    return next(match[0] for match in re.finditer(r"[^.]+\.", context) if position < match.end())


def test_a_paragraph_does_not_state_what_its_question_without_an_answer_wants(passages):
    for rows in passages.values():
        stated = {
            (row["title"], row["question"]): sentence_around(row["context"], row["answers"]["answer_start"][0])
            for row in rows
            if row["answers"]["text"]
        }
        unanswered = [row for row in rows if not row["answers"]["text"]]
        assert not [row for row in unanswered if stated.get((row["title"], row["question"]), "?") in row["context"]]


def test_several_right_answers_outside_training_only(passages):
    assert all(len(row["answers"]["text"]) <= 1 for row in passages["train"])
    for split in ("validation", "test"):
        several = [row["answers"]["text"] for row in passages[split] if len(row["answers"]["text"]) > 1]
        assert 0.2 < len(several) / len(passages[split]) < 0.7
        assert all(texts[0] in longer for texts in several for longer in texts[1:])
