"""Keeps scored data from choosing: the best step, the end of training, or a study's settings.

The recipe's rules refuse a split that is both; here the data are compared, as two splits may hold the same texts.
"""

from bench.data.dataset import Corpus
from bench.data.rows import Split, text_key
from bench.errors import SetupError
from bench.runner.context import RunContext

# From this share of the smaller split on, two splits are the same data in another order or cut.
SAME_SHARE = 0.5


def check(run: RunContext, corpus: Corpus, *, by_gradients: bool) -> None:
    """Raise SetupError where what is scored would choose too; where the recipe allows it, mark the record.

    by_gradients: whether the method trains by gradients, and so can choose a step.
    """
    recipe = run.resolved.recipe
    name, allowed = recipe.evaluation.validation, recipe.evaluation.allow_selection_on_test
    fits, chooses = recipe.evaluation.temperature is not None, recipe.training.best is not None and by_gradients
    use = "chooses the best step" if chooses else "fits the temperature"
    chooses |= fits
    if not chooses and not allowed:
        return
    if chooses and _is_training_split(corpus, name):
        run.record.warn(
            "selection_on_train",
            f"the split {name!r}, which {use}, holds the training texts: what a model has learned by heart looks best "
            "there, and overfitting is not seen; name another split as evaluation.validation",
        )
    shares = {split: _shared(corpus, name, split) for split in recipe.evaluation.splits}
    same = [split for split, share in shares.items() if share >= SAME_SHARE]
    if same and not allowed:
        raise SetupError(
            f"the split {name!r} {use}, and holds the data of {same[0]!r}, which is scored "
            f"({shares[same[0]]:.0%} of the texts of the smaller one); choose on other data, or set "
            "evaluation.allow_selection_on_test: true, which marks the scores in record, report and tables"
        )
    for split, share in shares.items():
        if 0 < share < SAME_SHARE:
            run.record.note(f"{share:.1%} of the texts of {name!r}, which {use}, are in {split!r} too")
    if same:
        run.record.selected_on = same
        best = f"by {recipe.training.best!r}, the best step" if "step" in use else "the temperature"
        what = best if chooses else "settings"
        run.record.warn(
            "selection_on_test",
            f"scores on {', '.join(map(repr, same))} are optimistic: {what} may have been chosen on the same data "
            "(evaluation.allow_selection_on_test); do not compare them with scores on unseen data",
        )
    elif allowed:
        run.record.note("evaluation.allow_selection_on_test has no effect: nothing is chosen on a scored split")


def _is_training_split(corpus: Corpus, name: str) -> bool:
    """Return whether a split is the training one; texts that both have are found as leakage."""
    train, own = corpus.splits.get("train"), corpus.splits.get(name)
    return name == "train" or (train is not None and own is not None and train.fingerprint == own.fingerprint)


def _shared(corpus: Corpus, name: str, other: str) -> float:
    """Return the share of texts of the smaller of two splits that the other one has too; 0 for one that is not read."""
    if name == other:
        return 1.0
    first, second = corpus.splits.get(name), corpus.splits.get(other)
    if first is None or second is None:
        return 0.0
    if first.fingerprint == second.fingerprint:
        return 1.0
    ours, theirs = _texts(first), _texts(second)
    return len(ours & theirs) / max(1, min(len(ours), len(theirs)))


def _texts(split: Split) -> set[str]:
    return {text_key(row) for row in split.rows}
