"""The parts of the data that a study runs on: sizes of a label curve, folds of a cross-validation.

    label_curve: {sizes: [50, 100, 300, 1000, all]}
    folds: {number: 5}

Each run of the study is repeated on each part, with the keys of `data` in the recipe. Loads no torch.
"""

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench.config import registry
from bench.config.cards import CHOICES_TASK
from bench.config.data_part import FOLD
from bench.config.fields import Distinct, InvalidKey, Name, PositiveInt, Strict
from bench.config.overrides import as_yaml
from bench.config.resolve import Resolved
from bench.errors import RecipeError

ALL = "all"
Sizes = Annotated[tuple[PositiveInt | Literal["all"], ...], Field(min_length=2)]


def check_sizes(sizes: tuple[int | str, ...]) -> None:
    """Raise InvalidKey for sizes that are not in rising order, with `all` at most as the last one."""
    for number, (before, size) in enumerate(itertools.pairwise(sizes), 1):
        if before == ALL:
            raise InvalidKey(f"sizes.{number - 1}", "`all` is the largest size; write it last")
        if size != ALL and int(size) <= int(before):
            twice = "is listed twice" if size == before else f"follows {before}; write sizes in rising order"
            raise InvalidKey(f"sizes.{number}", f"{size} {twice}")


class LabelCurve(Strict):
    """Score against the number of labels: every run on nested, stratified parts of the training split.

    Of one seed all methods learn from the same examples. Epochs stay as they are: `training.min_steps` keeps runs on
    few examples from ending after a few steps.
    """

    sizes: Sizes
    """Numbers of training examples, rising; `all` is the whole split. Example: [50, 100, 300, 1000, all]"""

    @model_validator(mode="after")
    def _rising(self) -> "LabelCurve":
        check_sizes(self.sizes)
        return self


class Folds(Strict):
    """k-fold cross-validation: every run once with each fold held out and scored, in place of the test split."""

    number: Annotated[int, Field(ge=2, le=1000)]
    """Number of folds. Each seed deals the rows anew. Example: 5"""
    of: Annotated[tuple[Name, ...], Field(min_length=1), Distinct] = ("train",)
    """The splits whose rows are dealt. Example: [train, test]"""


def overrides_of(curve: LabelCurve | None, folds: Folds | None, first: Resolved, shown: str) -> list[tuple[str, ...]]:
    """Return the overrides of each part that a run is repeated on: [()] where a study has none.

    first: the run as it is without. shown: the study's file. A method that learns from no labels has one size, all.
    Raises RecipeError for a size below the number of labels.
    """
    if folds is not None:
        of = f", fold_of: {as_yaml(list(folds.of))}" if folds.of != ("train",) else ""
        return [
            (f"data={{folds: {folds.number}, fold: {fold}{of}}}", f"evaluation.splits=[{FOLD}]")
            for fold in range(1, folds.number + 1)
        ]
    if curve is None:
        return [()]
    plan = registry.load_method(first.recipe.method.name).load_plan(first.options)
    if plan.trains == "nothing" and plan.shots == 0:
        return [()]
    card = first.recipe.dataset
    labels = 0 if card.multi_label or card.task == CHOICES_TASK else len(card.kept_labels)
    few = [size for size in curve.sizes if size != ALL and int(size) < labels]
    if few:
        raise RecipeError(
            f"{shown}: label_curve.sizes: {few[0]} examples are fewer than the {labels} labels of "
            f"{first.dataset_name}, so that some would never be learned"
        )
    return [() if size == ALL else (f"data.train_examples={size}",) for size in curve.sizes]


def named(resolved: Resolved) -> str:
    """Return a run's name with the part of the data that it learns from."""
    data = resolved.recipe.data
    size = "" if data.train_examples is None else f", {data.train_examples:,} examples"
    fold = "" if data.fold is None else f", fold {data.fold} of {data.folds}"
    return f"{resolved.name}{size}{fold}"
