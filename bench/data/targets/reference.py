"""References: the texts that a model is to write, one or several to a prompt; the prompt may be a conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.config.cards import Columns, DatasetCard
from bench.data import chat_layouts
from bench.data.labels import Labels, field_of
from bench.data.sources import Row, Table
from bench.data.targets.target import Target
from bench.errors import DataError


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of prompt and references, or those of conversations."""
    own = card.columns
    if own.messages is not None:
        return [own.messages, own.system]
    return [own.text, own.text_pair, own.input, own.reference]


def reads_all_splits(card: DatasetCard) -> bool:
    """Return False: every row says by itself what its references are."""
    return False


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how references are read. Rows get `answers`, and of conversations `messages`, all turns but the last."""
    own = card.columns

    def of_columns(row: Row, place: str) -> dict[str, Any]:
        """Return the references of a row."""
        return {"label": 0, "answers": _references(row, own.reference or "", place, card.filters.drop_empty)}

    def of_messages(row: Row, place: str) -> dict[str, Any]:
        """Return the last turn of a conversation as its reference, and the others."""
        *messages, answer = _turns(row, own, place)
        return {"label": 0, "answers": [answer["content"]], "messages": messages}

    def spoken(row: Row, place: str) -> tuple[str, None]:
        """Return what is said before the answer, but for the system's turn, by which leaks are found."""
        turns = _turns(row, own, place)[:-1]
        return chat_layouts.said(turns), None

    def joined(row: Row, place: str) -> tuple[str, Any]:
        """Return the text with its input behind it, where that is not empty."""
        return with_input(*(_text(row, name, place) for name in (own.text, own.input or ""))), None

    texts = spoken if own.messages is not None else joined if own.input is not None else None
    return Target(
        labels=Labels(names=()),
        fields=of_columns if own.messages is None else of_messages,
        texts=texts,
        compares_labels=False,
    )


def with_input(text: str, added: str) -> str:
    """Return a text with its input behind it, as Alpaca has it; what is empty is left out."""
    return "\n\n".join(part for part in (text, added) if part.strip())


def _turns(row: Row, own: Columns, place: str) -> chat_layouts.Turns:
    """Return a row's conversation; before it the system prompt, where a column of its own has one.

    Raises DataError for two system prompts.
    """
    turns = chat_layouts.turns_of(field_of(row, own.messages or "", place), place)
    system = _text(row, own.system, place) if own.system is not None else ""
    if not system.strip():
        return turns
    if turns[0]["role"] == "system" and turns[0]["content"] != system:
        raise DataError(f"{place}: the conversation has a system turn, and {own.system!r} another; remove one")
    return [{"role": "system", "content": system}, *(turn for turn in turns if turn["role"] != "system")]


def _text(row: Row, column: str, place: str) -> str:
    value = field_of(row, column, place)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: the column {column!r}: expected text, got {value!r:.60}")
    return value or ""


def _references(row: Row, column: str, place: str, may_lack: bool) -> list[str]:
    """Return the texts of a row's references. Raises DataError for none, or an empty one, unless it may lack them."""
    value = field_of(row, column, place)
    texts = [value] if isinstance(value, str) or value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
        raise DataError(f"{place}: the column {column!r}: expected a text or a list of texts, got {value!r:.60}")
    empty = not texts or any(not (text or "").strip() for text in texts)
    if empty and not may_lack:
        raise DataError(
            f"{place} has an empty reference ({column!r}); write one, or set filters.drop_empty: true, which leaves "
            "such rows out"
        )
    return [text for text in texts if (text or "").strip()]
