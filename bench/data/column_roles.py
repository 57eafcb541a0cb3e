"""Finds the task of a data set, and which column is what, by names and types. Asks where two could be meant.

Names that a layout is known by (`premise` and `hypothesis`, `context` and `answers`, `messages`) are taken as what they
say, and so are `text` and `label`, which every card means without `columns`. All else must be the only one possible.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.data_source import COMPOSED
from bench.data import chat_layouts
from bench.data.columns import Column, Look, shown
from bench.data.label_names import HIDDEN, key_of
from bench.data.labels import FEW_ROWS
from bench.errors import DataError, RecipeError, nearest

CLASSIFICATION, ANSWERS, REGRESSION = "text_classification", "question_answering", "regression"
TAGGING, CHOICE, GENERATION = "token_classification", "multiple_choice", "generation"
# Column names of two texts that are judged together: the first is `text`, the second `text_pair`.
_PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"),
    ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"), ("sentence_A", "sentence_B"), ("text_a", "text_b"),
    ("text_1", "text_2"), ("question", "sentence"), ("passage", "question"), ("text", "text_pair"),
    ("claim", "evidence"), ("query", "passage"), ("query", "document"),
)  # fmt: skip
_LABELS = ("label", "labels")
_SCORES = ("label", "score", "similarity_score", "similarity")
_QUESTIONS = ("premise", "question", "ctx", "query", "stem", "prompt", "text")
_SYSTEM = ("system", "system_prompt")
_CHOICES = ("choices", "endings", "options", "candidates")
_RIGHT = ("answerKey", "label", "answer", "answer_index", "correct")
_WORDS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "upos")
# Names of rows, and the columns that pandas makes of its index.
_IDENTITIES = ("id", "idx", "guid", "uid", "uuid", "_id", "ID", "Id", "", "index", "Unnamed: 0")
# As many different values as a column of labels may have, and as many words as the name of a label.
_MOST_LABELS, _MOST_WORDS = 1000, 6
# More words than these are no name of a column, where a label is one too.
_SHORT_NAME = 2
# As many rows as are looked at to see whether a column names one of their choices.
_FEW_LOOKED_AT = 1000


@dataclass(kw_only=True)
class Roles:
    """The task, and `columns` as a card has them; multi_label: whether a row has a list of labels."""

    task: str
    columns: dict[str, Any] = field(default_factory=dict)
    multi_label: bool = False
    notes: list[str] = field(default_factory=list)


def find(look: Look, given: Mapping[str, Any], task: str | None, *, has_labels: bool = False) -> Roles:
    """Return the task and the columns. given: columns that the person names; task: the task, where named.

    has_labels: whether the person lists the labels, so that each may have one row only.

    Raises RecipeError for a column that is not there, and where the data do not say which one is meant.
    """
    _check_given(look, given)
    task = task or _task_of(look, given)
    found = _layouts(look, given, task)
    _refuse_two_tasks(look, found, given, task)
    for known, columns in found.items():
        if isinstance(columns.get("tags"), list):
            raise _question(look, "column of tags", columns["tags"], {**columns, "tags": columns["tags"][0]}, "")
        columns |= given
        notes = [*_layout_notes(known, columns, task), *_unused_notes(look, columns)]
        return Roles(task=known, columns=columns, notes=notes)
    if task in (None, CLASSIFICATION, REGRESSION):
        return _labelled(look, given, task, has_labels)
    if task not in _NEEDED or set(_NEEDED[task]) <= given.keys():
        return Roles(task=str(task), columns=dict(given), notes=_unused_notes(look, given))
    line = ", ".join(f"{key}: ..." for key in _NEEDED[task])
    raise RecipeError(
        f"{look.place}: its columns ({_described(look)}) do not say which are those of task {task!r}; write `columns: "
        f"{{{line}}}`"
    )


def _layouts(look: Look, given: Mapping[str, Any], task: str | None) -> dict[str, dict[str, Any]]:
    """Return task -> columns of each layout that the table has, of one task where it is known.

    Columns that a person names decide: with a label that is named, only the layouts of labels are left, and texts that
    are named make it no table of words or of conversations.
    """
    by_label = task is None and bool(given.get("label") or given.get("label_flags"))
    left = (CHOICE, REGRESSION) if by_label else tuple(_LAYOUTS)
    if task is None and given.get("text"):
        left = tuple(known for known in left if known != TAGGING and not (by_label and known == CHOICE))
    found = {known: _LAYOUTS[known](look, given) for known in left if task in (None, known)}
    if task is None and (choice := found.get(CHOICE)) and not _names_a_choice(look, choice["choices"], choice["label"]):
        del found[CHOICE]
    return {known: columns for known, columns in found.items() if columns is not None}


def _check_given(look: Look, given: Mapping[str, Any]) -> None:
    """Raise RecipeError for columns that are named and not there; of a list of columns each."""
    for key, value in given.items():
        for name in value if isinstance(value, list | tuple) else [value]:
            if isinstance(name, str) and name not in look.columns:
                near = nearest(name, look.columns)
                hint = f"did you mean {near!r}?" if near else f"its columns are {_described(look)}"
                raise RecipeError(f"{look.place}: there is no column {name!r}, which `columns.{key}` names; {hint}")


def _task_of(look: Look, given: Mapping[str, Any]) -> str | None:
    """Return the task that the columns which a person names are of; None where several may have such.

    Raises RecipeError for columns of two tasks.
    """
    keys = {"answers": ANSWERS, "tokens": TAGGING, "tags": TAGGING, "choices": CHOICE}
    keys |= {"reference": GENERATION, "messages": GENERATION, "system": GENERATION}
    named = {key: task for key, task in keys.items() if given.get(key) is not None}
    tasks = list(dict.fromkeys(named.values()))
    if tasks and given.get("label") is not None and tasks != [CHOICE]:
        named["label"] = CLASSIFICATION
        tasks.append(CLASSIFICATION)
    if len(tasks) > 1:
        listed = " and ".join(f"`columns.{key}`" for key in named)
        raise RecipeError(f"{look.place}: {listed} are of different tasks; remove one, {_task_lines(tasks)}")
    return tasks[0] if tasks else None


def _refuse_two_tasks(
    look: Look, found: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], task: str | None
) -> None:
    """Raise RecipeError for a table that is of two tasks, as texts to generate that have a label beside them."""
    if task is not None or not found:
        return
    tasks = list(found)
    label = given.get("label") or next((name for name in _LABELS if name in look.columns), None)
    if label is not None and tasks != [REGRESSION] and _is_labelled_too(look, found, given, label):
        tasks.append(CLASSIFICATION)
    if len(tasks) > 1:
        what = {ANSWERS: "questions with answers", GENERATION: "texts to generate", TAGGING: "words with tags"}
        what |= {CHOICE: "choices, of which one is right", REGRESSION: "texts with a number"}
        could = [what[one] for one in tasks if one in what]
        could += [f"texts to classify by {shown([label], look)}"] if label and CLASSIFICATION in tasks else []
        raise RecipeError(f"{look.place}: it could be {', or '.join(could)}; write {_task_lines(tasks)}")


def _is_labelled_too(look: Look, found: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], label: str) -> bool:
    """Return whether a table with a layout may as well be one of texts with a label: the label is not the layout's."""
    known, columns = next(iter(found.items()))
    if known == CHOICE and columns["label"] == label:
        return bool(given.get("label")) or columns["text"] == "text"
    texts = [name for name, column in look.columns.items() if _is_text(column) and name not in _IDENTITIES]
    return label not in names_in(columns) and bool({*texts} - {label})


