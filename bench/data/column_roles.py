"""Finds the task of a data set, and which column is what, by names and types. Asks where two could be meant.

Names that a layout is known by (`premise` and `hypothesis`, `context` and `answers`, `messages`) are taken as what they
say, and so are `text` and `label`, which every card means without `columns`. All else must be the only one possible.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.cards import COMPOSED
from bench.data.columns import Column, Look, shown
from bench.data.label_names import HIDDEN
from bench.data.labels import FEW_ROWS
from bench.errors import RecipeError, nearest

CLASSIFICATION, ANSWERS, REGRESSION = "text_classification", "question_answering", "regression"
TAGGING, CHOICE, GENERATION = "token_classification", "multiple_choice", "generation"
# Column names of two texts that are judged together: the first is `text`, the second `text_pair`.
_PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"),
    ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"), ("sentence_A", "sentence_B"), ("text_a", "text_b"),
    ("text_1", "text_2"), ("question", "sentence"), ("passage", "question"), ("text", "text_pair"),
    ("claim", "evidence"), ("query", "passage"), ("query", "document"),
)  # fmt: skip
# Prompts and references of text that is to be generated.
_GENERATED = (
    ("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"),
    ("document", "summary"), ("dialogue", "summary"), ("article", "highlights"), ("article", "summary"),
)  # fmt: skip
_CONVERSATIONS = ("messages", "conversations", "conversation")
_LABELS = ("label", "labels")
_SCORES = ("label", "score", "similarity_score", "similarity")
_QUESTIONS = ("premise", "question", "ctx", "query", "stem", "prompt", "text")
_CHOICES = ("choices", "endings", "options", "candidates")
_RIGHT = ("answerKey", "label", "answer", "answer_index", "correct")
_WORDS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "upos")
# Names of rows, and the columns that pandas makes of its index.
_IDENTITIES = ("id", "idx", "guid", "uid", "uuid", "_id", "ID", "Id", "", "index", "Unnamed: 0")
# As many different values as a column of labels may have, and as many words as the name of a label.
_MOST_LABELS, _MOST_WORDS = 1000, 6


@dataclass(kw_only=True)
class Roles:
    """The task, and `columns` as a card has them; multi_label: whether a row has a list of labels."""

    task: str
    columns: dict[str, Any] = field(default_factory=dict)
    multi_label: bool = False
    notes: list[str] = field(default_factory=list)


def find(look: Look, given: Mapping[str, Any], task: str | None, *, has_labels: bool = False) -> Roles:
    """Return the task and the columns. given: columns that the person names; task: the task, where named.

    has_labels: whether the person lists the labels, so that each may stand in one row.

    Raises RecipeError for a column that is not there, and where the data do not say which one is meant.
    """
    _check_given(look, given)
    task = task or _task_of(given)
    for known, layout in _LAYOUTS.items():
        if task in (None, known) and (found := layout(look.columns, given)) is not None:
            _refuse_two_tasks(look, known, task)
            if isinstance(found.get("tags"), list):
                raise _question(look, "column of tags", found["tags"], {**found, "tags": found["tags"][0]}, "")
            return Roles(task=known, columns={**found, **given}, notes=_layout_notes(known, found, task))
    if task in (None, CLASSIFICATION, REGRESSION):
        return _labelled(look, given, task, has_labels)
    if task in _NEEDED and set(_NEEDED[task]) <= given.keys():
        return Roles(task=task, columns=dict(given))
    if task not in _NEEDED:
        return Roles(task=str(task), columns=dict(given))
    line = ", ".join(f"{key}: ..." for key in _NEEDED[task])
    raise RecipeError(
        f"{look.place}: its columns ({_described(look)}) do not say which are those of task {task!r}; write `columns: "
        f"{{{line}}}`"
    )


def _check_given(look: Look, given: Mapping[str, Any]) -> None:
    """Raise RecipeError for columns that are named and not there; of a list of columns each."""
    for key, value in given.items():
        for name in value if isinstance(value, list | tuple) else [value]:
            if isinstance(name, str) and name not in look.columns:
                near = nearest(name, look.columns)
                hint = f"did you mean {near!r}?" if near else f"its columns are {_described(look)}"
                raise RecipeError(f"{look.place}: there is no column {name!r}, which `columns.{key}` names; {hint}")


def _task_of(given: Mapping[str, Any]) -> str | None:
    """Return the task that the columns which a person names are of, where only one has such."""
    keys = {"answers": ANSWERS, "tokens": TAGGING, "tags": TAGGING, "choices": CHOICE}
    keys |= {"reference": GENERATION, "messages": GENERATION}
    return next((task for key, task in keys.items() if given.get(key) is not None), None)


def _refuse_two_tasks(look: Look, found: str, asked: str | None) -> None:
    """Raise RecipeError for texts to be generated that have a label beside them: they may be there to be judged."""
    label = next((name for name in _LABELS if name in look.columns), None)
    if found == GENERATION and asked is None and label is not None:
        raise RecipeError(
            f"{look.place}: it could be texts to generate, or to classify by {shown([label], look)}; write `task: "
            f"{GENERATION}` or `task: {CLASSIFICATION}`"
        )


def _layout_notes(task: str, found: Mapping[str, Any], asked: str | None) -> list[str]:
    named = ", ".join(f"{key} from {value!r}" for key, value in found.items() if key != "id")
    return [] if asked is not None else [f"the columns are those of task {task}: {named}"]


# ---------------------------------------------------------------- layouts that are known by their names


Columns = Mapping[str, Column]
Given = Mapping[str, Any]


def _first(columns: Columns, names: Iterable[str], wanted: Callable[[Column], bool]) -> str | None:
    return next((name for name in names if name in columns and wanted(columns[name])), None)


def _is_text(column: Column) -> bool:
    return column.kind == "text" and not column.is_list


def _answers(columns: Columns, _: Given) -> dict[str, Any] | None:
    answers = columns.get("answers")
    if answers is None or not {"context", "question"} <= columns.keys():
        return None
    if answers.kind != "mapping" or not {"text", "answer_start"} <= set(answers.keys):
        return None
    found = {"text": "context", "text_pair": "question", "answers": "answers"}
    found |= {"id": "id"} if "id" in columns else {}
    return found | ({"group": "title"} if "title" in columns else {})


def _is_choices(column: Column) -> bool:
    """Return whether a column has a list of choices in each row, or as ARC has them, their texts and letters."""
    inside = column.kind == "mapping" and "text" in column.keys
    return inside or (column.is_list and column.kind == "text")


def _choices(columns: Columns, given: Given) -> dict[str, Any] | None:
    choices: Any = given.get("choices") or _first(columns, _CHOICES, _is_choices)
    if choices is None:
        numbered = [
            name for stem in ("ending", "choice", "option") for name in columns if re.fullmatch(rf"{stem}\d", name)
        ]
        choices = sorted(numbered) if len(numbered) > 1 else None
    question = given.get("text") or _first(columns, _QUESTIONS, _is_text)
    right = given.get("label") or next((name for name in _RIGHT if name in columns), None)
    if choices is None or question is None or right is None:
        return None
    # COPA asks for the cause or the effect of its premise.
    more = {"text_pair": "question"} if question == "premise" and "question" in columns else {}
    return {"text": question, **more, "choices": choices, "label": right}


def _tags(columns: Columns, given: Given) -> dict[str, Any] | None:
    words = given.get("tokens") or _first(columns, _WORDS, lambda one: one.is_list and one.kind == "text")
    tags = [name for name in _TAGS if name in columns and columns[name].is_list]
    tags = [given["tags"]] if given.get("tags") else tags
    if words is None or not tags:
        return None
    if len(tags) > 1:
        return {"tokens": words, "tags": tags}
    return {"tokens": words, "tags": tags[0]}


def _generation(columns: Columns, given: Given) -> dict[str, Any] | None:
    if given.get("messages") or given.get("reference"):
        return {}
    messages = _first(columns, _CONVERSATIONS, lambda one: one.is_list and one.kind == "mapping")
    if messages is not None:
        return {"messages": messages}
    for prompt, reference in _GENERATED:
        if all(name in columns and _is_text(columns[name]) for name in (prompt, reference)):
            more = {"input": "input"} if prompt == "instruction" and "input" in columns else {}
            return {"text": prompt, **more, "reference": reference}
    return None


def _scored_pair(columns: Columns, given: Given) -> dict[str, Any] | None:
    """Return the columns of the form of STS-B: two texts and a number with fractions."""
    pair = _pair_of([name for name, column in columns.items() if _is_text(column)])
    score = given.get("label") or _first(columns, _SCORES, lambda one: one.kind == "float" and not one.is_list)
    if pair is None or score is None or columns[score].kind != "float":
        return None
    return {"text": pair[0], "text_pair": pair[1], "label": score}


_LAYOUTS: dict[str, Callable[[Columns, Given], dict[str, Any] | None]] = {
    ANSWERS: _answers,
    GENERATION: _generation,
    TAGGING: _tags,
    CHOICE: _choices,
    REGRESSION: _scored_pair,
}
_NEEDED: dict[str, tuple[str, ...]] = {
    ANSWERS: ("text", "text_pair", "answers"),
    GENERATION: ("text", "reference"),
    TAGGING: ("tokens", "tags"),
    CHOICE: ("text", "choices", "label"),
}


# ---------------------------------------------------------------- a text, or two, and a label


def _labelled(look: Look, given: Given, task: str | None, has_labels: bool) -> Roles:
    """Return the columns of texts with a label or a number."""
    found, notes = dict(given), []
    if not given.get("label_flags"):
        found["label"] = given.get("label") or _label(look, given, task)
        task = _checked_label(look, found["label"], task, has_labels)
        if "label" not in given and found["label"] != "label":
            notes.append(f"the label is read from {found['label']!r}")
    if "text" not in given:
        found |= {key: name for key, name in _texts(look, found).items() if key not in given}
        pair = f" and {found['text_pair']!r}" if found.get("text_pair") else ""
        notes += [] if (found["text"], pair) == ("text", "") else [f"the text is read from {found['text']!r}{pair}"]
    label = look.columns.get(str(found.get("label")))
    used = {*found.values(), *_IDENTITIES}
    used |= {column for template in look.source.compose.values() for column in COMPOSED.findall(template)}
    unused = [name for name in look.columns if name not in used]
    if unused and not given.get("label_flags"):
        notes.append(f"columns that are not used: {', '.join(unused[:12])}{', ...' if len(unused) > 12 else ''}")
    return Roles(
        task=task or CLASSIFICATION,
        columns=found,
        multi_label=bool(given.get("label_flags")) or (label is not None and label.is_list),
        notes=notes,
    )


def _label(look: Look, given: Given, task: str | None) -> str:
    """Return the column of labels: `label` or `labels`, the only one with class names, or the only one possible."""
    taken = {value for value in given.values() if isinstance(value, str)}
    columns = {name: column for name, column in look.columns.items() if name not in taken}
    usual = [name for name in _LABELS if name in columns]
    if len(usual) == 1:
        return usual[0]
    named = [name for name, column in columns.items() if column.kind == "class"]
    if len(named) == 1:
        return named[0]
    numbers = [name for name, column in columns.items() if column.kind == "float" and not column.is_list]
    if task == REGRESSION:
        whole = [name for name, one in columns.items() if one.kind == "int" and name not in _IDENTITIES]
        possible = numbers if len(numbers) == 1 else [*numbers, *whole]
    else:
        possible = usual or named or [name for name in columns if _could_be_label(look, columns[name])]
    if len(possible) == 1:
        return possible[0]
    text = given.get("text") or next((name for name in look.columns if _is_texts(look, name)), "...")
    if not possible:
        floats = ""
        if numbers and task is None:
            floats = f"; {shown(numbers[:1], look)} holds numbers with fractions: did you mean `task: {REGRESSION}`?"
        raise RecipeError(
            f"{look.place}: none of its columns ({_described(look)}) can be told to be the label; name it, as "
            f"`columns: {_flow({'text': text, 'label': '...'})}`{floats}"
        )
    flags = [name for name in possible if set(look.counts(name)) <= {"0", "1", "true", "false"}]
    more = ""
    if len(flags) > 1:
        more = f"; where each column is a label of its own, write `labels: [{', '.join(map(_word, flags))}]`, "
        more += "`multi_label: true` and `columns: {label_flags: true}`"
    raise _question(look, "label", possible, {"text": text, "label": possible[0]}, more)


def _could_be_label(look: Look, column: Column) -> bool:
    """Return whether a column has few values that repeat, none of them long."""
    if column.name in _IDENTITIES or column.kind in ("float", "mapping", "empty", "other"):
        return False
    counts = look.counts(column.name)
    counts.pop(HIDDEN, None)
    few = 2 <= len(counts) <= min(_MOST_LABELS, max(2, counts.total() // 2))
    return few and all(len(value.split()) <= _MOST_WORDS for value in counts)


def _checked_label(look: Look, name: str, task: str | None, has_labels: bool) -> str:
    """Return the task of a label's column. Raises RecipeError for numbers with fractions, and for names of rows."""
    column = look.columns[name]
    if task == REGRESSION or column.is_list:
        return task or CLASSIFICATION
    if column.kind == "float":
        raise RecipeError(
            f"{look.place}: the column {name!r} holds numbers with fractions ({look.example(name)}); did you mean "
            f"`task: {REGRESSION}`? For labels, name another column, or write the numbers as names"
        )
    if column.kind == "class" or has_labels:
        return CLASSIFICATION
    counts = look.counts(name)
    counts.pop(HIDDEN, None)
    if counts.total() >= FEW_ROWS and len(counts) > counts.total() / 2:
        raise RecipeError(
            f"{look.place}: the column {name!r} has {len(counts)} different values in {counts.total()} rows "
            f"({look.example(name)}), which are names of rows and not labels; name another with `columns: "
            f"{_flow({'label': '...'})}`, or list all of them in `labels`"
        )
    return CLASSIFICATION


