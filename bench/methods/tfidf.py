"""TF-IDF features of words, and logistic regression or naive Bayes on them: the baseline without a language model."""

from typing import Any, Literal

from pydantic import Field, model_validator

from bench.config.contracts import LoadPlan
from bench.config.fields import InvalidKey, PositiveInt, Strict

OBJECTIVES = ("head",)
# A recipe names no model.
USES_MODEL = False


class Config(Strict):
    """classifier: scikit-learn's LogisticRegression or MultinomialNB. The rest are arguments of these and of
    TfidfVectorizer: ngram_range, min_df (texts that a term must be in), sublinear_tf, lowercase; C and max_iter of
    logistic regression, alpha of naive Bayes.
    """

    classifier: Literal["logistic_regression", "naive_bayes"] = "logistic_regression"
    ngram_range: tuple[PositiveInt, PositiveInt] = (1, 1)
    min_df: PositiveInt = 1
    sublinear_tf: bool = False
    lowercase: bool = True
    C: float = Field(default=1.0, gt=0)
    max_iter: PositiveInt = 1000
    alpha: float = Field(default=1.0, gt=0)

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
    """config: how texts become features, and what is fitted on them."""

    config: Config = Config()


def load_plan(options: Options) -> LoadPlan:
    """Return a plan without a model: a classifier is fitted on the texts themselves."""
    return LoadPlan(trains="texts", features=options.config.model_dump())


def adapt(model: Any, options: Options) -> Any:
    """Return the model as it is: nothing of it is trained by gradients."""
    return model