def _task_lines(tasks: Iterable[str]) -> str:
    return " or ".join(f"`task: {task}`" for task in dict.fromkeys(tasks))


def names_in(columns: Mapping[str, Any]) -> set[str]:
    """Return the names of columns among the values of a card's `columns`, also those in lists."""
    return {
        name for value in columns.values() for name in (value if isinstance(value, list | tuple) else [value]) if name
    }


def _unused_notes(look: Look, columns: Mapping[str, Any]) -> list[str]:
    """Return a note on the columns that nothing reads, and what can be done with a system prompt among them."""
    used = {*names_in(columns), *_IDENTITIES}
    used |= {column for template in look.source.compose.values() for column in COMPOSED.findall(template)}
    unused = [name for name in look.columns if name not in used]
    if not unused or columns.get("label_flags") is True:
        return []
    notes = [f"columns that are not used: {', '.join(unused[:12])}{', ...' if len(unused) > 12 else ''}"]
    system = next((name for name in _SYSTEM if name in unused), None)
    if system is not None and columns.get("text"):
        whole = json.dumps(f"{{{system}}}\n\n{{{columns['text']}}}", ensure_ascii=False)
        line = f"`compose: {{whole: {whole}}}` and `columns: {{text: whole, ...}}`"
        notes.append(f"the system prompts in {system!r} are not read; {line} put them before each text")
    return notes


