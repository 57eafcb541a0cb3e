"""Describes how a model's training rows were read, for its saved folder, and reads rows of new texts in that way."""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.cards import CHOICES_TASK, GENERATION_TASK, TAGS_TASK, DatasetCard
from bench.config.data_source import COMPOSED, FILE_KINDS
from bench.data import chat_layouts, cleaning, sources
from bench.data.sources import Row, Rows
from bench.data.targets import choices, reference
from bench.errors import DataError, did_you_mean, nearest

# Part of a row -> the only task whose models read it; None for any.
PARTS: Mapping[str, str | None] = {
    "text": None,
    "text_pair": None,
    "tokens": TAGS_TASK,
    "choices": CHOICES_TASK,
    "messages": GENERATION_TASK,
    "input": GENERATION_TASK,
}
# One column, or several that hold a choice each.
Name = str | tuple[str, ...]


def described(card: DatasetCard) -> dict[str, Any]:
    """Return what a saved model's description says of its data: columns, clean-up steps, and how files were read."""
    columns, source = card.columns, card.source
    names = {key: getattr(columns, key) for key, task in PARTS.items() if task in (None, card.task)}
    if card.task == TAGS_TASK or columns.messages is not None:
        names["text"] = None
    files = source.files.values() if source.kind in FILE_KINDS else ()
    paths = [Path(name) for given in files for name in ((given,) if isinstance(given, str) else given)]
    return {
        "columns": {key: list(name) if isinstance(name, tuple) else name for key, name in names.items()},
        "clean": list(cleaning.of_card(card)[0]),
        "id": columns.id,
        "files": {
            "kind": source.kind,
            "endings": sorted({path.suffix.lower() for path in paths if path.suffix}),
            "delimiter": source.delimiter,
            "encoding": source.encoding,
            "quoting": source.quoting,
            "compose": source.compose,
        },
    }


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The content of `described`; task: of the model. Descriptions of earlier versions lack some of it, or all."""

    task: str = ""
    id: str = "id"
    columns: Mapping[str, Name | None] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> "Trained":
        """Return that of a saved model's description."""
        columns = {
            key: tuple(name) if isinstance(name, list) else name
            for key, name in (description.get("columns") or {}).items()
        }
        return cls(
            task=description.get("task", ""),
            id=description.get("id") or "id",
            columns=columns,
            files=description.get("files") or {},
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of a row that a model of this task reads."""
        return tuple(key for key, task in PARTS.items() if task in (None, self.task))


class RowReader:
    """Reads rows of new texts as those of the training data were read, by the names of their columns.

    shown: what messages call the file. given: part of a row -> its column, as on the command line; it stands before the
    column that the training data had, and before the part's own name. answered: conversations so far that held their
    answer already, which was left out.
    """

    def __init__(self, shown: str, trained: Trained, given: Mapping[str, str]) -> None:
        self.shown, self.trained, self.given = shown, trained, given
        self.answered = 0
        for key, name in given.items():
            if key not in trained.parts:
                raise DataError(f"--columns {key}={name}: this model does not read {key}, but {_listed(trained.parts)}")

    def read(self, row: Row, place: str) -> dict[str, Any]:
        """Return {"text", "text_pair"} of a row, and "messages", "tokens" or "choices" where the task has these.

        A row that has an id, in the column of the training data or in `id`, keeps it: a number or a text.
        Raises DataError, with `place`, for a missing or odd value, and where two columns may be meant.
        """
        identity = row.get(self.trained.id, row.get("id"))
        is_id = isinstance(identity, str | int) and not isinstance(identity, bool)
        return self._read(row, place) | ({"id": identity} if is_id else {})

    def _read(self, row: Row, place: str) -> dict[str, Any]:
        row = dict(row) | self._composed(row, place)
        parts = self.trained.parts
        if "messages" in parts and (name := self._messages(row, place)) is not None:
            return self._conversation(row[name], place)
        if "tokens" in parts and (name := self._one("tokens", row, place)) is not None:
            return _words(row[name], f"{place}: `{name}`", row.get("text"))
        chosen: Row = {key: self._text(key, row, place) for key in ("text", "text_pair")}
        if "input" in parts and (added := self._text("input", row, place)):
            chosen["text"] = reference.with_input(chosen["text"] or "", added)
        if "choices" in parts and (named := self._named("choices", row, place)) is not None:
            chosen["choices"] = list(choices.of_row(row, named, place).texts)
        return chosen

    def _composed(self, row: Row, place: str) -> dict[str, str]:
        """Return the composed columns that a row lacks and has all parts of."""
        made = {}
        for name, template in (self.trained.files.get("compose") or {}).items():
            if name not in row and set(COMPOSED.findall(template)) <= set(row):
                made[name] = sources.composed(row, template, place)
        return made

    def _messages(self, row: Row, place: str) -> str | None:
        """Return the column of a conversation. Of a model that was trained on texts, a text stands before it."""
        own = self.trained.columns
        has_texts = "messages" in own and own["messages"] is None
        if has_texts and "messages" not in self.given and self._named("text", row, place) is not None:
            return None
        return self._one("messages", row, place)

    def _conversation(self, value: Any, place: str) -> dict[str, Any]:
        turns = chat_layouts.turns_of(value, place, answered=None)
        if turns[-1]["role"] == "assistant":
            turns = turns[:-1]
            self.answered += 1
        return {"text": chat_layouts.said(turns), "text_pair": None, "messages": turns}

    def _text(self, key: str, row: Row, place: str) -> str | None:
        """Return a text of a row; None where there is none of this part, which is refused for the first text."""
        name = self._one(key, row, place)
        if name is None and key == "text":
            raise DataError(f"{place}: the key `text` is missing.{self._hint(row)}")
        value = row[name] if name is not None else None
        if not isinstance(value, str) and (value is not None or key == "text"):
            raise DataError(f"{place}: `{key}` must be a text, got {_shown(value)}")
        return value

    def _one(self, key: str, row: Row, place: str) -> str | None:
        name = self._named(key, row, place)
        assert not isinstance(name, tuple), key  # only choices have several columns
        return name

    def _named(self, key: str, row: Row, place: str) -> Name | None:
        """Return the column of a part of the row; None where there is none. Raises DataError where two may be meant."""
        if key in self.given:
            if self.given[key] not in row:
                hint = did_you_mean(self.given[key], row).replace("Known", "Its keys")
                raise DataError(f"{place}: --columns {key}={self.given[key]}: there is no such key.{hint}")
            return self.given[key]
        own = self.trained.columns.get(key) or key
        if self._is_like_training(row) and self.trained.columns.get(key):
            return own  # Alpaca, too, has a column `text`, which holds all of a row
        known = [name for name in dict.fromkeys((own, key)) if not row.keys().isdisjoint(_columns(name))]
        if len(known) > 1:
            advice = f"say which one is meant: --columns {key}={known[0]}"
            if isinstance(own, tuple):
                advice = f"remove one of the two, or say: --columns {key}={key}"
            raise DataError(
                f"{place}: `{', '.join(_columns(own))}`, as in the data that the model was trained on, and `{key}` are "
                f"both there; {advice}"
            )
        return known[0] if known else None

    def _is_like_training(self, row: Row) -> bool:
        """Return whether a row has all columns that the training read, of which there were several."""
        own = {column for name in self.trained.columns.values() if name for column in _columns(name)}
        return len(own) > 1 and own <= row.keys()

    def _hint(self, row: Row) -> str:
        if not row:
            return " It is empty."
        own = self.trained.columns.get("text")
        template = (self.trained.files.get("compose") or {}).get(str(own))
        if template is not None:
            missing = [name for name in COMPOSED.findall(template) if name not in row]
            return f" In training it was made of {template!r}; of these keys it lacks {', '.join(missing)}"
        near = next((name for name in row if name.lower() == "text"), None) or nearest("text", row)
        if near is not None:
            return f" Its {near!r} must be called 'text', or be named: --columns text={near}"
        return f" Its keys: {', '.join(sorted(row))}. Say which one is the text: --columns text=NAME"


def _columns(name: Name) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _words(words: Any, what: str, text: Any) -> dict[str, Any]:
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise DataError(f"{what} must be a list of words, got {_shown(words)}")
    shown = text if isinstance(text, str) and text else " ".join(words)
    return {"text": shown, "text_pair": None, "tokens": words}


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]


def cleaned(rows: Rows, names: Iterable[str]) -> Rows:
    """Return rows whose texts and choices went through the clean-up steps of the training data, in their order.

    Raises SetupError for a step that is unknown, or needs what is not installed.
    """
    steps = cleaning.steps(tuple(names))
    if not steps:
        return rows
    clean = functools.partial(functools.reduce, lambda text, step: step(text), steps)
    changed: Rows = []
    for row in rows:
        pair = row["text_pair"]
        new: Row = {**row, "text": clean(row["text"]), "text_pair": None if pair is None else clean(pair)}
        if "choices" in row:
            new["choices"] = [clean(text) for text in row["choices"]]
        changed.append(new)
    return changed


def as_given(predictions: Rows, rows: Rows, cleaned_rows: Rows) -> Rows:
    """Return predictions with texts and choices as given, not as cleaned, and with second texts and ids.

    An answer to a question has the question as its text already, and stays as it is.
    """
    shown: Rows = []
    for prediction, row, clean in zip(predictions, rows, cleaned_rows, strict=True):
        new = dict(prediction)
        if prediction["text"] == clean["text"]:
            pair = {"text_pair": row["text_pair"]} if row["text_pair"] else {}
            new = {"text": row["text"], **pair, **{key: value for key, value in new.items() if key != "text"}}
        if "choices" in row and row is not clean:
            names = dict(zip(clean["choices"], row["choices"], strict=True))
            new["label"] = names[new["label"]]
            new["scores"] = {names[name]: score for name, score in new["scores"].items()}
        shown.append({"id": row["id"], **new} if "id" in row else new)
    return shown
