"""A tag for each word of a sentence, as in CoNLL-2003: names, or ids of a column with class names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.config.cards import DatasetCard
from bench.data import tagging
from bench.data.label_names import listed
from bench.data.labels import Labels, field_of
from bench.data.rows import Split
from bench.data.sources import Row, Table
from bench.data.targets.target import Target
from bench.errors import DataError, did_you_mean


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of words and tags."""
    return [card.columns.tokens, card.columns.tags]


def reads_all_splits(card: DatasetCard) -> bool:
    """Return whether the names of the tags come from the data."""
    return not card.labels


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how words and tags are read.

    The tags are those of the card, else the class names of the column, else what the data hold, O first. Raises
    DataError for ids without names, and for a tag that the scheme does not have.
    """
    names = card.labels or _class_names(tables, card) or _found(tables, card)
    for name in names:
        if (fault := tagging.fault(name, card.scheme)) is not None:
            raise DataError(f"the tag {name!r} {fault}")
    if tagging.OUTSIDE not in names:
        raise DataError(f"there is no tag {tagging.OUTSIDE!r} of words outside of entities among {listed(names)}")
    if not tagging.kinds_of(names):
        raise DataError(f"the column {card.columns.tags!r} has no tag but O, so that there is nothing to learn")
    ids = {name: number for number, name in enumerate(names)}

    def fields(row: Row, place: str) -> dict[str, Any]:
        """Return words, tags, which tags there are as 0 and 1, and the types of the entities."""
        words, tags = _words(row, card.columns.tokens, place), _tags(row, card, ids, place)
        if len(words) != len(tags):
            raise DataError(f"{place} has {len(words)} words in {card.columns.tokens!r}, but {len(tags)} tags")
        there = set(tags)
        return {
            "tokens": words,
            "tags": tags,
            "label": [int(name in there) for name in names],
            "stratum": " ".join(tagging.kinds_of(tags)),
        }

    def texts(row: Row, place: str) -> tuple[Any, Any]:
        """Return the words, joined by spaces; "" where there is nothing but white space."""
        text = " ".join(_words(row, card.columns.tokens, place))
        return (text if text.strip() else ""), None

    return Target(
        labels=Labels(names=names, column=card.columns.tags, kept=tuple(range(len(names)))),
        fields=fields,
        texts=texts,
        compared=_by_type,
        notes=_loose_notes(tables, used, card),
    )


def _class_names(tables: Mapping[str, Table], card: DatasetCard) -> tuple[str, ...]:
    """Return the class names of the tags, () without any. Raises DataError where files have others."""
    given = [part.class_names.get(card.columns.tags, ()) for table in tables.values() for part in table.parts]
    orders = list(dict.fromkeys(names for names in given if names))
    if any(set(names) != set(orders[0]) for names in orders):
        raise DataError(f"the files have other class names of {card.columns.tags!r}: {'; '.join(map(listed, orders))}")
    return orders[0] if orders else ()


def _found(tables: Mapping[str, Table], card: DatasetCard) -> tuple[str, ...]:
    """Return the tags of all splits, O first, the others sorted by type and prefix."""
    column = card.columns.tags
    lists = (row.get(column) for table in tables.values() for row in table.rows)
    items = {item for tags in lists if isinstance(tags, list) for item in tags if isinstance(item, int | str)}
    numbers = [item for item in items if not isinstance(item, str) or item.strip().isdecimal()]
    if numbers:
        raise DataError(
            f"the column {column!r} holds ids ({listed(sorted(numbers, key=str)[:8])}) without names; list the tags in "
            "`labels`, in the order of their ids"
        )
    return tuple(
        sorted({str(item) for item in items}, key=lambda name: (name != "O", tagging.kind_of(name) or "", name))
    )


def _words(row: Row, column: str, place: str) -> list[str]:
    words = field_of(row, column, place)
    if not isinstance(words, list):
        hint = "; in a file without lists use source.kind: conll, or JSON lines" if isinstance(words, str) else ""
        raise DataError(f"{place}: the column {column!r}: expected a list of words, got {words!r:.60}{hint}")
    for word in words:
        if not isinstance(word, str):
            raise DataError(f"{place}: the column {column!r}: expected words, got {word!r:.60}")
    return words


def _tags(row: Row, card: DatasetCard, ids: Mapping[str, int], place: str) -> list[str]:
    column = card.columns.tags
    tags = field_of(row, column, place)
    if not isinstance(tags, list):
        raise DataError(f"{place}: the column {column!r}: expected a list of tags, got {tags!r:.60}")
    names = tuple(ids)
    return [_tag(tag, names, ids, f"{place}: the column {column!r}") for tag in tags]


def _tag(tag: Any, names: Sequence[str], ids: Mapping[str, int], place: str) -> str:
    if isinstance(tag, str) and tag in ids:
        return tag
    if isinstance(tag, str):
        raise DataError(f"{place} has the unknown tag {tag!r:.60}.{did_you_mean(tag, names)}")
    if isinstance(tag, bool) or not isinstance(tag, int):
        raise DataError(f"{place}: expected a tag's name or id, got {tag!r:.60}")
    if tag == -1:
        raise DataError(f"{place} has the id -1, which marks hidden tags; use another split")
    if not 0 <= tag < len(names):
        raise DataError(f"{place} has the id {tag}, but ids of {len(names)} tags go from 0 to {len(names) - 1}")
    return names[tag]


def _by_type(split: Split, names: Sequence[str]) -> tuple[Split, tuple[str, ...]]:
    """Return a split whose labels are the types of its entities: an I-PER less is nothing to warn of, a PER is."""
    kinds = tagging.kinds_of(names)
    rows = [{"label": [int(kind in tagging.kinds_of(row["tags"])) for kind in kinds]} for row in split.rows]
    return replace(split, rows=rows), kinds


def _loose_notes(tables: Mapping[str, Table], used: Iterable[str], card: DatasetCard) -> tuple[str, ...]:
    """Return notes on words whose I- follows no word of the same type, which IOB1 alone has by design."""
    if card.scheme in ("IOB1", "IOE1", "IOE2"):
        return ()
    notes, counts = [], Counter[str]()
    for name in used:
        for row in tables[name].rows:
            tags = row.get(card.columns.tags)
            if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
                counts[name] += tagging.loose(tags)
        if counts[name]:
            how = f"no entity by scheme {card.scheme}" if card.scheme else "the beginning of an entity, as seqeval does"
            notes.append(
                f"{name}: {counts[name]} words have a tag I- (or E-) that follows none of its type: read as {how}"
            )
    return tuple(notes)
