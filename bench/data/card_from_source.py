"""Makes a dataset card from a file, a folder of splits or a Hub id: task, columns, labels and splits are found there.

What the data do not say is asked for, never guessed: the message names what could be meant, and the line to write.
Splits that are missing are divided, seeded and stratified, and the card's notes say so.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError, create_model

from bench.config.cards import DatasetCard
from bench.config.data_source import Source
from bench.config.fields import Strict, Text
from bench.config.layers import Layers
from bench.config.named_cards import FINDS, MadeCard, WrongKeys, as_read
from bench.config.validation import validate
from bench.data import column_roles, hub_data, labels, sources, split_files, squad
from bench.data.column_roles import ANSWERS, CHOICE, CLASSIFICATION, GENERATION, REGRESSION, TAGGING, Roles
from bench.data.columns import Look
from bench.errors import DataError, RecipeError, did_you_mean

# Keys of a mapping that say how the files at a path are read, and new columns of either kind of source.
_OF_FILES, _OF_ROWS = ("delimiter", "encoding", "quoting"), ("compose",)
# Shares of data without splits of their own, and the part of the training data that is held out as validation.
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
HELD_OUT = 0.1
# Names of columns that may say which split a row is of, and how such a value looks.
_SPLIT_COLUMNS = ("split", "set", "fold", "subset", "partition")
_ONE_WORD = re.compile(r"[a-z]+")
_HUB = "https://huggingface.co/datasets/"


def make(spec: dict[str, Any]) -> MadeCard:
    """Return the card of `path` or `id`; any key of a dataset card beside them wins over what is found.

    Raises DataError for data that are missing or can't be read, and RecipeError for what must be said and for keys that
    do not go together.
    """
    spec = _plain(spec)
    _check_types(spec)
    spec = {key: value for key, value in spec.items() if value is not None}
    licences = [spec.pop(key) for key in ("licence", "license") if key in spec]
    if len(licences) > 1:
        raise RecipeError("`licence` and `license` are two spellings of one key; remove one")
    look, facts, notes = _look(spec)
    given = dict(spec.get("columns") or {})
    roles = column_roles.find(look, given, spec.get("task"), has_labels=bool(spec.get("labels")))
    card: dict[str, Any] = {"task": roles.task, "source": look.source.model_dump(exclude_defaults=True), **facts}
    card["columns"] = _with_id(look, roles)
    card |= {"multi_label": True} if roles.multi_label else {}
    if not spec.get("splits") and not spec.get("divide"):
        _refuse_split_column(look, roles)
        splits, said = _splits(look, roles)
        card |= splits
        notes += said
    card["leakage"] = "drop"
    card |= {key: value for key, value in spec.items() if key not in (*FINDS["dataset"], "columns", "source")}
    card |= {"licence": licences[0]} if licences else {}
    notes += roles.notes
    if roles.task == ANSWERS:
        card |= {"metrics": [_squad_metric(look, card)], **card}
    if roles.task == CLASSIFICATION and not card.get("labels") and not roles.columns.get("label_flags"):
        names, said = _labels(look, card)
        card["labels"] = names
        notes += said
    if "prompt" not in card and (prompt := _prompt(roles)) is not None:
        card["prompt"] = prompt
    if look.is_read:
        sources.hand_over(look.source, look.tables)
    return MadeCard(
        card={key: card[key] for key in _ORDER if key in card} | card,
        notes=tuple(dict.fromkeys(notes)),
        sources=_origins(look, card, {*spec, *(["licence"] if licences else [])}),
    )


# The keys of a card in the order of the shipped ones.
_ORDER = (
    "task", "source", "licence", "homepage", "columns", "labels", "multi_label", "leakage", "splits", "divide",
    "metrics", "defaults", "prompt",
)  # fmt: skip


def _origins(look: Look, card: Mapping[str, Any], given: set[str]) -> dict[str, str]:
    """Return where each key of a made card is from. given: keys that the person names."""
    is_hub = look.source.kind == "hub"
    label = look.columns.get(str(card["columns"].get("label")))
    found = {
        "task": "names and kinds of the columns",
        "source": "the Hub" if is_hub else "the path",
        "licence": "the README on the Hub, where it states one",
        "homepage": "the Hub",
        "columns": "names and kinds of the columns",
        "labels": "names of the class ids" if label is not None and label.class_names else "values of the label column",
        "splits": "names of the splits",
        "divide": "the maker of cards",
        "leakage": "the maker of cards",
        "prompt": "the maker of cards, in words of the columns",
        "metrics": "the rules of SQuAD that the data need",
        "multi_label": "lists in the label column",
    }
    return {key: "the recipe" if key in given else found.get(key, "the recipe") for key in card}


def _plain(value: Any) -> Any:
    """Return settings as YAML has them: lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _check_types(spec: Mapping[str, Any]) -> None:
    """Raise RecipeError with a line for each key that is read here and of another type than a card's."""
    given = {key: value for key, value in spec.items() if key in _Given.model_fields and value is not None}
    try:
        validate(_Given, as_read(given), Layers(), ())
    except RecipeError as error:
        raise WrongKeys(str(error)) from error


