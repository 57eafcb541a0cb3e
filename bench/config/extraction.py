"""Extracts the part of a written answer that is compared: a number, a letter, or what a regular expression finds."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

from pydantic import model_validator

from bench.config.fields import InvalidKey, Name, Strict, Text
from bench.errors import did_you_mean

# Of a written answer's line, behind "The answer is": where it ends, and a number in front, alone or before a word.
_LINE_END = re.compile(r"\.(?=\s|$)|####")
_NUMBER = re.compile(
    r"([-+]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:\\?%)?"
    r"(?=$|[,;]?\s+(?!(?:and|or)\b)[^\W\d_]{2,}(?![\w{^=(\\]))"
)


def as_number_or_text(line: str) -> str:
    """Return the answer that a line begins with, in one spelling: a number, or else all up to the sentence's end.

    A number loses commas, %, a plus, and zeros that say nothing, as 1,200.50 is 1200.5. It must end where it ends: of
    1/2, 3\\sqrt{2}, 2^5 and "1 and 2" it is no part. A text loses $ and blanks.
    """
    answer = _LINE_END.split(line.replace("\\$", "").replace("$", "").replace("−", "-"))[0].strip(" *")
    found = _NUMBER.match(answer)
    if found is None:
        return "".join(answer.split())
    whole, _, part = found[2].replace(",", "").partition(".")
    digits = (whole.lstrip("0") or "0") + f".{part}".rstrip("0").rstrip(".")
    return digits if found[1] != "-" or digits == "0" else f"-{digits}"


class _Rule(NamedTuple):
    """patterns: with which match of each is taken, tried one after the other. part: how what was found is spelt."""

    patterns: tuple[tuple[str, Literal["first", "last"]], ...]
    part: Callable[[str], str] = str.strip
    spelling: str = ""


def _bare_number(text: str) -> str:
    """Return a number without $, commas and a final full stop."""
    return text.translate(str.maketrans("", "", "$,")).rstrip(".").strip()


# gsm8k_number: Cobbe et al. 2021, `extract_answer` of the official grade-school-math/grade_school_math/dataset.py.
# worked_answer: what stands behind the last "The answer is", as MetaMathQA's answers end (Yu et al. 2024), else behind
# the first ####. last_number: "flexible-extract" of lm-evaluation-harness' task gsm8k. letter: the last
# "answer is (X)", as MMLU-Pro reads it (Wang et al. 2024), else the first line that begins with a letter and a bracket,
# full stop, colon or comma, or holds no more.
_RULES: dict[str, _Rule] = {
    "gsm8k_number": _Rule(((r"#### (\-?[0-9\.\,]+)", "first"),), _bare_number, "without:$,"),
    "worked_answer": _Rule(
        ((r"[Tt]he answer is:?\s*([^\s:].*)", "last"), (r"####\s*(\S.*)", "first")),
        as_number_or_text,
        "number_or_text|v2",
    ),
    "last_number": _Rule(((r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "last"),), _bare_number, "without:$,"),
    "letter": _Rule(
        (
            (r"(?i:answer is):?\s*\(?([A-J])\b", "last"),
            (r"(?m:^)\s*\(?([A-J])\)?(?:[.:,)]|\s*(?m:$))", "first"),
        )
    ),
}


class Extract(Strict):
    """The part of an answer, and of its reference, that is compared by metric `extracted_match`."""

    name: Name
    """A known rule (`gsm8k_number`, `worked_answer`, `last_number`, `letter`), or a new name for `pattern`.
    Example: gsm8k_number
    """
    pattern: Text | None = None
    r"""A regular expression; the first of its groups that matches is taken. Example: 'Label: (\w+)'"""
    take: Literal["first", "last"] | None = None
    """Of several matches of a pattern the first or the last; null is the first. Example: last"""

    @model_validator(mode="after")
    def _usable(self) -> "Extract":
        if self.pattern is None:
            if self.name not in _RULES:
                hint = did_you_mean(self.name, _RULES)
                raise InvalidKey("name", f"there is no extraction {self.name!r}; give its `pattern` too.{hint}")
            if self.take is not None:
                raise InvalidKey("take", f"only for a `pattern` of your own; {self.name} has its own rule")
            return self
        if self.name in _RULES:
            raise InvalidKey("name", f"{self.name!r} has a pattern already; take another name for this one")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise InvalidKey("pattern", f"{self.pattern!r} is not a regular expression: {error}") from error
        if not groups:
            raise InvalidKey("pattern", f"{self.pattern!r} has no group: put what is compared in round brackets")
        return self

    @cached_property
    def _rule(self) -> _Rule:
        return _RULES.get(self.name) or _Rule(((self.pattern or "", self.take or "first"),))

    def of(self, text: str | None) -> str | None:
        """Return the part of a text, in the rule's spelling, or None where there is none."""
        for pattern, take in self._rule.patterns:
            matches = list(re.finditer(pattern, text or ""))
            for match in matches[:1] if take == "first" else reversed(matches):
                part = self._rule.part(next((group for group in match.groups() if group), ""))
                if part:
                    return part
        return None

    @property
    def signature(self) -> str:
        """Return every setting that moves a score."""
        patterns = ",else:".join(f"{pattern},{take}" for pattern, take in self._rule.patterns)
        return f"extract:{self.name},{patterns}{',' + self._rule.spelling if self._rule.spelling else ''}"
