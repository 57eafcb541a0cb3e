"""Layouts of instruction and chat data: Alpaca, ShareGPT, OpenAI and columns in pairs; conversations as user and
assistant turns.

A conversation is a system turn or none, then turns of user and assistant by turns; its last turn is the answer.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import DataError, did_you_mean

Turns = list[dict[str, str]]
# A role as data sets write it -> as chat templates know it. OpenAI's "developer" is its newer name of "system".
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
}
# Keys of a turn: who says it, what is said.
_KEYS: Mapping[str, tuple[str, str]] = {"openai": ("role", "content"), "sharegpt": ("from", "value")}
# Columns of a prompt, of what is added to it, and of its answer, by layout; the first that fits is taken.
_PROMPTS: Sequence[tuple[str, str, str | None, str]] = (
    ("alpaca", "instruction", "input", "output"),
    ("dolly", "instruction", "context", "response"),
    ("instruction_response", "instruction", "input", "response"),
    ("alpaca", "instruction", None, "output"),
    ("instruction_response", "instruction", None, "response"),
    ("prompt_completion", "prompt", None, "completion"),
    ("prompt_response", "prompt", None, "response"),
    ("query_response", "query", None, "response"),
    ("prompt_reference", "prompt", None, "reference"),
    ("text_reference", "text", None, "reference"),
    ("dialogue_summary", "dialogue", None, "summary"),
    ("document_summary", "document", None, "summary"),
    ("article_highlights", "article", None, "highlights"),
    ("article_summary", "article", None, "summary"),
)
# Columns that are known to hold conversations, before all others that do.
CONVERSATIONS = ("messages", "conversations", "conversation")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout by its name, and what a dataset card says of its columns: `text`, `input`, `reference`, `messages`."""

    name: str
    columns: dict[str, str]


def layout_of(
    texts: Collection[str], turns: Mapping[str, Collection[str]], given: Mapping[str, Any] | None = None
) -> Layout | None:
    """Return the layout of a table of prompts and answers, or of conversations; None for any other table.

    texts: names of columns of texts, or of lists of them. turns: name of a column of lists of mappings -> keys of
    these. given: the columns that a person names, which the layout must have in these places. Raises DataError for two
    columns of conversations.
    """
    given = given or {}
    chats = {name: kind for name, keys in turns.items() if (kind := _kind_of(keys)) is not None}
    if chats and not given.get("text") and not given.get("reference"):
        known = [name for name in CONVERSATIONS if name in chats] or list(chats)
        if len(known) > 1:
            raise DataError(
                f"several columns hold conversations: {', '.join(known)}; write the one you mean, as `columns: "
                f"{{messages: {known[0]}}}`"
            )
        return Layout(name=chats[known[0]], columns={"messages": known[0]})
    for layout, prompt, added, answer in _PROMPTS:
        wanted = {"text": prompt, **({"input": added} if added else {}), "reference": answer}
        fits = all(given.get(key, name) == name for key, name in wanted.items())
        if fits and set(wanted.values()) <= set(texts):
            return Layout(name=layout, columns=wanted)
    return None


def keys_of_json(value: Any) -> tuple[str, ...]:
    """Return the keys of the first turn of a conversation in JSON, as a cell of a CSV has it; of all else ()."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return ()
    try:
        turns = json.loads(value)
    except (ValueError, RecursionError):
        return ()
    return tuple(turns[0]) if turns and isinstance(turns[0], Mapping) else ()


def _kind_of(keys: Collection[str]) -> str | None:
    """Return "openai" or "sharegpt" for the keys of a turn, else None."""
    return next((kind for kind, known in _KEYS.items() if set(known) <= set(keys)), None)


def turns_of(value: Any, place: str, *, answered: bool | None = True) -> Turns:
    """Return a conversation as {"role", "content"} of system, user and assistant. value: a list, or its JSON.

    Raises DataError, with `place`, for an unknown role, one out of order, an empty turn, and for a last turn that is
    not the assistant's; the user's, where it is not yet `answered` (False). None: either may end it.
    """
    if isinstance(value, str):
        value = _parsed(value, place)
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: expected a list of turns with `role` and `content`, got {value!r:.60}")
    turns = [_turn(item, f"{place}, turn {number}") for number, item in enumerate(value, start=1)]
    roles = [turn["role"] for turn in turns]
    begun = 1 if roles[0] == "system" else 0
    for number, role in enumerate(roles[begun:]):
        expected = ("user", "assistant")[number % 2]
        if role != expected:
            raise DataError(
                f"{place}, turn {begun + number + 1}: it is the {role}'s, expected the {expected}'s: a conversation "
                "begins with the user, after a system turn or none, and user and assistant take turns"
            )
    if answered is False and roles[-1] != "user":
        raise DataError(f"{place}: the last turn is the {roles[-1]}'s, so that there is nothing to answer")
    if answered and roles[-1] != "assistant":
        raise DataError(f"{place}: the last turn is the {roles[-1]}'s, so that there is no answer to learn or to score")
    return turns


def said(turns: Turns) -> str:
    """Return the text of a conversation: what is said in it, but for the system's turn."""
    return "\n\n".join(turn["content"] for turn in turns if turn["role"] != "system")


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: expected a list of turns, or its JSON, got {text[:60]!r}") from error


def _turn(item: Any, place: str) -> dict[str, str]:
    keys = next((keys for keys in _KEYS.values() if isinstance(item, Mapping) and set(keys) <= set(item)), None)
    if keys is None:
        raise DataError(f"{place}: expected `role` and `content` (or `from` and `value`), got {item!r:.60}")
    role, content = item[keys[0]], item[keys[1]]
    if not isinstance(role, str) or role.strip().lower() not in ROLES:
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise DataError(f"{place}: unknown role {role!r:.60}; calls of tools are not supported.{hint}")
    if item.get("tool_calls"):
        raise DataError(f"{place}: it calls a tool (`tool_calls`), which is not supported; leave such rows out")
    return {"role": ROLES[role.strip().lower()], "content": _content(content, place)}


def _content(content: Any, place: str) -> str:
    if isinstance(content, list):  # OpenAI's parts of a message
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if None in parts:
            raise DataError(f"{place}: it has a part that is not text; images and the like are not supported")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise DataError(f"{place}: expected its content as text, got {content!r:.60}")
    if not content.strip():
        raise DataError(f"{place}: its content is empty; remove the row")
    return content