def _optional(model: type[BaseModel], keys: Iterable[str], **others: Any) -> dict[str, Any]:
    """Return fields of a type as `create_model` takes them, each of which may be missing."""
    fields = {key: model.model_fields[key] for key in keys}
    types: dict[str, Any] = {
        key: Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        for key, field in fields.items()
    }
    return {key: (kind | None, None) for key, kind in {**types, **others}.items()}


# A card's source as a mapping may say a part of it, and the keys that are read here, before there is a card.
_GivenSource = create_model("_GivenSource", __base__=Strict, **_optional(Source, Source.model_fields))
_Given = create_model(
    "_Given",
    __base__=Strict,
    **_optional(DatasetCard, ("task", "columns", "splits", "divide", "labels", "multi_label")),
    **_optional(Source, ("id", "config", "revision", *_OF_FILES, *_OF_ROWS), path=Text, source=_GivenSource),
)


# ---------------------------------------------------------------- where the data are


def _look(spec: Mapping[str, Any]) -> tuple[Look, dict[str, Any], list[str]]:
    """Return the source, what a card says of it beside its rows, and notes."""
    if ("path" in spec) == ("id" in spec):
        raise RecipeError("a data set needs `path` (a file or folder) or `id` (of the Hub), and not both")
    if "id" in spec:
        return _look_at_hub(spec)
    wrong = [key for key in ("config", "revision") if spec.get(key) is not None]
    if wrong:
        raise RecipeError(f"`{wrong[0]}` is for a data set of the Hub (`id`); files at a `path` have none")
    return _look_at_files(spec)


def _look_at_files(spec: Mapping[str, Any]) -> tuple[Look, dict[str, Any], list[str]]:
    path = Path(str(spec["path"])).expanduser().absolute()
    asked = {key: value for key, value in spec.get("source", {}).items() if value is not None}
    source: dict[str, Any]
    if "files" in asked:
        source, notes = {"kind": split_files.kind_of(asked["files"]), "folder": str(path)}, []
    else:
        found = split_files.find(path)
        source, notes = {"kind": found.kind, "folder": str(found.folder)}, list(found.notes)
        source |= {"files": found.files} if found.files else {}
    source |= {key: spec[key] for key in (*_OF_FILES, *_OF_ROWS) if spec.get(key) is not None} | asked
    checked = _source(source)
    look = Look(path.name, checked, _saved_splits(checked) if checked.kind == "saved" else tuple(checked.files))
    if checked.kind == "json" and "paragraphs" in look.columns:
        look = Look(path.name, _source({**source, "kind": "squad"}), look.splits)
    _check_rows(look)
    return look, {}, notes


