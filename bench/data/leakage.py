"""Removes or refuses training rows whose text or group also occurs in a scored split."""

from dataclasses import replace
from typing import Any

from bench.config.cards import DatasetCard
from bench.data import cleaning
from bench.data.rows import Split, text_key
from bench.errors import DataError
from bench.records.record import RunWarning


def without_leaks(splits: dict[str, Split], card: DatasetCard) -> tuple[dict[str, Split], list[str], list[RunWarning]]:
    """Refuse, drop or allow rows of train or validation that share a text or a group with a scored split.

    Returns the splits; where leakage is allowed, a note; and a warning for each split that training has rows of.
    Raises DataError by the card's `leakage`.
    """
    order = [*(name for name in splits if name not in ("validation", "train")), "validation", "train"]
    seen: dict[str, str] = {}
    result, notes = dict(splits), []
    for name in order:
        split = splits.get(name)
        if split is None:
            continue
        keys = {row["id"]: _leak_keys(row) for row in split.rows}
        leaks = {identity: seen[key] for identity, each in keys.items() for key in each if key in seen}
        if leaks and name in ("validation", "train"):
            sentence = _leak_sentence(name, leaks, "passages or articles" if card.columns.answers else "texts")
            kept = [row for row in split.rows if row["id"] not in leaks]
            if card.leakage == "error":
                raise DataError(f"leakage: {sentence}; set leakage: drop in the dataset card to leave these rows out")
            if card.leakage == "drop" and not kept:
                raise DataError(f"leakage: {sentence}, and the split would be empty without them")
            if card.leakage == "drop":
                result[name] = replace(split, rows=kept, dropped={**split.dropped, "leakage": len(leaks)})
            else:
                notes.append(f"leakage allowed by the card: {sentence}")
        seen.update({key: row["id"] for row in result[name].rows for key in keys[row["id"]]})
    return result, notes, _known_by_heart(result) if card.leakage == "allow" else []


def _known_by_heart(splits: dict[str, Split]) -> list[RunWarning]:
    """Return a warning for each split of whose rows training reads the text or the group: its scores are too high."""
    read = {key for row in splits["train"].rows for key in _leak_keys(row)} if "train" in splits else set()
    warnings = []
    for name, split in splits.items():
        known = sum(not read.isdisjoint(_leak_keys(row)) for row in split.rows) if name != "train" else 0
        if known:
            sentence = (
                f"training reads the text of {known} of {len(split.rows)} rows of {name} (leakage: allow in the card): "
                "scores there are in part of what was learned by heart"
            )
            warnings.append(RunWarning(code="leakage", sentence=sentence))
    return warnings


def _leak_sentence(name: str, leaks: dict[str, str], what: str) -> str:
    pairs = ", ".join(f"{identity} = {other}" for identity, other in list(leaks.items())[:3])
    more = ", ..." if len(leaks) > 3 else ""
    subject = f"{len(leaks)} texts" if what == "texts" else f"the {what} of {len(leaks)} rows"
    return f"{subject} of {name!r} also occur in another split ({pairs}{more})"


def _leak_keys(row: dict[str, Any]) -> list[str]:
    # Whoever has read a passage in training knows it, whatever was asked: the question does not count.
    text = cleaning.normalized(row["text"]) if "answers" in row else text_key(row)
    return [f"text {text}", *([f"group {row['title']}"] if row.get("title") else [])]
