"""The part of a data set that a run learns from: so many labels of it, or all but one fold."""

from typing import Annotated

from pydantic import Field, model_validator

from bench.config.fields import Distinct, InvalidKey, Name, PositiveInt, Strict

# The split that a fold makes: the rows that are held out and scored.
FOLD = "fold"


class DataPart(Strict):
    """Rows that are learned from; without these keys all of the training split."""

    train_examples: PositiveInt | None = None
    """The first so many rows of one stratified order of the training split, so that a smaller part lies inside each
    larger one. Validation and test stay whole. Example: 100
    """
    train_subset_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Draws that order; null is the run's seed. Example: 0"""
    folds: Annotated[int, Field(ge=2, le=1000)] | None = None
    """k-fold cross-validation: the rows of the splits `fold_of` are dealt into so many folds by the run's seed,
    stratified, whole groups where the card has `columns.group`. Example: 5
    """
    fold: PositiveInt | None = None
    """The fold that is held out as the split `fold`, counted from 1; all others are the training split. Example: 1"""
    fold_of: Annotated[tuple[Name, ...], Field(min_length=1), Distinct] = ("train",)
    """The splits whose rows are dealt into folds. Example: [train, validation]"""

    @model_validator(mode="after")
    def _consistent(self) -> "DataPart":
        if self.train_subset_seed is not None and self.train_examples is None:
            raise InvalidKey("train_subset_seed", "needs `train_examples`: how many rows are drawn")
        if self.folds is None and self.fold is not None:
            raise InvalidKey("fold", "needs `folds`: into how many the rows are dealt")
        if self.folds is None and self.fold_of != ("train",):
            raise InvalidKey("fold_of", "needs `folds`: into how many the rows are dealt")
        if self.folds is not None and self.fold is None:
            raise InvalidKey("folds", f"needs `fold`: which one is held out, from 1 to {self.folds}")
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise InvalidKey("fold", f"{self.fold} is more than `folds`, {self.folds}; the first is 1")
        return self

    def splits(self, made: tuple[str, ...]) -> tuple[str, ...]:
        """Return the splits that there are, of those that the card made: folds take some, and give two."""
        if self.folds is None:
            return made
        return (*(name for name in made if name not in (*self.fold_of, "train")), "train", FOLD)