def _saved_splits(source: Source) -> tuple[str, ...]:
    """Return the splits of a folder that `save_to_disk` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(source.folder))
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the saved data set {source.folder!r} can't be read: {first}") from error
    return tuple(map(str, loaded)) if isinstance(loaded, dict) else ("train",)


def _check_rows(look: Look) -> None:
    """Raise DataError for a source without rows or columns."""
    if not look.rows:
        where = "" if len(look.splits) == 1 else f", in the split {look.main_split!r}"
        raise DataError(f"{look.place} is empty: there are no rows{where}")


def _look_at_hub(spec: Mapping[str, Any]) -> tuple[Look, dict[str, Any], list[str]]:
    identity, config, revision = (spec.get(key) for key in ("id", "config", "revision"))
    wrong = [key for key in _OF_FILES if spec.get(key) is not None]
    if wrong:
        raise RecipeError(f"`{wrong[0]}` is for files at a `path`; a data set of the Hub has none")
    if Path(str(identity)).exists():
        raise DataError(
            f"{identity!r} is on the Hub and a file or folder here, which `datasets` would read in its place; name the "
            f"folder as `path: ./{identity}`, or start elsewhere"
        )
    found = hub_data.look_up(str(identity), config, revision)
    splits, features = found.splits, found.features
    if not splits or features is None:
        splits, features = hub_data.features_of(str(identity), config, found.revision)
    source: dict[str, Any] = {"kind": "hub", "id": identity, "config": found.config, "revision": found.revision}
    source |= {key: spec[key] for key in _OF_ROWS if spec.get(key)} | dict(spec.get("source") or {})
    composed = {name: {"_type": "Value", "dtype": "string"} for name in source.get("compose", ())}
    features = {**features, **composed}
    place = f"{identity}" if found.config is None else f"{identity} ({found.config})"
    look = Look(place, _source(source), splits, features)
    facts = {"licence": found.licence, "homepage": f"{_HUB}{identity}"}
    return look, facts, list(found.notes)


def _source(content: dict[str, Any]) -> Source:
    files = {name: tuple(one) if isinstance(one, list) else one for name, one in content.get("files", {}).items()}
    try:
        return Source.model_validate({**content, **({"files": files} if files else {})})
    except ValidationError as error:
        problem = error.errors()[0]
        reason = problem.get("ctx", {}).get("error", problem["msg"])
        key = ".".join(map(str, problem["loc"]))
        raise RecipeError(f"`source{'.' if key else ''}{key}`: {reason}") from error


# ---------------------------------------------------------------- splits


def _splits(look: Look, roles: Roles) -> tuple[dict[str, Any], list[str]]:
    """Return `splits` and `divide` of the card, and a note on each split that is not the source's own."""
    found = _named_splits(look, roles)
    notes = []
    unused = [name for name in look.splits if name not in found.values()]
    if "test" in found and _is_hidden(look, roles, found):
        notes.append(f"the labels of the split {found['test']!r} are hidden (-1 or missing), so that it is not scored")
        unused.append(found.pop("test"))
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
        notes.append(f"the split {found['test']!r} is the test, for there is no other with labels")
    train = found["train"]
    divide: dict[str, Any] = {"of": [train]}
    stratified = roles.task in (CLASSIFICATION, ANSWERS)
    divide |= {} if stratified else {"stratified": False}
    divide |= {"by_group": True} if roles.columns.get("group") else {}
    if set(found) == {"train"}:
        divide["into"] = dict(SHARES)
        shares = ", ".join(f"{name} {share:g}" for name, share in SHARES.items())
        notes.append(
            f"all splits are drawn from {train!r}, the only one with labels: {shares}{_drawn(divide, stratified)}"
        )
        result: dict[str, Any] = {"divide": [divide]}
    elif "validation" not in found:
        divide["into"] = {"train": 1 - HELD_OUT, "validation": HELD_OUT}
        notes.append(
            f"validation is {HELD_OUT:.0%} of the split {train!r}, which is not trained on{_drawn(divide, stratified)}"
        )
        result = {"splits": {"test": found["test"]}, "divide": [divide]}
    else:
        result = {"splits": {name: found[name] for name in SHARES}}
    named = [name for name in unused if name not in found.values()]
    notes += [f"splits that are not used: {', '.join(dict.fromkeys(named))}"] if named else []
    return result, notes


def _drawn(divide: Mapping[str, Any], stratified: bool) -> str:
    ways = ["whole groups"] if divide.get("by_group") else ["stratified by label"] if stratified else []
    return f" ({', '.join([*ways, 'seed 0'])})"


