"""Dataset card -> splits of clean, labelled rows, checked for leakage. Nothing is dropped without being counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.config.cards import DatasetCard, Divide
from bench.config.data_part import DataPart
from bench.data import cleaning, data_part, label_sets, other_sources, squad
from bench.data.data_part import HeldOut, Subset
from bench.data.leakage import without_leaks
from bench.data.rows import Split, check_columns, missing_notes, parse
from bench.data.sources import Row, Rows
from bench.data.splits import divide, divide_groups
from bench.data.targets import kinds
from bench.data.targets.target import Target
from bench.errors import DataError
from bench.records.record import RunWarning


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All splits of a data set, the names of its labels, notes on what was left out, and warnings of what misleads.

    labels: those of the rows, without the ones that `filters.labels` leaves out.
    version: whose rules of SQuAD the data need, "1.1" or "2.0", read off all splits of the card; None without answers.
    subset, held_out: of a run that learns from a part of the data (the recipe's key `data`).
    """

    splits: dict[str, Split]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    version: str | None = None
    warnings: tuple[RunWarning, ...] = ()
    subset: Subset | None = None
    held_out: HeldOut | None = None


def load(
    card: DatasetCard, limit: Mapping[str, int], needed: set[str], part: DataPart | None = None, seed: int = 0
) -> Corpus:
    """Load what the card describes: the `needed` splits, of each at most `limit` rows, drawn by label.

    part: which rows are learned from, and which fold is held out, by the run's seed; None is all of the data.

    Raises DataError for a missing file or column, an unknown label, an empty text or split, an answer that is not at
    its offset, and for leakage.
    """
    part = part or DataPart()
    needed = data_part.needed_for(part, needed, card)
    tables = other_sources.read(card, _sources_of(card, set(card.split_names)))
    used = _sources_of(card, needed)
    kind = kinds.kind_of(card)
    for name, table in tables.items():
        if name in used or kind.reads_all_splits(card):
            check_columns(table.rows, name, card, kind.columns(card))
    target = kind.read(tables, used, card)
    labels, version = target.labels, target.version
    taken, skipped = cleaning.of_card(card)
    clean = cleaning.steps(taken)
    parsed = {name: parse(tables[name].rows, name, card, target, clean) for name in used}
    notes = [*(note for name in used for note in tables[name].notes), *labels.notes, *target.notes]
    notes += [note for split in parsed.values() for note in missing_notes(split)]
    splits, inexact = _divide(parsed, card, needed)
    whole = {name: _aligned(split, card) for name, split in splits.items() if name in needed}
    splits = {name: _limited(split, limit.get(name)) for name, split in whole.items()}
    splits, held_out = data_part.hold_out(splits, part, seed, card)
    whole = {name: whole[name] if held_out is None else split for name, split in splits.items()}
    splits, leaks, known = without_leaks(splits, card)
    splits, subset = _subset(splits, part, seed, card, labels.kept_names)
    by_limit, warnings = _compared(whole, splits, target)
    notes += inexact + leaks + by_limit
    for split in splits.values():
        notes += [f"{split.name}: {count} rows left out ({why})" for why, count in split.dropped.items()]
    return Corpus(
        splits=splits,
        labels=labels.kept_names,
        notes=tuple(notes),
        warnings=(
            *(RunWarning(code="cleaning_skipped", sentence=sentence) for sentence in skipped),
            *labels.warnings,
            *warnings,
            *known,
        ),
        version=version,
        subset=subset,
        held_out=held_out,
    )


def _subset(
    splits: dict[str, Split], part: DataPart, seed: int, card: DatasetCard, names: tuple[str, ...]
) -> tuple[dict[str, Split], Subset | None]:
    """Return the splits with the part of the training split that is learned from: last, so that its size is exact."""
    if "train" not in splits:
        return splits, None
    train, subset = data_part.take_subset(splits["train"], part, seed, card, names)
    return {**splits, "train": train}, subset


