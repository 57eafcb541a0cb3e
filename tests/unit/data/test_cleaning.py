"""Clean-up steps: pure functions of a text, in the order of the card."""

import importlib.util

import pytest

from bench.config import cards
from bench.data import cleaning
from bench.errors import SetupError
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


@pytest.mark.parametrize("name", ["strp", "", "lemmas", "lemmas:", "__import__", "steps", "normalized"])
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
    assert (*cleaning.STEPS, "lemmas:MODEL") == cards.CLEANING_STEPS
    assert cards.is_cleaning_step("lemmas:en_core_web_sm")


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_lemmas_without_spacy():
    with pytest.raises(SetupError, match=r"needs spaCy, which is not installed: pip install spacy"):
        cleaning.steps(("lemmas:en_core_web_sm",))


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