def _refuse_split_column(look: Look, roles: Roles) -> None:
    """Raise RecipeError for one split with a column that says which split each row is of: it is not drawn anew."""
    used = column_roles.names_in(roles.columns)
    unread = look.source.kind == "hub" and not look.is_read
    for name, column in look.columns.items() if len(look.splits) == 1 else ():
        if name in used or column.kind != "text" or column.is_list or (unread and name.lower() not in _SPLIT_COLUMNS):
            continue
        if not all(split_files.split_of(str(value)) for value in look.values(name)[:20]):
            continue
        counts = look.counts(name)
        found = {split_files.split_of(value) if _ONE_WORD.fullmatch(value) else None for value in counts}
        if len(counts) > 1 and "train" in found and None not in found:
            parts = ", ".join(f"{value} {count}" for value, count in counts.items())
            shares = ", ".join(f"{split}: {share:g}" for split, share in SHARES.items())
            raise RecipeError(
                f"{look.place}: the column {name!r} says which split each row is of ({parts}); write the rows of each "
                f"into a file named after it (train, validation, test) in a folder of theirs, and name the folder; to "
                f"draw splits at random from all rows, write `divide: [{{of: [{look.splits[0]}], into: {{{shares}}}}}]`"
            )


def _named_splits(look: Look, roles: Roles) -> dict[str, str]:
    """Return train, validation and test -> source split, by their names. Raises RecipeError where several could be."""
    if len(look.splits) == 1:
        only = look.splits[0]
        if split_files.split_of(only) not in ("train", None):
            shares = ", ".join(f"{split}: {share:g}" for split, share in SHARES.items())
            raise RecipeError(
                f"{look.place}: its only split is {only!r}, so that there is nothing to train on; to draw all splits "
                f"from it, write `divide: [{{of: [{only}], into: {{{shares}}}}}]`"
            )
        return {"train": only}
    found: dict[str, str] = {}
    for split in SHARES:
        meant = [name for name in look.splits if split_files.split_of(name) == split]
        exact = [name for name in meant if name == split]
        if split != "train" and len(meant) > 1 and not exact:
            meant = [name for name in meant if not _all_hidden(look, roles, name)]
        if len(meant) > 1 and not exact:
            first = meant[0]
            # The line for a split of the source that has labels, as MNLI has two.
            use = "test" if split == "validation" else split
            raise RecipeError(
                f"{look.place}: the split {split!r} could be {' or '.join(map(repr, meant))}; write the one you mean, "
                f"as `{_split_lines(look, split, use, first)}`"
            )
        if meant:
            found[split] = (exact or meant)[0]
    if "train" not in found:
        raise RecipeError(
            f"{look.place}: none of the splits {', '.join(map(repr, look.splits))} is called train; name them, as "
            f"`splits: {{train: {look.splits[0]}, test: {look.splits[-1]}}}`"
        )
    return found


def _split_lines(look: Look, split: str, use: str, first: str) -> str:
    if split == "train":
        return f"splits: {{train: {first}, ...}}"
    train = next((name for name in look.splits if split_files.split_of(name) == "train"), look.splits[0])
    shares = f"{{train: {1 - HELD_OUT:g}, validation: {HELD_OUT:g}}}"
    return f"splits: {{{use}: {first}}}, divide: [{{of: [{train}], into: {shares}}}]"


def _is_hidden(look: Look, roles: Roles, found: Mapping[str, str]) -> bool:
    # A data set of the Hub is not downloaded for this alone: its rows say so when they are read.
    is_told = "validation" in found or look.source.kind != "hub" or look.is_read
    return is_told and _all_hidden(look, roles, found["test"])


def _all_hidden(look: Look, roles: Roles, split: str) -> bool:
    gold = next((roles.columns[key] for key in ("answers", "tags", "reference") if roles.columns.get(key)), None)
    gold = gold or roles.columns.get("label")
    if not isinstance(gold, str) or roles.columns.get("label_flags") or roles.task == GENERATION:
        return False
    return roles.task != ANSWERS and look.is_hidden(split, gold)


# ---------------------------------------------------------------- labels, ids, metrics and wording


