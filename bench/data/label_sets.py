"""Holds the labels of the splits against one another: what is found in one split alone misleads a reader of scores."""

from collections.abc import Mapping, Sequence

from bench.data.label_names import listed
from bench.data.rows import Split
from bench.records.record import RunWarning


def compare(
    whole: Mapping[str, Split], used: Mapping[str, Split], names: Sequence[str]
) -> tuple[list[str], list[RunWarning]]:
    """Return notes and warnings on labels that the training split and another one do not share.

    whole: splits before a limit, used: after it. What only a limit has left out is noted, anything else warned of.
    """
    if "train" not in used:
        return [], []
    notes: list[str] = []
    warnings: list[RunWarning] = []
    train = used["train"].labels(tuple(names))
    train_whole = whole["train"].labels(tuple(names))
    nowhere = {name for name in names if not train_whole[name]}
    for split in (split for split in used if split != "train"):
        counts, counts_whole = used[split].labels(tuple(names)), whole[split].labels(tuple(names))
        nowhere -= {name for name in names if counts_whole[name]}
        new = [name for name in names if counts[name] and not train[name]]
        unscored = [name for name in names if train[name] and not counts[name]]
        shared = [name for name in names if train[name] and counts[name]]
        if new and not shared and any(train.values()):
            warnings.append(_disjoint(split, counts, train))
            continue
        if new:
            rows, total = sum(counts[name] for name in new), len(used[split].rows)
            sentence = (
                f"{_labels(new)} in {split!r} ({rows} of {total} rows) and not in 'train': a model that is trained "
                "there has never seen it"
            )
            by_limit = "limit" in used["train"].dropped and all(train_whole[name] for name in new)
            _add("label_not_in_training", sentence, by_limit, notes, warnings)
        if unscored:
            rows = sum(train[name] for name in unscored)
            sentence = (
                f"{_labels(unscored)} in 'train' ({rows} of {len(used['train'].rows)} rows) and not in {split!r}: "
                "averages over labels count it there all the same"
            )
            by_limit = "limit" in used[split].dropped and all(counts_whole[name] for name in unscored)
            _add("label_not_scored", sentence, by_limit, notes, warnings)
    if nowhere:
        warnings.append(_nowhere([name for name in names if name in nowhere], names, [*used]))
    return notes, warnings


def _labels(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the label {names[0]!r} is"
    return f"{len(names)} labels, {listed(names)}, are"


def _add(code: str, sentence: str, by_limit: bool, notes: list[str], warnings: list[RunWarning]) -> None:
    if by_limit:
        notes.append(f"by `limit`, {sentence}")
    else:
        warnings.append(RunWarning(code=code, sentence=sentence))


def _disjoint(split: str, counts: Mapping[str, int], train: Mapping[str, int]) -> RunWarning:
    there, here = ([name for name, count in each.items() if count] for each in (counts, train))
    sentence = (
        f"{split!r} and 'train' have no label in common: {listed(there)} there, {listed(here)} in training. Every "
        f"score on {split!r} is meaningless: what is asked there was never trained"
    )
    return RunWarning(code="labels_disjoint", sentence=sentence)


def _nowhere(missing: Sequence[str], names: Sequence[str], splits: Sequence[str]) -> RunWarning:
    hint = ""
    if missing == [names[0]]:
        hint = "; if the data count their ids from 1, every label is read as the next one"
    sentence = (
        f"{_labels(missing)} among those of the data set, and in no row of {listed(splits)}: averages over labels "
        f"count it all the same{hint}"
    )
    return RunWarning(code="label_in_no_row", sentence=sentence)
