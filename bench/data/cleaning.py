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
# Characters without a shape (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern): joiners, marks of
# direction and byte order, soft hyphens, fillers, selectors of variants.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
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
    """Return the text as it is compared with others, for leakage and for labels.

    Case-folded, in Unicode's compatibility form (NFKC: full-width letters become plain ones), with single spaces, and
    without characters that are not seen.
    """
    if not text.isascii():
        text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
        # Folding may undo the composition, as in U+0390.
        return " ".join(unicodedata.normalize("NFKC", text.casefold()).split())
    return " ".join(text.casefold().split())


def is_blank(text: str) -> bool:
    """Return whether there is nothing to be seen in a text: white space and characters without a shape."""
    return not text.strip() or not trimmed(text)


def trimmed(text: str) -> str:
    """Return the text without white space at its ends and without characters that are not seen."""
    return (text if text.isascii() else _UNSEEN.sub("", text)).strip()
