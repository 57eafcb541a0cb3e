"""Takes the part of a data set that a run learns from: nested stratified subsets, and folds."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.config.cards import CHOICES_TASK, DatasetCard
from bench.config.data_part import FOLD, DataPart
from bench.data.rows import Split
from bench.data.splits import divide_groups
from bench.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Subset:
    """The part of the training split that was taken. seed: that drew the order."""

    examples: int
    of: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The fold that was held out. fingerprint: of all rows that were dealt; two runs with the same folds share it."""

    fold: int
    folds: int
    of: tuple[str, ...]
    seed: int
    examples: int
    train_examples: int
    fingerprint: str


def nested_order(strata: Sequence[Hashable], seed: int) -> list[int]:
    """Return all row numbers in an order of which every beginning holds each stratum in proportion, to about a row.

    Systematic sampling with a random start in each stratum (Cochran 1977, "Sampling Techniques", chapter 8): its i-th
    row of n stands at (i + u) / n, so that a stratum of a single row is as likely to come early as late.
    """
    chooser = random.Random(f"nested/{seed}")
    groups: dict[str, list[int]] = defaultdict(list)
    for number, stratum in enumerate(strata):
        groups[str(stratum)].append(number)
    places: list[tuple[float, int]] = []
    for _, rows in sorted(groups.items()):
        chooser.shuffle(rows)
        start = chooser.random()
        places += [((place + start) / len(rows), row) for place, row in enumerate(rows)]
    return [row for _, row in sorted(places)]


def take_subset(
    split: Split, part: DataPart, seed: int, card: DatasetCard, names: tuple[str, ...]
) -> tuple[Split, Subset | None]:
    """Return the training split with `train_examples` of its rows, in their own order, and what was taken.

    seed: the run's. names: of the labels. Raises DataError for more rows than there are, and for fewer than labels.
    """
    examples, key = part.train_examples, "data.train_examples"
    if examples is None:
        return split, None
    if examples > len(split.rows):
        raise DataError(
            f"{key}: {examples} rows are asked for, and the training split has {len(split.rows)} after filters, "
            "`limit` and leakage; ask for at most so many, or leave the key out to train on all"
        )
    occurring = sum(count > 0 for count in split.labels(names).values()) if _is_classified(split, card) else 0
    if examples < occurring:
        raise DataError(
            f"{key}: {examples} rows are fewer than the {occurring} labels in the training split, so that some would "
            f"never be learned; ask for at least {occurring}"
        )
    drawn_by = seed if part.train_subset_seed is None else part.train_subset_seed
    order = nested_order([row.get("stratum", row["label"]) for row in split.rows], drawn_by)
    rows = [split.rows[number] for number in sorted(order[:examples])]
    left_out = len(split.rows) - examples
    dropped = {**split.dropped, **({"train_examples": left_out} if left_out else {})}
    taken = Subset(examples=examples, of=len(split.rows), seed=drawn_by)
    return replace(split, rows=rows, dropped=dropped), taken


def _is_classified(split: Split, card: DatasetCard) -> bool:
    """Return whether each row has one label of the data set's own list, rather than a number, tags or choices."""
    return card.task != CHOICES_TASK and isinstance(split.rows[0]["label"], int) and "tags" not in split.rows[0]


def needed_for(part: DataPart, needed: set[str], card: DatasetCard) -> set[str]:
    """Return the splits of the card to read for those that a run needs. Raises DataError where folds can't be made."""
    if part.folds is None:
        return needed
    if FOLD in card.split_names:
        raise DataError(f"data.folds: the card has a split {FOLD!r} of its own; rename that one to make folds")
    for name in part.fold_of:
        if name not in card.split_names:
            raise DataError(f"data.fold_of: the data set has no split {name!r}; it has {', '.join(card.split_names)}")
    dealt = set(part.fold_of) if needed & {"train", FOLD} else set()
    return (needed - {FOLD, "train"} - set(part.fold_of)) | dealt


def hold_out(
    splits: Mapping[str, Split], part: DataPart, seed: int, card: DatasetCard
) -> tuple[dict[str, Split], HeldOut | None]:
    """Return the splits with one fold held out: the split `fold`, and `train` with all other rows that were dealt.

    seed: the run's. Raises DataError for fewer rows than folds, or fewer groups.
    """
    if part.folds is None or part.fold is None or not set(part.fold_of) <= set(splits):
        return dict(splits), None
    several = card.columns.id is not None and len(part.fold_of) > 1
    rows = [
        {**row, "id": f"{name}/{row['id']}" if several else row["id"]}
        for name in part.fold_of
        for row in splits[name].rows
    ]
    if len(rows) < part.folds:
        raise DataError(f"data.folds: {part.folds} folds can't be made of {len(rows)} rows")
    places = _deal(rows, part.folds, seed)
    dropped = sum((Counter(splits[name].dropped) for name in part.fold_of), Counter[str]())
    kept = {name: split for name, split in splits.items() if name not in (*part.fold_of, "train")}
    for name, chosen in ((FOLD, True), ("train", False)):
        mine = [row for row, place in zip(rows, places, strict=True) if (place == part.fold) == chosen]
        if not mine:
            raise DataError(f"data.fold: fold {part.fold} of {part.folds} leaves the split {name!r} empty")
        kept[name] = Split(name=name, rows=mine, dropped=dict(dropped))
    dealt = Split(name="dealt", rows=rows).fingerprint
    return kept, HeldOut(
        fold=part.fold,
        folds=part.folds,
        of=part.fold_of,
        seed=seed,
        examples=len(kept[FOLD].rows),
        train_examples=len(kept["train"].rows),
        fingerprint=hashlib.sha256(f"{dealt}/{part.folds}/{seed}".encode()).hexdigest()[:16],
    )


def _deal(rows: Sequence[dict[str, object]], folds: int, seed: int) -> list[int]:
    """Return the fold of each row, from 1: each stratum in turn, so that folds hold as many of it to within one row."""
    strata = [str(row.get("stratum", row["label"])) for row in rows]
    if any(row.get("title") for row in rows):
        groups = [str(row["title"] or f"row {row['id']}") for row in rows]
        into = {str(fold): 1 / folds for fold in range(1, folds + 1)}
        dealt = divide_groups(strata, groups, into, seed=f"folds/{seed}")
        place = {row: int(name) for name, mine in dealt.items() for row in mine}
        return [place[number] for number in range(len(rows))]
    chooser = random.Random(f"folds/{seed}")
    by_stratum: dict[str, list[int]] = defaultdict(list)
    for number, stratum in enumerate(strata):
        by_stratum[stratum].append(number)
    order: list[int] = []
    for _, mine in sorted(by_stratum.items()):
        chooser.shuffle(mine)
        order += mine
    places = [0] * len(rows)
    for position, number in enumerate(order):
        places[number] = position % folds + 1
    return places
