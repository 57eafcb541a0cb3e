"""Clean-up steps: pure functions of a text, in the order of the card."""

import importlib.util
import re
import sys
from types import SimpleNamespace

import pytest

from bench.config import cards
from bench.data import cleaning, dataset
from bench.errors import SetupError
from bench.evaluation import new_rows
from tests.helpers.cases import together


def cleaned(text, *names):
    for step in cleaning.steps(names):
        text = step(text)
    return text


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        ("strip", " \t\u00a0a  b\u2003\n", "a  b"),
        ("html_breaks", "a<br />b<BR>c<br/>d", "a\nb\nc\nd"),
        ("html_breaks", "R&amp;D &lt;b&gt; caf&eacute; &#128512; &amp;lt;", "R&D <b> café 😀 &lt;"),
        ("html_breaks", "1 < 2 & 3", "1 < 2 & 3"),
        ("handles", "@anna: hi @bob_2! (@żółw)", "@user: hi @user! (@user)"),
        ("handles", "mail me at anna@example.org", "mail me at anna@example.org"),
        ("handles", "5 @ 3 euros", "5 @ 3 euros"),
        ("urls", "see https://a.b/c?d=e#f and HTTP://X.Y now", "see http and http now"),
        ("urls", "www.example.org is down (www.a.b)", "http is down (http"),
        ("urls", "awww... so cute, awww.really", "awww... so cute, awww.really"),
        ("urls", "www... and shttp://x", "www... and shttp://x"),
        ("whitespace", "  a\r\n\tb\u00a0\u2009c\u3000 ", "a b c"),
        ("whitespace", "", ""),
        ("whitespace", "zero\u200bwidth", "zero\u200bwidth"),
    ],
)
def test_steps(step, text, expected):
    assert cleaned(text, step) == expected


@pytest.mark.parametrize("step", cleaning.STEPS)
@together("text", ["", "plain", "Zażółć gęślą jaźń", "😀👍🏽", "مرحبا", "e\u0301", "\ud800"])
def test_steps_leave_other_text_alone(step, text):
    assert cleaned(text, step) == text


def test_steps_are_taken_in_order():
    assert cleaned("a<br /> b", "html_breaks", "whitespace") == "a b"
    assert cleaned("a<br /> b", "whitespace", "html_breaks") == "a\n b"
    assert cleaned(" a ") == " a "


@pytest.mark.parametrize(
    "name",
    [
        "strp",
        "",
        "lemmas",
        "lemmas:",
        "content_lemmas:",
        "strip:x",
        ":x",
        "__import__",
        "steps",
        "normalized",
    ],
)
def test_unknown_steps(name):
    assert not cards.is_cleaning_step(name)
    with pytest.raises(SetupError, match="there is no clean-up step"):
        cleaning.steps((name,))


def test_the_nearest_step_is_offered():
    with pytest.raises(SetupError, match="Did you mean 'whitespace'"):
        cleaning.steps(("whitspace",))


def test_every_step_is_described():
    assert cleaning.STEPS
    assert all(function.__doc__ for function in cleaning.STEPS.values())
    assert all(function.__doc__ for function in cleaning.MODEL_STEPS.values())
    assert (*cleaning.STEPS, *(f"{name}:MODEL" for name in cleaning.MODEL_STEPS)) == cards.CLEANING_STEPS
    assert cards.is_cleaning_step("lemmas:en_core_web_sm")
    assert cards.is_cleaning_step("content_lemmas:en_core_web_sm")


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_lemmas_without_spacy():
    with pytest.raises(SetupError, match=r"needs spaCy, which is not installed: pip install spacy"):
        cleaning.steps(("lemmas:en_core_web_sm",))


WORDS = {
    "I": ("I", True), "am": ("be", True), "SO": ("so", True), "loved": ("love", False), "Cats": ("cat", False),
}  # fmt: skip


def pipeline(text):
    """As one of spaCy: tokens with their lemmas, stop words and numbers; not one of its words is known by it."""
    for word in re.findall(r"\w+|[^\w\s]", text):
        lemma, is_stop = WORDS.get(word, (word, False))
        yield SimpleNamespace(text=word, lemma_=lemma, is_stop=is_stop, like_num=word.isdigit() or word == "ten")


@pytest.fixture
def installed(monkeypatch):
    """spaCy, with one model."""
    cleaning.spacy_pipeline.cache_clear()

    def load(model, disable):
        if model != "en_core_web_sm":
            raise OSError("not found")
        return pipeline

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    yield
    cleaning.spacy_pipeline.cache_clear()


@pytest.fixture
def not_installed(monkeypatch):
    cleaning.spacy_pipeline.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    yield
    cleaning.spacy_pipeline.cache_clear()


@pytest.mark.parametrize(
    ("text", "lemmas", "content"),
    [
        ("I am SO loved", "I be so love", "love"),
        ("Cats! 10 of ten :) \U0001f600", "cat ! 10 of ten : ) \U0001f600", "cat of"),
        ("Zażółć n0w", "Zażółć n0w", "zażółć n0w"),
        ("I am SO 10 !!", "I be so 10 ! !", "I am SO 10 !!"),
        ("", "", ""),
    ],
)
def test_words_in_their_dictionary_forms(installed, text, lemmas, content):
    assert cleaned(text, "lemmas:en_core_web_sm") == lemmas
    assert cleaned(text, "content_lemmas:en_core_web_sm") == content


