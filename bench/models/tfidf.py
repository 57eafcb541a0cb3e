"""A linear classifier of TF-IDF features: scikit-learn's vectorizer, and the weights that its classifiers find.

Saved as JSON and safetensors, which hold no code.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from bench.errors import DataError, SetupError
from bench.utils import files

METHOD = "tfidf"
TERMS, WEIGHTS = "tfidf.json", "tfidf.safetensors"
# Log-probability of a label that no training text has, as logits of `training.probe` have it; exp(-30) is 1e-13.
ABSENT = -30.0


class TfidfModel(nn.Module):
    """Terms, their inverse document frequencies, and a row of weights for each label.

    settings: the method's `config`. classes: the labels that training texts have, by ids; of two of them
    logistic regression has one row of weights, for the second. Of several labels a text (`multi_label`) each has a row.
    weight: [rows, terms], bias: [rows], idf: [terms], all in float64 and without gradients.
    """

    def __init__(self, settings: dict[str, Any], num_labels: int, *, multi_label: bool) -> None:
        super().__init__()
        self.settings, self.num_labels, self.multi_label = settings, num_labels, multi_label
        self.classes: list[int] = list(range(num_labels))
        self.vectorizer = _vectorizer(settings)
        self._put(np.zeros((0, 0)), np.zeros(0), np.zeros(0))

    @property
    def base_model(self) -> "TfidfModel":
        """Return the model itself, which has no other one inside."""
        return self

    def _put(self, weight: np.ndarray, bias: np.ndarray, idf: np.ndarray) -> None:
        for name, values in (("weight", weight), ("bias", bias), ("idf", idf)):
            setattr(
                self, name, nn.Parameter(torch.tensor(values, dtype=torch.float64).contiguous(), requires_grad=False)
            )

    def fit(self, texts: Sequence[str], labels: np.ndarray) -> int:
        """Fit terms and weights; return the solver's iterations, 1 for naive Bayes, which counts once.

        labels: [examples] ids, or [examples, labels] of 0 and 1, of which each column is fitted by itself. Raises
        SetupError for texts without a term, and for labels of which there is but one.
        """
        try:
            features = self.vectorizer.fit_transform(texts)
        except ValueError as error:
            raise SetupError(
                f"method tfidf finds no terms in the {len(texts)} training texts: {error}; a word is two or more "
                f"letters or digits, and `min_df` is {self.settings['min_df']}"
            ) from error
        if self.multi_label:
            weight, bias, iterations = self._fit_each(features, labels)
        else:
            weight, bias, iterations = self._fit_one_of_several(features, labels)
        self._put(weight, bias, self.vectorizer.idf_)
        return iterations

    def _fit_one_of_several(self, features: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        self.classes = sorted({int(label) for label in labels})
        if len(self.classes) < 2:
            raise SetupError("method tfidf can't be fitted: all training texts have the same label")
        return self._fitted(features, labels)

    def _fit_each(self, features: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return a row for each label; one that all texts have, or none, is a constant."""
        weight, bias = np.zeros((self.num_labels, features.shape[1])), np.full(self.num_labels, ABSENT)
        iterations = 0
        for column in range(self.num_labels):
            if len(set(labels[:, column].tolist())) < 2:
                bias[column] = ABSENT if labels[0, column] == 0 else -ABSENT
                continue
            rows, constants, needed = self._fitted(features, labels[:, column])
            # Naive Bayes has a row for "no" and one for "yes"; their difference is the logit of "yes".
            weight[column] = rows[-1] - (rows[0] if len(rows) == 2 else 0)
            bias[column] = constants[-1] - (constants[0] if len(rows) == 2 else 0)
            iterations = max(iterations, needed)
        return weight, bias, iterations

    def _fitted(self, features: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import MultinomialNB

        if self.settings["classifier"] == "naive_bayes":
            bayes = MultinomialNB(alpha=self.settings["alpha"]).fit(features, labels)
            return bayes.feature_log_prob_, bayes.class_log_prior_, 1
        regression = LogisticRegression(C=self.settings["C"], max_iter=self.settings["max_iter"])
        regression.fit(features, labels)
        return regression.coef_, regression.intercept_, int(regression.n_iter_.max())

    def logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Return [texts, labels]: log-probabilities of one label of several, or each label's own logit."""
        values = self.vectorizer.transform(texts) @ self.weight.numpy().T + self.bias.numpy()
        if self.multi_label:
            return torch.from_numpy(values)
        if len(self.bias) == 1:
            values = np.hstack([np.zeros_like(values), values])
        spread = np.full((len(values), self.num_labels), ABSENT)
        spread[:, self.classes] = torch.from_numpy(values).log_softmax(-1).numpy()
        return torch.from_numpy(spread)

    def without_terms(self, texts: Sequence[str]) -> int:
        """Return how many texts hold none of the fitted terms, and so all get the same answer."""
        return int((self.vectorizer.transform(texts).getnnz(axis=1) == 0).sum())

    def words(self, text: str) -> int:
        """Return how many words of a text are counted, before they are joined to n-grams."""
        return len(self.vectorizer.build_tokenizer()(text))


def joined(row: dict[str, Any]) -> str:
    """Return the text of a row; of two texts both, one after the other."""
    return row["text"] if row.get("text_pair") is None else f"{row['text']}\n{row['text_pair']}"


def save(model: TfidfModel, folder: Path) -> None:
    """Write terms, settings and weights into a folder."""
    terms = sorted(model.vectorizer.vocabulary_, key=model.vectorizer.vocabulary_.get)
    content = {"settings": model.settings, "classes": model.classes, "terms": terms}
    files.write_text(folder / TERMS, json.dumps(content) + "\n")
    save_file({name: value.detach() for name, value in model.named_parameters()}, folder / WEIGHTS)


def load(folder: Path, *, num_labels: int, multi_label: bool) -> TfidfModel:
    """Return what `save` wrote. Raises DataError for files that are missing, damaged, or do not fit together."""
    try:
        content = json.loads(files.read_text(folder / TERMS))
        weights = load_file(folder / WEIGHTS)
        model = TfidfModel({**content["settings"]}, num_labels, multi_label=multi_label)
        terms, model.classes = content["terms"], content["classes"]
        weight, bias, idf = (weights[name].numpy() for name in ("weight", "bias", "idf"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"the model in {folder} can't be loaded: {type(error).__name__}: {error}") from error
    rows = num_labels if multi_label else len(model.classes)
    rows_fit = len(weight) == len(bias) and (len(bias) == rows or (rows == 2 and len(bias) == 1))
    if not rows_fit or weight.shape[1:] != (len(terms),) or idf.shape != (len(terms),):
        raise DataError(
            f"the model in {folder} can't be loaded: {WEIGHTS} is not of the {len(terms)} terms and {num_labels} labels"
        )
    model.vectorizer = _vectorizer(model.settings, terms)
    model.vectorizer.idf_ = idf
    model._put(weight, bias, idf)
    return model


def _vectorizer(settings: dict[str, Any], terms: list[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        vocabulary=terms,
        lowercase=settings["lowercase"],
        ngram_range=tuple(settings["ngram_range"]),
        min_df=settings["min_df"],
        sublinear_tf=settings["sublinear_tf"],
    )
