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
# "awww..." is not an address: what precedes one must not be a part of a word.
_URL = re.compile(r"(?<!\w)(?:https?://|www\.\w)\S+", re.IGNORECASE)


def strip(text: str) -> str:
    """Remove white space at both ends."""
    return text.strip()


def html_breaks(text: str) -> str:
    """Replace `<br />` by a line break, and entities like `&amp;` by their characters."""
    return html.unescape(_BREAK.sub("\n", text))


def handles(text: str) -> str:
    """Replace `@name` by `@user`, so that nobody is memorised."""
    return _HANDLE.sub("@user", text)


def urls(text: str) -> str:
    """Replace every web address by `http`."""
    return _URL.sub("http", text)


def whitespace(text: str) -> str:
    """Replace runs of white space by one space."""
    return " ".join(text.split())


STEPS: dict[str, Callable[[str], str]] = {
    function.__name__: function for function in (strip, html_breaks, handles, urls, whitespace)
}


def steps(names: tuple[str, ...]) -> list[Callable[[str], str]]:
    """Return the named steps in order; `lemmas:MODEL` uses an installed spaCy pipeline. Raises SetupError."""
    functions: list[Callable[[str], str]] = []
    for name in names:
        if not is_cleaning_step(name):
            raise SetupError(f"there is no clean-up step {name!r}.{did_you_mean(name, CLEANING_STEPS)}")
        if name.startswith("lemmas:"):
            functions.append(partial(_lemmatize, _spacy_pipeline(name.partition(":")[2])))
        else:
            functions.append(STEPS[name])
    return functions


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
    """Return the text case-folded, composed (NFC) and with single spaces, to compare texts for leakage."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())