def _labels(look: Look, card: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the labels: those of the class ids, else the distinct values of all splits that are used."""
    columns = card["columns"]
    column = look.columns[columns["label"]]
    if column.class_names and not (look.is_read and look.source.kind == "parquet"):
        return list(column.class_names), []
    used = {*card.get("splits", {}).values(), *(name for part in card.get("divide", ()) for name in part["of"])}
    used = used or {*look.splits}  # of an empty list of splits, which the card's type refuses
    unknown = sorted(used - {*look.splits})
    if unknown:
        raise RecipeError(f"{look.place}: there is no split {unknown[0]!r}.{did_you_mean(unknown[0], look.splits)}")
    name = column.name
    # Values alone, so that nothing is changed in the rows that the run reads.
    tables = {
        split: replace(table, rows=[{name: row[name]} for row in table.rows if name in row])
        for split, table in look.tables.items()
        if split in used
    }
    minimal = {
        "task": CLASSIFICATION,
        "source": look.source,
        "columns": {"label": name},
        "multi_label": bool(card.get("multi_label")),
        "splits": {"train": next(iter(tables))},
    }
    try:
        found = labels.read(tables, DatasetCard.model_validate(minimal))
    except DataError as error:
        raise DataError(f"{look.place}: {error}") from error
    notes = []
    if all(re.fullmatch(r"-?\d+", label) for label in found.names):
        companion = _companion(look, name)
        hint = (
            f"; {companion!r} holds a name for each: `columns: {{label: {companion}}}` reads these" if companion else ""
        )
        notes.append(f"the labels in {name!r} are numbers without names{hint}")
    return list(found.names), notes


def _companion(look: Look, name: str) -> str | None:
    """Return a column of texts that names each number of a label, as `label_text` beside `label`."""
    for other, column in look.columns.items():
        if other.startswith(f"{name}_") and column.kind == "text" and not column.is_list:
            pairs = {(str(row.get(name)), str(row.get(other))) for row in look.rows}
            if len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs}):
                return other
    return None


def _with_id(look: Look, roles: Roles) -> dict[str, Any]:
    """Return the columns, with one of ids where local rows have one that is theirs alone."""
    columns = dict(roles.columns)
    if "id" in columns or look.source.kind == "hub":
        return columns
    for name in ("id", "idx", "guid", "uid"):
        if name in look.columns and name not in columns.values():
            by_split = [[row.get(name) for row in table.rows] for table in look.tables.values()]
            told = all(value is not None and value != "" for ids in by_split for value in ids)
            if told and all(len(set(map(str, ids))) == len(ids) for ids in by_split):
                return {"id": name, **columns}
    return columns


def _squad_metric(look: Look, card: Mapping[str, Any]) -> str:
    column = card["columns"]["answers"]
    rows = [row for table in look.tables.values() for row in table.rows]
    version = squad.version_of(rows, column)
    return next(name for name, known in squad.VERSIONS.items() if known == version)


def _prompt(roles: Roles) -> dict[str, Any] | None:
    """Return how a row is put to a language model, in the words of its columns; None for tags and conversations."""
    columns = roles.columns
    if roles.task == ANSWERS:
        return {
            "instruction": "Answer each question with words of its passage.",
            "template": "Passage: {text}\nQuestion: {text_pair}\nAnswer:",
            "none": "unanswerable",
        }
    if roles.task == TAGGING or columns.get("messages") or "text" not in columns:
        return None
    words = {key: _as_words(columns[key], key) for key in ("text", "text_pair") if columns.get(key)}
    lines = "\n".join(f"{word}: {{{key}}}" for key, word in words.items())
    if roles.task == GENERATION:
        is_whole = columns["text"] in ("prompt", "text")
        return {"template": "{text}" if is_whole else f"{lines}\n{_as_words(columns['reference'], 'Answer')}:"}
    if roles.task == CHOICE:
        return {"template": "{text}" if columns["text"] in ("ctx", "prompt", "text") else f"{lines}\nAnswer:"}
    if roles.task == REGRESSION:
        return {"template": f"{lines}\n{_as_words(columns['label'], 'Score')}:"}
    if roles.task != CLASSIFICATION:
        return None
    what = "pair" if len(words) > 1 else "text"
    if roles.multi_label:
        return {"instruction": f"Name the labels of each {what}, of: {{labels}}.", "template": f"{lines}\nLabels:"}
    return {"instruction": f"Name the label of each {what}, one of: {{labels}}.", "template": f"{lines}\nLabel:"}


def _as_words(column: str, other: str) -> str:
    words = re.sub(r"[\W_]+", " ", column).strip()
    return words[:1].upper() + words[1:] if words else other
