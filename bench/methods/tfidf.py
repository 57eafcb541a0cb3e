"""TF-IDF features of words, and logistic regression or naive Bayes on them: the baseline without a language model."""

from typing import Any, Literal

from pydantic import Field, model_validator

from bench.config.contracts import LoadPlan
from bench.config.fields import InvalidKey, PositiveInt, Strict

OBJECTIVES = ("head",)
# A recipe names no model.
USES_MODEL = False


class Config(Strict):
    """Arguments of scikit-learn's TfidfVectorizer and of its classifier."""

    classifier: Literal["logistic_regression", "naive_bayes"] = "logistic_regression"
    """LogisticRegression or MultinomialNB. Example: naive_bayes"""
    ngram_range: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Shortest and longest n-gram of words. Example: [1, 2]"""
    min_df: PositiveInt = 1
    """Texts that a term must be in. Example: 2"""
    sublinear_tf: bool = False
    """Takes 1 + log(tf) for a term's frequency. Example: true"""
    lowercase: bool = True
    """Reads texts in lower case. Example: false"""
    C: float = Field(default=1.0, gt=0)
    """Logistic regression: inverse of the regularisation's strength. Example: 10.0"""
    max_iter: PositiveInt = 1000
    """Logistic regression: iterations at most. Example: 5000"""
    alpha: float = Field(default=1.0, gt=0)
    """Naive Bayes: additive smoothing. Example: 0.1"""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        shortest, longest = self.ngram_range
        if shortest > longest:
            raise InvalidKey("ngram_range", f"[{shortest}, {longest}]: the first must not be more than the second")
        others = ("alpha",) if self.classifier == "logistic_regression" else ("C", "max_iter")
        for key in others:
            if key in self.model_fields_set:
                raise InvalidKey(key, f"not for `classifier: {self.classifier}`; remove it")
        return self


class Options(Strict):
    """Features of texts, and the classifier that is fitted on them."""

    config: Config = Config()
    """Arguments by scikit-learn's names. Example: {classifier: naive_bayes, ngram_range: [1, 2]}"""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan without a model: a classifier is fitted on the texts themselves."""
    return LoadPlan(trains="texts", features=options.config.model_dump())


def adapt(model: Any, options: Options) -> Any:
    """Return the model as it is: nothing of it is trained by gradients."""
    return model
