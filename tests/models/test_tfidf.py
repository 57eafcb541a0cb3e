"""A classifier of TF-IDF features: scikit-learn's own, of one label, several, and pairs; saved without a pickle."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from bench.errors import DataError, SetupError
from bench.methods.tfidf import Config
from bench.models import saving, tfidf
from tests.helpers.cases import together

TEXTS = [
    "a good film", "a bad film", "good good music", "bad music", "a fine day", "a dull day", "good and fine",
    "bad and dull", "the plain day", "plain music", "plain and plain", "a plain film",
]  # fmt: skip
TWO = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0])
THREE = np.array([1, 0, 1, 0, 1, 0, 1, 0, 2, 2, 2, 2])
SEVERAL = np.array(
    [[int("good" in text), int("film" in text or "music" in text), int("plain" in text)] for text in TEXTS]
)
NEW = ["good film", "dull and bad", "plain", "unheard words"]
LOGISTIC, BAYES = {"classifier": "logistic_regression"}, {"classifier": "naive_bayes", "alpha": 0.5}


def fitted(settings, labels, num_labels, *, multi_label=False):
    model = tfidf.TfidfModel(Config(**settings).model_dump(), num_labels, multi_label=multi_label)
    model.fit(TEXTS, labels)
    return model


def probabilities(model, texts):
    logits = model.logits(texts)
    return (logits.sigmoid() if model.multi_label else logits.softmax(-1)).numpy()


@together("labels", [TWO, THREE])
@together("settings", [LOGISTIC | {"C": 3.0}, BAYES, LOGISTIC | {"ngram_range": (1, 2), "sublinear_tf": True}])
def test_probabilities_are_scikit_learn_s(settings, labels):
    config = Config(**settings)
    classifier = LogisticRegression(C=config.C, max_iter=1000) if settings["classifier"] != "naive_bayes" else None
    vectorizer = TfidfVectorizer(ngram_range=config.ngram_range, sublinear_tf=config.sublinear_tf)
    plain = make_pipeline(vectorizer, classifier or MultinomialNB(alpha=config.alpha)).fit(TEXTS, labels)
    found = probabilities(fitted(settings, labels, len(set(labels))), NEW)
    assert found == pytest.approx(plain.predict_proba(NEW), abs=1e-10)


@together("settings", [LOGISTIC, BAYES])
def test_several_labels_are_one_against_the_rest(settings):
    classifier = LogisticRegression(max_iter=1000) if settings is LOGISTIC else MultinomialNB(alpha=0.5)
    plain = make_pipeline(TfidfVectorizer(), OneVsRestClassifier(classifier)).fit(TEXTS, SEVERAL)
    found = probabilities(fitted(settings, SEVERAL, 3, multi_label=True), NEW)
    assert found == pytest.approx(plain.predict_proba(NEW), abs=1e-10)


def test_a_label_of_no_text_is_never_predicted_and_one_of_all_always():
    model = fitted(LOGISTIC, np.where(TWO == 1, 3, 0), 4)
    found = probabilities(model, NEW)
    assert found[:, [1, 2]].max() < 1e-12
    assert found.sum(1) == pytest.approx(1)
    constant = SEVERAL.copy()
    constant[:, 0], constant[:, 1] = 0, 1
    found = probabilities(fitted(BAYES, constant, 3, multi_label=True), NEW)
    assert found[:, 0].max() < 1e-12
    assert found[:, 1].min() > 1 - 1e-12


def test_texts_without_a_known_term_are_counted():
    assert fitted(LOGISTIC, TWO, 2).without_terms(NEW) == 1
    assert fitted(LOGISTIC | {"ngram_range": (2, 2)}, TWO, 2).without_terms(NEW) == 3


def test_two_texts_are_joined():
    assert tfidf.joined({"text": "one", "text_pair": "two"}) == "one\ntwo"
    assert tfidf.joined({"text": "one", "text_pair": None}) == tfidf.joined({"text": "one"}) == "one"


@together("labels, texts, message", [
    (np.zeros(12, dtype=int), TEXTS, "all training texts have the same label"),
    (TWO, ["a", "b"] * 6, "finds no terms in the 12 training texts"),
    (TWO, [f"word{number}" for number in range(12)], "`min_df` is 2"),
])  # fmt: skip
def test_what_can_t_be_fitted_is_a_sentence(labels, texts, message):
    model = tfidf.TfidfModel(Config(min_df=2 if "min_df" in message else 1).model_dump(), 2, multi_label=False)
    with pytest.raises(SetupError, match=message):
        model.fit(texts, labels)


def description(num_labels, *, multi_label=False):
    return {"method": "tfidf", "labels": [str(n) for n in range(num_labels)], "multi_label": multi_label, "head": {}}


@together("settings, labels, several", [
    (LOGISTIC, TWO, False), (BAYES, TWO, False), (LOGISTIC, THREE, False), (BAYES, SEVERAL, True),
    (LOGISTIC | {"ngram_range": (1, 2), "lowercase": False}, TWO, False),
])  # fmt: skip
def test_saved_and_loaded_it_predicts_the_same(settings, labels, several, tmp_path):
    number = 3 if several else len(set(labels))
    model = fitted(settings, labels, number, multi_label=several)
    saving.save(model, None, tmp_path, description(number, multi_label=several))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again, tokenizer, _ = saving.load(tmp_path)
    assert tokenizer is None
    assert np.array_equal(probabilities(again, NEW), probabilities(model, NEW))


def cut_terms(folder: Path) -> None:
    content = json.loads((folder / tfidf.TERMS).read_text(encoding="utf-8"))
    (folder / tfidf.TERMS).write_text(json.dumps(content | {"terms": content["terms"][1:]}), encoding="utf-8")


@together("damage", [
    cut_terms,
    lambda folder: (folder / tfidf.TERMS).write_text("{}", encoding="utf-8"),
    lambda folder: (folder / tfidf.TERMS).unlink(missing_ok=True),
    lambda folder: (folder / tfidf.WEIGHTS).write_bytes(b"nothing"),
])  # fmt: skip
def test_a_damaged_one_is_refused(damage, tmp_path):
    saving.save(fitted(LOGISTIC, TWO, 2), None, tmp_path, description(2))
    damage(tmp_path)
    with pytest.raises(DataError, match=r"the model in .* can't be loaded"):
        saving.load(tmp_path)
