"""Clean-up steps for texts, by name. A card lists them in order; each is a pure function of one text."""

import functools
import html
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.config.cards import CLEANING_STEPS, DatasetCard, is_cleaning_step
from bench.errors import SetupError, did_you_mean

_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_HANDLE = re.compile(r"(?<!\w)@\w+")
# Characters without a shape (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern): joiners, marks of
# direction and byte order, soft hyphens, fillers, selectors of variants.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# A letter of any alphabet.
_LETTER = re.compile(r"[^\W\d_]")
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


def lemmas(pipeline: Any, text: str) -> str:
    """Replace every word by its dictionary form."""
    return " ".join(map(_lemma, pipeline(text)))


def content_lemmas(pipeline: Any, text: str) -> str:
    """Keep words with a letter that are neither stop words nor numbers, as dictionary forms in small letters.

    So punctuation and emoji go too. A text of which nothing would be left stays as it is.
    """
    words = [token for token in pipeline(text) if not (token.is_stop or token.like_num) and _LETTER.search(token.text)]
    return " ".join(_lemma(token).lower() for token in words) or text


def _lemma(token: Any) -> str:
    # Empty where a pipeline has no lemmatizer.
    return str(token.lemma_ or token.text)


# Steps that need a pipeline of spaCy, named after a colon.
MODEL_STEPS: dict[str, Callable[[Any, str], str]] = {
    function.__name__: function for function in (lemmas, content_lemmas)
}


def steps(names: tuple[str, ...]) -> list[Callable[[str], str]]:
    """Return the named steps in order; `lemmas:MODEL` uses an installed spaCy pipeline. Raises SetupError."""
    functions: list[Callable[[str], str]] = []
    for name in names:
        if not is_cleaning_step(name):
            raise SetupError(f"there is no clean-up step {name!r}.{did_you_mean(name, CLEANING_STEPS)}")
        step, _, model = name.partition(":")
        functions.append(partial(MODEL_STEPS[step], spacy_pipeline(step, model)) if model else STEPS[step])
    return functions


def of_card(card: DatasetCard) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a card's clean-up steps that are taken here, in order, and a sentence on each skipped one.

    Only steps of `clean_if_installed` are ever skipped.
    """
    taken, skipped = list(card.clean), []
    for name in card.clean_if_installed:
        try:
            steps((name,))
        except SetupError as error:
            skipped.append(f"the clean-up step {name!r} is skipped, so that texts are not those of the card: {error}")
        else:
            taken.append(name)
    return tuple(taken), tuple(skipped)


@functools.cache
def spacy_pipeline(step: str, model: str) -> Any:
    """Return an installed pipeline of spaCy. step: the clean-up step that needs it. Raises SetupError."""
    try:
        import spacy

        return spacy.load(model, disable=["ner", "parser"])
    except ImportError as error:
        raise SetupError(
            f"the clean-up step {step!r} needs spaCy, which is not installed: pip install spacy"
        ) from error
    except OSError as error:
        raise SetupError(f"spaCy's model {model!r} is not installed: python -m spacy download {model}") from error


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