def _texts(look: Look, found: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of the text, and of a second one where two are judged together."""
    taken = {value for value in found.values() if isinstance(value, str)}
    texts = [name for name, column in look.columns.items() if _is_text(column) and name not in taken]
    if (pair := _pair_of(texts)) is not None:
        return {"text": pair[0], "text_pair": pair[1]}
    if "text" in texts:
        return {"text": "text"}
    texts = [name for name in texts if name not in _IDENTITIES] or texts
    if len(texts) > 1:
        texts = [name for name in texts if _is_texts(look, name)] or texts
    if len(texts) == 1:
        return {"text": texts[0]}
    label = found.get("label", "label")
    if not texts:
        raise RecipeError(
            f"{look.place}: none of its columns ({_described(look)}) holds texts; name one, as `columns: "
            f"{_flow({'text': '...', 'label': label})}`"
        )
    two = "; for two texts that are judged together, `columns: "
    two += f"{_flow({'text': texts[0], 'text_pair': texts[1], 'label': label})}`; for one text of both, "
    whole = f"{{{texts[0]}}}: {{{texts[1]}}}"
    two += f"`compose: {{whole: {json.dumps(whole)}}}` and `columns: {_flow({'text': 'whole', 'label': label})}`"
    raise _question(look, "text", texts, {"text": texts[0], "label": label}, two)


def _pair_of(texts: Sequence[str]) -> tuple[str, str] | None:
    """Return the two columns that are known as a pair, where there is one such pair, and no `text` beside it."""
    pairs = [pair for pair in _PAIRS if set(pair) <= set(texts)]
    alone = len(pairs) == 1 and ("text" in pairs[0] or "text" not in texts)
    return pairs[0] if alone else None


def _is_texts(look: Look, name: str) -> bool:
    """Return whether a column holds texts, not names of rows, addresses or a few words that repeat."""
    column = look.columns[name]
    if not _is_text(column) or name in _IDENTITIES or _could_be_label(look, column):
        return False
    return any(len(str(value).split()) > 1 for value in look.values(name))


# ---------------------------------------------------------------- sentences


def _question(look: Look, what: str, names: Sequence[str], line: Mapping[str, str], more: str) -> RecipeError:
    """Return the error that asks which column is meant. line: what to write for the first; more: another way."""
    could = f"{look.place}: the {what} could be {shown(names, look)}"
    return RecipeError(f"{could}; write the one you mean, as `columns: {_flow(line)}`{more}")


def _described(look: Look) -> str:
    names = list(look.columns)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"{name!r}, e.g. {look.example(name)}" for name in names[:8]) + more


def _flow(line: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {_word(value)}" for key, value in line.items()) + "}"


def _word(value: str) -> str:
    """Return a text as YAML takes it: in quotes where it would be something else."""
    plain = value == "..." or re.fullmatch(r"[A-Za-z_][\w-]*( [\w-]+)*", value)
    is_word = plain and value.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    return value if is_word else json.dumps(value, ensure_ascii=False)
