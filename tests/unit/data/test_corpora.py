"""data/builtin/corpora.py: the same bytes for everyone, labels that follow from the text, and no leaks."""

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

from bench.data.builtin import corpora
from bench.data.builtin import endings as endings_module
from bench.data.builtin import passages as passages_module
from bench.errors import DataError

SPLITS = ("train", "validation", "test")
# A change of a grammar changes every score that was ever measured on it, so it must not happen by accident.
PINNED = {
    "reviews": "30aef54915a8b414285d9daae6fc84ef0ad9bbe3488fce6ef40cf6daed120c96",
    "posts": "fc5bb998769ce6fee93a0d7bea7db6d3396754bd93ddb9d93a4a63ac97590890",
    "passages": "06332a8f28fb63319d4d452e4e33ddae9194913b9d1c948ea357a0df8b48d782",
    "passages_v2": "2d58ae6755ab3c116f41a92319a0fe054f56c840a2ebf95e9d152bf57c5f0f6a",
    "ratings": "8b9bb6fd81271e8dff204291255960558bd78a095b34d8c3fa2b4cfa2ca217a8",
    "notices": "b052fe36b4ea132900e87f23fced88f3781e8572868dc07301e211e2d25eb17d",
    "endings": "ef6f06ce65833330f07c4b66273b03b1444198aedad0a0238db7fe23699aeb88",
    "sums": "3214a599ac0eb4856786721feb0e15a4e8dacc018a9b07edabf564c1701c1f29",
    "chats": "39cceed8a476f2c2a14f7f3c663c52c4f16f2705bda89705f69c96d2204d0036",
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


@pytest.fixture(scope="module", params=["passages", "passages_v2"])
def either(request, generated):
    """The passages of one of the two kinds."""
    return generated[request.param]


def every_row(splits):
    return [row for rows in splits.values() for row in rows]


def normalised(text):
    return " ".join(text.lower().split())


# ---------------------------------------------------------------- all of them


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
        key = {"sums": "question", "chats": "messages", "notices": "tokens"}.get(name, "text")
        key = "context" if name.startswith("passages") else key
        assert {str(row[key]) for row in other[split]} != {str(row[key]) for row in first[split]}


@pytest.mark.parametrize("name", corpora.NAMES)
def test_sizes_and_ids(generated, name):
    sizes = [800, 80, 80] if name.startswith("passages") else [1600, 200, 400]
    assert {split: len(rows) for split, rows in generated[name].items()} == dict(zip(SPLITS, sizes, strict=True))
    for split, rows in generated[name].items():
        assert [row["id"] for row in rows] == [f"{name}-{split}-{number:05d}" for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize("name", corpora.NAMES)
def test_a_split_depends_on_no_other_and_a_smaller_one_is_a_prefix(generated, name):
    fewer = corpora.generate(name, sizes={"train": 31, "validation": 0, "test": 57})
    assert {split: len(rows) for split, rows in fewer.items()} == {"train": 31, "validation": 0, "test": 57}
    assert fewer["train"] == generated[name]["train"][:31]
    assert fewer["test"] == generated[name]["test"][:57]
    assert corpora.generate(name, sizes={"test": 57})["validation"] == generated[name]["validation"]


def text_of(row):
    return normalised(row["text"] if "text" in row else " ".join(row["tokens"]))


@pytest.mark.parametrize("name", ["reviews", "posts", "ratings", "notices", "endings"])
def test_no_text_occurs_twice(generated, name):
    texts = Counter(text_of(row) for row in every_row(generated[name]))
    assert texts.most_common(1)[0][1] == 1
    # Not even the splits of different seeds share a text.
    others = {text_of(row) for row in corpora.generate(name, seed=1)["train"]}
    assert not others & {text_of(row) for row in generated[name]["test"]}


@pytest.mark.parametrize("name", corpora.NAMES)
def test_no_symbol_of_the_grammar_and_no_odd_character_is_left(generated, name):
    allowed = set(string.printable) - set("{}[]|\n\t\r\x0b\x0c")
    for row in every_row(generated[name]):
        texts = [row[key] for key in ("text", "title", "context", "question") if key in row]
        for text in [*texts, *row.get("tokens", ())]:
            assert set(text) <= allowed
            assert text == " ".join(text.split())


def test_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(DataError, match=r"no built-in corpus 'review'\. Did you mean 'reviews'\?"):
        corpora.generate("review")
    with pytest.raises(
        DataError, match="Known: chats, endings, notices, passages, passages_v2, posts, ratings, reviews"
    ):
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


def test_passages_have_the_flat_form_and_exact_offsets(either):
    for row in every_row(either):
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
        subject = f"the {row['title'][0].lower()}{row['title'][1:]}"
        assert subject in row["context"].replace("The ", "the ")
        assert subject in row["question"]


def test_no_title_and_no_context_is_in_two_splits(either):
    for key in ("title", "context"):
        values = {split: {normalised(row[key]) for row in rows} for split, rows in either.items()}
        assert not values["train"] & values["validation"]
        assert not values["train"] & values["test"]
        assert not values["validation"] & values["test"]


def words_in(text):
    return re.findall(r"\w+", text.lower())


def test_the_language_is_small_and_contexts_are_short(either):
    rows = every_row(either)
    assert len({word for row in rows for word in words_in(row["context"] + " " + row["question"])}) < 350
    assert max(len(words_in(row["context"])) for row in rows) < 80
    # A tiny model does not know a word that it never met.
    met = {word for row in either["train"] for word in words_in(row["context"] + " " + row["question"])}
    golds = {word for row in either["test"] for text in row["answers"]["text"] for word in words_in(text)}
    assert len(golds - met) <= 2


def test_articles_have_two_paragraphs_and_paragraphs_different_questions(either):
    contexts = {}
    for row in either["train"]:
        contexts.setdefault(row["context"], []).append(row)
    titles = Counter(rows[0]["title"] for rows in contexts.values())
    # The last article may be cut off by the asked size.
    assert set(list(titles.values())[:-1]) == {2}
    for rows in contexts.values():
        assert len({row["title"] for row in rows}) == 1
        assert len({row["question"] for row in rows}) == len(rows) <= 3
        assert len(re.findall(r"\.", rows[0]["context"])) == 5


def test_every_fact_is_asked_for_in_each_wording(either):
    asked = Counter(re.sub(r"the [a-z]+ of [A-Z][a-z]+", "{name}", row["question"]) for row in either["train"])
    assert set(asked) == {question for _, *questions in passages_module._FACTS for question in questions}
    assert min(asked.values()) >= 10


def test_all_questions_of_the_one_and_two_in_three_of_the_other_have_an_answer(generated):
    for split in SPLITS:
        assert all(row["answers"]["text"] for row in generated["passages"][split])
        rows = generated["passages_v2"][split]
        assert sum(not row["answers"]["text"] for row in rows) == pytest.approx(len(rows) / 3, abs=1)


def test_a_paragraph_does_not_state_what_its_question_without_an_answer_wants(generated):
    stems = {
        question: re.split(r"[\[{]", statement)[0].strip()
        for statement, *questions in passages_module._FACTS
        for question in questions
    }
    for row in every_row(generated["passages_v2"]):
        question = re.sub(r"the [a-z]+ of [A-Z][a-z]+", "{name}", row["question"])
        # "It is closed on" must not count as "It is", which is followed by a height.
        stated = [part.strip() for part in row["context"].split(".")]
        stem = stems[question] + (r" \d" if stems[question] == "It is" else "")
        assert any(re.match(stem, part) for part in stated) == bool(row["answers"]["text"]), row


def test_several_right_answers_outside_training_only(either):
    assert all(len(row["answers"]["text"]) <= 1 for row in either["train"])
    for split in ("validation", "test"):
        several = [row["answers"]["text"] for row in either[split] if len(row["answers"]["text"]) > 1]
        assert 0.1 < len(several) / len(either[split]) < 0.7
        assert all(texts[0] in longer for texts in several for longer in texts[1:])


# ---------------------------------------------------------------- ratings and notices

GRADES = {
    word: grade
    for grade, words in {
        1: "awful dreadful terrible useless",
        2: "weak dull poor clumsy",
        3: "average ordinary passable usual",
        4: "good pleasant solid nice",
        5: "superb brilliant outstanding perfect",
    }.items()
    for word in words.split()
}


def test_a_rating_follows_from_its_words(generated):
    scores = Counter()
    for row in every_row(generated["ratings"]):
        grades = []
        for clause in row["text"].split("."):
            found = [GRADES[word] for word in re.findall(r"\w+", clause.lower()) if word in GRADES]
            grades += found * (2 if "above all" in clause.lower() else 1)
        assert row["score"] == round(sum(grades) / len(grades), 2)
        scores[round(row["score"])] += 1
    assert min(scores.values()) > 200  # of 2,200: no part of the scale is rare


def test_notices_are_tagged_as_bio_and_names_need_their_words(generated):
    kinds = {}
    for row in every_row(generated["notices"]):
        assert len(row["tokens"]) == len(row["tags"])
        for before, tag, word in zip(["O", *row["tags"]], row["tags"], row["tokens"], strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
            kinds.setdefault(word, set()).add(tag[2:])
    assert {"PER", "LOC", "ORG"} <= kinds["Hale"]
    assert sum(len(found) > 2 for found in kinds.values()) >= 20


# ---------------------------------------------------------------- endings


def test_of_the_endings_of_a_story_one_follows_from_it(generated):
    stories = {what: set(endings_module._options(endings)) for what, endings in endings_module._STORIES.items()}
    assert not set.intersection(*stories.values())
    counts, places = Counter(), Counter()
    for row in every_row(generated["endings"]):
        right = [number for number, text in enumerate(row["choices"]) for what in stories
                 if what in row["text"] and text in stories[what]]  # fmt: skip
        assert right == [row["label"]]
        assert len(set(row["choices"])) == len(row["choices"])
        counts[len(row["choices"])] += 1
        places[row["label"] / (len(row["choices"]) - 1)] += 1
    assert set(counts) == {2, 3, 4, 5}
    assert abs(places[0.0] - places[1.0]) < 0.1 * places[0.0]  # no place is favoured