def _layout_notes(task: str, found: Mapping[str, Any], asked: str | None) -> list[str]:
    named = ", ".join(f"{key} from {value!r}" for key, value in found.items() if key != "id")
    return [] if asked is not None else [f"the columns are those of task {task}: {named}"]


# ---------------------------------------------------------------- layouts that are known by their names


Given = Mapping[str, Any]


def _first(columns: Mapping[str, Column], names: Iterable[str], wanted: Callable[[Column], bool]) -> str | None:
    return next((name for name in names if name in columns and wanted(columns[name])), None)


def _is_text(column: Column) -> bool:
    return column.kind == "text" and not column.is_list


def _answers(look: Look, _: Given) -> dict[str, Any] | None:
    columns = look.columns
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


def _choices(look: Look, given: Given) -> dict[str, Any] | None:
    columns = look.columns
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


def _names_a_choice(look: Look, choices: str | list[str], right: str) -> bool:
    """Return whether a column says which choice is right, by a number, a letter or its text, in half of the rows.

    A row in which it does not is refused when the rows are read, and makes no other task of the data.
    """
    if look.source.kind == "hub" and not look.is_read:
        return True  # its rows say so when they are read
    rows = look.rows[:_FEW_LOOKED_AT]
    wrong = 0
    for row in rows:
        value = row.get(right)
        if value is None or value == "" or re.fullmatch(r"-?\d+(\.0)?|[A-Za-z]", str(value)):
            continue
        own: Any = [row.get(name) for name in choices] if isinstance(choices, list) else row.get(choices)
        own = own.get("text") if isinstance(own, Mapping) else own
        wrong += not isinstance(own, list) or value not in own
    return 2 * wrong <= len(rows)


def _tags(look: Look, given: Given) -> dict[str, Any] | None:
    columns = look.columns
    words = given.get("tokens") or _first(columns, _WORDS, lambda one: one.is_list and one.kind == "text")
    tags = [name for name in _TAGS if name in columns and columns[name].is_list]
    tags = [given["tags"]] if given.get("tags") else tags
    if words is None or not tags:
        return None
    if len(tags) > 1:
        return {"tokens": words, "tags": tags}
    return {"tokens": words, "tags": tags[0]}


def _generation(look: Look, given: Given) -> dict[str, Any] | None:
    if given.get("messages"):
        return _with_system(look, {})
    if given.get("text") and given.get("reference"):
        return {}
    # An input may be empty in every row.
    texts = [name for name, column in look.columns.items() if column.kind in ("text", "empty")]
    turns = {name: one.keys for name, one in look.columns.items() if one.is_list and one.kind == "mapping"}
    for name in set(texts) & set(chat_layouts.CONVERSATIONS):
        turns[name] = chat_layouts.keys_of_json(next(iter(look.values(name)), None))
    try:
        layout = chat_layouts.layout_of(texts, turns, given)
    except DataError as error:
        raise RecipeError(f"{look.place}: {error}") from error
    if layout is not None:
        return _with_system(look, layout.columns) if "messages" in layout.columns else dict(layout.columns)
    if not given.get("reference"):
        return None
    others = [name for name in texts if name not in (given["reference"], *_IDENTITIES)]
    if "text" in others or len(others) == 1:
        return {"text": "text" if "text" in others else others[0]}
    raise _question(look, "text", others or ["..."], {"text": (others or ["..."])[0], **given}, "")


