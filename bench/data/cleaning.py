"""Clean-up steps for texts, by name. A card lists them in order; each is a pure function of one text."""

import html
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.config.cards import CLEANING_STEPS, is_cleaning_step
from bench.errors import SetupError, did_you_mean

_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_HANDLE = re.compile(r"(?<!\w)@\w+")
# "awww..." is no address; what stands before one must not be a part of a word.
_URL = re.compile(r"(?<!\w)(?:https?://|www\.\w)\S+", re.IGNORECASE)


def strip(text: str) -> str:
    """Removes white space at both ends."""
    return text.strip()


def html_breaks(text: str) -> str:
    """`<br />` becomes a line break, `&amp;` and its like the character they stand for."""
    return html.unescape(_BREAK.sub("\n", text))


def handles(text: str) -> str:
    """`@name` becomes `@user`, so that nobody is memorised."""
    return _HANDLE.sub("@user", text)


def urls(text: str) -> str:
    """Any web address becomes `http`."""
    return _URL.sub("http", text)


def whitespace(text: str) -> str:
    """Runs of white space become one space."""
    return " ".join(text.split())


STEPS: dict[str, Callable[[str], str]] = {
    function.__name__: function for function in (strip, html_breaks, handles, urls, whitespace)
}


def steps(names: tuple[str, ...]) -> list[Callable[[str], str]]:
    """The named steps in order; `lemmas:MODEL` uses an installed spaCy pipeline. Raises SetupError for any other."""
    found: list[Callable[[str], str]] = []
    for name in names:
        if not is_cleaning_step(name):
            raise SetupError(f"there is no clean-up step {name!r}.{did_you_mean(name, CLEANING_STEPS)}")
        if name.startswith("lemmas:"):
            found.append(partial(_lemmatize, _spacy_pipeline(name.partition(":")[2])))
        else:
            found.append(STEPS[name])
    return found


def _spacy_pipeline(model: str) -> Any:
    try:
        import spacy

        return spacy.load(model, disable=["ner", "parser"])
    except ImportError as error:
        raise SetupError("the clean-up step 'lemmas' needs spaCy, which is not installed: pip install spacy") from error
    except OSError as error:
        raise SetupError(f"spaCy's model {model!r} is not installed: python -m spacy download {model}") from error


def _lemmatize(pipeline: Any, text: str) -> str:
    return " ".join(token.lemma_ for token in pipeline(text))


def normalized(text: str) -> str:
    """Case folded, composed (NFC), with single spaces: texts that agree in this are one for the leakage check."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())