def test_a_pipeline_without_lemmas_leaves_words_as_they_are():
    bare = lambda text: [SimpleNamespace(**{**vars(token), "lemma_": ""}) for token in pipeline(text)]  # noqa: E731
    assert cleaning.lemmas(bare, "I am SO loved") == "I am SO loved"
    assert cleaning.content_lemmas(bare, "I am SO loved") == "loved"


def card(**keys):
    source = {"kind": "builtin", "id": "reviews"}
    return cards.DatasetCard(task="text_classification", source=source, splits={"train": "train"}, **keys)


def test_what_is_installed_is_taken_after_the_other_steps(installed):
    steps = ("lemmas:en_core_web_sm", "whitespace")
    assert cleaning.of_card(card(clean=("strip",), clean_if_installed=steps)) == (("strip", *steps), ())
    taken, (skipped,) = cleaning.of_card(card(clean_if_installed=("lemmas:xx_other", "strip")))
    assert taken == ("strip",)
    assert skipped == (
        "the clean-up step 'lemmas:xx_other' is skipped, so that texts are not those of the card: spaCy's model "
        "'xx_other' is not installed: python -m spacy download xx_other"
    )


def test_without_spacy_a_step_is_refused_or_skipped_as_the_card_says(not_installed):
    name = "content_lemmas:en_core_web_sm"
    with pytest.raises(SetupError, match=r"'content_lemmas' needs spaCy, which is not installed: pip install spacy"):
        cleaning.steps(cleaning.of_card(card(clean=(name,)))[0])
    taken, skipped = cleaning.of_card(card(clean=("strip",), clean_if_installed=(name,)))
    assert taken == ("strip",)
    assert skipped == (
        f"the clean-up step '{name}' is skipped, so that texts are not those of the card: the clean-up step "
        "'content_lemmas' needs spaCy, which is not installed: pip install spacy",
    )


def test_a_skipped_step_is_a_warning_and_a_saved_model_does_not_ask_for_it(not_installed):
    kept = card(clean=("strip",), clean_if_installed=("lemmas:en_core_web_sm",))
    (warning,) = dataset.load(kept, {"train": 8}, {"train"}).warnings
    assert (warning.code, "'lemmas:en_core_web_sm' is skipped" in warning.sentence) == ("cleaning_skipped", True)
    assert new_rows.described(kept)["clean"] == ["strip"]


def test_texts_of_a_card_are_cleaned_by_what_is_installed(installed):
    kept = card(clean_if_installed=("content_lemmas:en_core_web_sm",))
    corpus, plain = (dataset.load(one, {"train": 8}, {"train"}) for one in (kept, card()))
    assert corpus.warnings == plain.warnings
    texts = [row["text"] for row in corpus.splits["train"].rows]
    assert texts == [cleaned(row["text"], "content_lemmas:en_core_web_sm") for row in plain.splits["train"].rows]
    assert texts != [row["text"] for row in plain.splits["train"].rows]


@pytest.mark.skipif(importlib.util.find_spec("spacy") is None, reason="spaCy is not installed")
def test_lemmas_with_a_missing_model():
    with pytest.raises(SetupError, match="python -m spacy download no_such_model"):
        cleaning.steps(("lemmas:no_such_model",))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Good  FILM\n", "good film"),
        ("Straße", "STRASSE"),
        ("Jaźn\u0301", "JAŹŃ"),
        ("İstanbul", "i̇stanbul"),
        ("a\u00a0b", "a b"),
        ("good\u200b film", "good film"),
        ("\ufeffgood film", "good film"),
        ("go\u00adod film", "good film"),
        ("\u202egood film\u202c", "good film"),
        ("\uff27\uff4f\uff4f\uff44 film", "good film"),
        ("\ufb01lm", "film"),
        ("film\u3000", "film"),
        ("\U0001f44d\ufe0f", "\U0001f44d"),
        ("\u2460", "1"),
    ],
)
def test_texts_that_are_the_same_for_the_leakage_check(one, other):
    assert cleaning.normalized(one) == cleaning.normalized(other)


@pytest.mark.parametrize(
    ("one", "other"), [("good film", "good films"), ("a b", "ab"), ("zażółć", "zazolc"), ("a.", "a")]
)
def test_texts_that_are_not(one, other):
    assert cleaning.normalized(one) != cleaning.normalized(other)


@together("text", ["", "  ", "\u200b", "\ufeff", "\u200e \u2060", "\u00ad", "\u3164", "\u2800\u00a0", "\ufe0f\u200d"])
def test_texts_in_which_nothing_is_seen(text):
    assert cleaning.is_blank(text)
    assert cleaning.trimmed(text) == cleaning.normalized(text) == ""


@together("text", [".", "0", "\u200ba", "\U0001f44d", "\u0301", "\u4e2d"])
def test_texts_in_which_something_is_seen(text):
    assert not cleaning.is_blank(text)