def _compared(
    whole: Mapping[str, Split], used: Mapping[str, Split], target: Target
) -> tuple[list[str], list[RunWarning]]:
    """Return notes and warnings on what only some splits have labels of."""
    names = target.labels.kept_names
    if not target.compares_labels:
        return [], []
    if target.compared is not None:
        kinds = {name: target.compared(split, names) for name, split in whole.items()}
        whole, names = {name: split for name, (split, _) in kinds.items()}, next(iter(kinds.values()))[1]
        used = {name: target.compared(split, target.labels.kept_names)[0] for name, split in used.items()}
    return label_sets.compare(whole, used, names)


def _sources_of(card: DatasetCard, needed: set[str]) -> list[str]:
    """Return the source splits that the needed splits are made of, each once."""
    names = [source for name, source in card.splits.items() if name in needed]
    names += [source for part in card.divide if not needed.isdisjoint(part.into) for source in part.of]
    return list(dict.fromkeys(names))


def _divide(parsed: dict[str, Split], card: DatasetCard, needed: set[str]) -> tuple[dict[str, Split], list[str]]:
    """Return the needed splits before any limit, and notes on those whose sizes are not exactly the ones asked."""
    splits = {name: replace(parsed[source], name=name) for name, source in card.splits.items() if name in needed}
    notes: list[str] = []
    for part in (part for part in card.divide if not needed.isdisjoint(part.into)):
        rows = [{**row, "id": _joined_id(row, name, card, part)} for name in part.of for row in parsed[name].rows]
        dropped = sum((Counter(parsed[name].dropped) for name in part.of), Counter[str]())
        for name, chosen in _row_numbers(rows, part).items():
            splits[name] = Split(name=name, rows=[rows[number] for number in chosen], dropped=dict(dropped))
            size = part.into[name]
            if part.by_group and name in needed:
                share = f", {len(chosen) / len(rows):.3g} of all," if isinstance(size, float) else ""
                notes.append(f"{name}: {len(chosen)} rows{share} for {size} asked: groups stay together")
    return splits, notes


def _row_numbers(rows: Rows, part: Divide) -> dict[str, list[int]]:
    """Return the numbers of the rows of each new split."""
    labels = [str(row.get("stratum", row["label"])) for row in rows]
    if not part.by_group:
        return divide(labels, part.into, stratified=part.stratified, balanced=part.balanced, seed=part.seed)
    for row in rows:
        if not row["title"]:
            raise DataError(f"row {row['id']} has an empty group; divide.by_group needs one for every row")
    return divide_groups(labels, [row["title"] for row in rows], part.into, stratified=part.stratified, seed=part.seed)


def _aligned(split: Split, card: DatasetCard) -> Split:
    """Leave out rows whose answers are not at their offsets, where the card allows it and the split is not scored."""
    if card.columns.answers is None:
        return split
    wrong = {row["id"]: why for row in split.rows if (why := squad.misaligned(row))}
    if not wrong:
        return split
    identity, why = next(iter(wrong.items()))
    if not (card.filters.drop_misaligned and split.name == "train"):
        place = f"row {identity} of the split {split.name!r}: {why}; {len(wrong)} such rows"
        if split.name == "train":
            raise DataError(f"{place}; correct them, or set filters.drop_misaligned: true")
        raise DataError(f"{place}; correct them: nothing is left out of a split that is scored")
    kept = [row for row in split.rows if row["id"] not in wrong]
    if not kept:
        raise DataError(f"the split {split.name!r} is empty: left out {len(wrong)} rows by drop_misaligned")
    return replace(split, rows=kept, dropped={**split.dropped, "drop_misaligned": len(wrong)})


def _joined_id(row: Row, split: str, card: DatasetCard, part: Divide) -> str:
    # Ids of one's own may repeat between source splits; numbered ones already carry the split's name.
    return f"{split}/{row['id']}" if card.columns.id and len(part.of) > 1 else str(row["id"])


def _limited(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split.rows):
        return split
    # The first rows of a file that is sorted by label would all have the same one.
    labels = [str(row.get("stratum", row["label"])) for row in split.rows]
    drawn = divide(labels, {split.name: limit}, seed=f"limit/{split.name}")[split.name]
    dropped = {**split.dropped, "limit": len(split.rows) - limit}
    return replace(split, rows=[split.rows[number] for number in drawn], dropped=dropped)
