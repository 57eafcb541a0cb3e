"""Names of modules in an adapter's options: each must be in the model, before PEFT takes what matches and no more."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bench.errors import SetupError, nearest

# Names that a message lists at most.
_SHOWN = 12
# How alike a misspelt word and a name must be, by difflib.
_NEAR = 0.8
# What PEFT takes for more than a name.
_WORDS = ("all-linear",)


def check_names(model: Any, options: dict[str, Any], *, trained: Sequence[str] = ()) -> None:
    """Raise SetupError for a name in an adapter's options that is of no module of a plain model.

    options: fields of a PEFT class. trained: modules that are trained in full, whether or not the options name them.
    PEFT itself refuses a list of which nothing matches, and drops single names that match nothing.
    """
    modules = [name for name, _ in model.named_modules() if name]
    for key, value in options.items():
        if key == "modules_to_save":
            for name in value or ():
                _check_name(key, name, modules)
                if name not in trained:
                    _check_end(key, name, modules)
        elif key.endswith("_modules") and isinstance(value, str) and value not in _WORDS:
            _check_pattern(key, value, modules)
        elif key.endswith("_modules") and not isinstance(value, str):
            for name in value or ():
                _check_name(key, name, modules)
        elif key == "layers_pattern":
            for name in [value] if isinstance(value, str) else value or ():
                _check_layers(key, name, modules)
        elif key == "target_parameters":
            for name in value or ():
                _check_name(key, name, [name for name, _ in model.named_parameters()], kind="parameter")
        elif key == "trainable_token_indices" and value is not None:
            for name in value if isinstance(value, dict) else ():
                _check_name(key, name, modules)
            _check_tokens(key, value, model)


def is_of(name: str, path: str) -> bool:
    """Return whether a path in the model is a name, or ends with it as whole parts."""
    return path == name or path.endswith(f".{name}")


def _check_name(key: str, name: str, paths: list[str], kind: str = "module") -> None:
    if not any(is_of(name, path) for path in paths):
        raise SetupError(f"method.config.{key}: the model has no {kind} {name!r}.{hint(name, paths)}")


def _check_end(key: str, name: str, modules: list[str]) -> None:
    """Raise SetupError where PEFT, which compares ends of names, would train more modules than those of the name."""
    more = sorted({path.rpartition(".")[2] for path in modules if path.endswith(name) and not is_of(name, path)})
    if more:
        whole = next(path for path in modules if is_of(name, path))
        raise SetupError(
            f"method.config.{key}: PEFT would train {', '.join(map(repr, more[:_SHOWN]))} too, whose names end with "
            f"{name!r}; write the whole name, as in {whole!r}"
        )


def _check_pattern(key: str, pattern: str, modules: list[str]) -> None:
    try:
        matches = any(re.fullmatch(pattern, path) for path in modules)
    except re.error as error:
        raise SetupError(f"method.config.{key}: {pattern!r} is no regular expression: {error}") from error
    if matches:
        _check_words(key, pattern, modules)
        return
    if any(is_of(pattern, path) for path in modules):
        raise SetupError(
            f"method.config.{key}: a text is a pattern of whole names; write the name in a list: [{pattern}]"
        )
    words = re.sub(r"[^\w.]", "", pattern).strip(".")
    raise SetupError(f"method.config.{key}: the pattern {pattern!r} matches no module.{hint(words, modules)}")


def _check_words(key: str, pattern: str, modules: list[str]) -> None:
    """Raise SetupError for a misspelt alternative in a pattern, as `valu` in `.*(query|valu)`: it matches nothing.

    Such a word ends an alternative and is near to a module's name, and the pattern matches the same without it. One
    that is far from all names may be of another family; of flags and looks ahead and behind nothing is said.
    """
    if re.search(r"\(\?(?!:)", pattern):
        return
    # Escapes, sets and repeated letters are no words; blanks keep the places.
    plain = re.sub(r"\\.|\[[^\]]*\]|\w(?=[*+?{])", lambda found: " " * len(found[0]), pattern)
    parts = sorted({part for path in modules for part in path.split(".") if not part.isdigit()})
    for word in re.finditer(r"[^\W\d]\w{2,}(?=[|)]|$)", plain):
        without = f"{pattern[: word.start()]}\0{pattern[word.end() :]}"
        near = [] if word[0] in parts else difflib.get_close_matches(word[0], parts, n=1, cutoff=_NEAR)
        if near and not any(re.fullmatch(pattern, path) and not re.fullmatch(without, path) for path in modules):
            raise SetupError(
                f"method.config.{key}: {word[0]!r} in the pattern {pattern!r} matches no module. Did you mean "
                f"{near[0]!r}?"
            )


def _check_layers(key: str, name: str, modules: list[str]) -> None:
    if not any(re.match(rf"(?:^|.*?\.){name}\.\d+(\.|$)", path) for path in modules):
        lists = sorted({path.split(".")[-2] for path in modules if re.search(r"\.\d+$", path)})
        raise SetupError(f"method.config.{key}: the model has no list of layers {name!r}.{hint(name, lists)}")


def _check_tokens(key: str, value: Any, model: Any) -> None:
    size = model.get_input_embeddings().weight.shape[0]
    for numbers in value.values() if isinstance(value, dict) else [value]:
        for number in numbers:
            if not 0 <= number < size:
                raise SetupError(f"method.config.{key}: {number} is no token of the model's vocabulary of {size}")


def hint(name: str, paths: Iterable[str]) -> str:
    """Return ' Did you mean ...?' with the nearest name of as many parts, else a few of those that there are."""
    parts = name.count(".") + 1
    known = sorted({".".join(path.split(".")[-parts:]) for path in paths if not path.rpartition(".")[2].isdigit()})
    near = nearest(name, known)
    if near is not None:
        return f" Did you mean {near!r}?"
    shown = ", ".join(known[:_SHOWN])
    return f" There are: {shown}{', ...' if len(known) > _SHOWN else ''}." if known else ""