def _with_system(look: Look, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of conversations, with that of their system prompts where there is one."""
    system = _first(look.columns, _SYSTEM, _is_text)
    return {**columns, **({"system": system} if system is not None else {})}


def _scored_pair(look: Look, given: Given) -> dict[str, Any] | None:
    """Return the columns of the form of STS-B: two texts and a number with fractions; a label goes before a score."""
    columns = look.columns
    pair = _pair_of([name for name, column in columns.items() if _is_text(column)])
    scores = _LABELS if any(name in columns for name in _LABELS) else _SCORES
    score = given.get("label") or _first(columns, scores, lambda one: one.kind == "float" and not one.is_list)
    if pair is None or score is None or columns[score].kind != "float":
        return None
    return {"text": pair[0], "text_pair": pair[1], "label": score}


_LAYOUTS: dict[str, Callable[[Look, Given], dict[str, Any] | None]] = {
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
    if "label" not in given and "text" not in given:
        _refuse_row_as_header(look, found)
    label = look.columns.get(str(found.get("label")))
    notes += _unused_notes(look, found)
    return Roles(
        task=task or CLASSIFICATION,
        columns=found,
        multi_label=bool(given.get("label_flags")) or (label is not None and label.is_list),
        notes=notes,
    )


def _refuse_row_as_header(look: Look, found: Mapping[str, Any]) -> None:
    """Raise RecipeError where the first line of a table reads as a row: a sentence, and one of the labels below it."""
    text, label = str(found.get("text")), str(found.get("label"))
    if (
        look.source.kind not in ("csv", "tsv")
        or len(text.split()) <= _SHORT_NAME
        or key_of(label) not in look.counts(label)
    ):
        return
    line = _flow({"text": text, "label": label})
    raise RecipeError(
        f"{look.place}: the first line looks like a row and not like the names of the columns: {label!r} is also a "
        f"label below it; write such a line, as `text,label`, or, where these are the names, `columns: {line}`"
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
        commas = [name for name, one in columns.items() if name not in _IDENTITIES and _has_decimal_commas(look, name)]
        if commas:
            raise _decimal_commas(look, commas[0])
        floats = ""
        if numbers and task is None:
            floats = f"; {shown(numbers[:1], look)} holds numbers with fractions: did you mean `task: {REGRESSION}`?"
        raise RecipeError(
            f"{look.place}: none of its columns ({_described(look)}) can be told to be the label; name it, as "
            f"`columns: {_flow({'text': text, 'label': '...'})}`{floats}{_written(look, given, text)}"
        )
    flags = [name for name in possible if set(look.counts(name)) <= {"0", "1", "true", "false"}]
    more = ""
    if len(flags) > 1:
        more = f"; where each column is a label of its own, write `labels: [{', '.join(map(_word, flags))}]`, "
        more += "`multi_label: true` and `columns: {label_flags: true}`"
    raise _question(look, "label", possible, {"text": text, "label": possible[0]}, more)


def _written(look: Look, given: Mapping[str, Any], text: str) -> str:
    """Return how to say that one of two columns of texts is the answer to the other; empty without a second one."""
    others = [name for name in look.columns if _is_texts(look, name) and name != text]
    if not others or text == "..." or given.get("label"):
        return ""
    line = _flow({"text": text, "reference": others[0]})
    return f"; for texts to be written, `task: {GENERATION}` and `columns: {line}`"


def _has_decimal_commas(look: Look, name: str) -> bool:
    """Return whether all values of a column are numbers, at least one of them with a comma in place of the point."""
    if not _is_text(look.columns[name]):
        return False
    values = [str(value).strip() for value in look.values(name)]
    return any("," in value for value in values) and all(re.fullmatch(r"[+-]?\d+([.,]\d+)*", one) for one in values)


def _decimal_commas(look: Look, name: str) -> RecipeError:
    example = next(str(value) for value in look.values(name) if "," in str(value))
    return RecipeError(
        f"{look.place}: the column {name!r} holds numbers with commas ({example!r}); write them with a point, as "
        f"{example.replace(',', '.')}, and set `task: {REGRESSION}`; where they are names of labels, list them all in "
        "`labels`"
    )


def _could_be_label(look: Look, column: Column) -> bool:
    """Return whether a column has few values that repeat, none of them long."""
    if column.name in _IDENTITIES or column.kind in ("float", "mapping", "empty", "other"):
        return False
    if column.is_list and column.name in (*_CHOICES, *_WORDS):  # of a layout that the table lacks the rest of
        return False
    counts = look.counts(column.name)
    counts.pop(HIDDEN, None)
    few = 2 <= len(counts) <= min(_MOST_LABELS, max(2, counts.total() // 2))
    return few and all(len(value.split()) <= _MOST_WORDS for value in counts)


def _checked_label(look: Look, name: str, task: str | None, has_labels: bool) -> str:
    """Return the task of a label's column. Raises RecipeError for numbers with fractions, and for names of rows."""
    column = look.columns[name]
    if not has_labels and _has_decimal_commas(look, name):
        raise _decimal_commas(look, name)
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
    whole = json.dumps(f"{{{texts[0]}}}: {{{texts[1]}}}", ensure_ascii=False)
    two += f"`compose: {{whole: {whole}}}` and `columns: {_flow({'text': 'whole', 'label': label})}`"
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
