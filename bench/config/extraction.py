"""Extracts the part of a written answer that is compared: a number, a letter, or what a regular expression finds."""

import re
from functools import cached_property
from typing import Literal

from pydantic import model_validator

from bench.config.fields import InvalidKey, Name, Strict, Text
from bench.errors import did_you_mean

# Name -> pattern, which match is taken, and characters that are removed from it.
# gsm8k_number: Cobbe et al. 2021, `extract_answer` of the official grade-school-math/grade_school_math/dataset.py.
# worked_answer: that, or the number behind "The answer is", as MetaMathQA's answers end (Yu et al. 2024).
# last_number: "flexible-extract" of lm-evaluation-harness' task gsm8k. letter: "answer is (X)", as MMLU-Pro reads it
# (Wang et al. 2024), else a line that begins with a letter and a bracket, full stop, colon or comma, or holds no more.
PATTERNS: dict[str, tuple[str, Literal["first", "last"], str]] = {
    "gsm8k_number": (r"#### (\-?[0-9\.\,]+)", "first", "$,"),
    "worked_answer": (r"(?:####|[Tt]he answer is:?) *\$?(\-?[0-9][0-9\.\,]*)", "first", "$,"),
    "last_number": (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "last", "$,"),
    "letter": (r"(?i:answer is):?\s*\(?([A-J])\b|(?m:^)\s*\(?([A-J])\)?(?:[.:,)]|\s*(?m:$))", "first", ""),
}


class Extract(Strict):
    """The part of an answer, and of its reference, that is compared: `extracted_match`.

    name: one of the known ones (gsm8k_number, worked_answer, last_number, letter), or a new one for `pattern`, a
    regular expression whose first group that matches is taken. take: of several matches the first or the last; for a
    pattern.
    """

    name: Name
    pattern: Text | None = None
    take: Literal["first", "last"] | None = None

    @model_validator(mode="after")
    def _usable(self) -> "Extract":
        if self.pattern is None:
            if self.name not in PATTERNS:
                hint = did_you_mean(self.name, PATTERNS)
                raise InvalidKey("name", f"there is no extraction {self.name!r}; give its `pattern` too.{hint}")
            if self.take is not None:
                raise InvalidKey("take", f"only for a `pattern` of your own; {self.name} has its own rule")
            return self
        if self.name in PATTERNS:
            raise InvalidKey("name", f"{self.name!r} has a pattern already; take another name for this one")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise InvalidKey("pattern", f"{self.pattern!r} is not a regular expression: {error}") from error
        if not groups:
            raise InvalidKey("pattern", f"{self.pattern!r} has no group: put what is compared in round brackets")
        return self

    @cached_property
    def _rule(self) -> tuple[re.Pattern[str], str, str]:
        pattern, take, removed = PATTERNS.get(self.name, (self.pattern or "", self.take or "first", ""))
        return re.compile(pattern), take, removed

    def of(self, text: str | None) -> str | None:
        """Return the part of a text, or None where there is none; numbers lose $, commas and a final full stop."""
        pattern, take, removed = self._rule
        matches = list(pattern.finditer(text or ""))
        for match in matches if take == "first" else reversed(matches):
            part = next((group for group in match.groups() if group), "")
            if removed:
                part = part.translate(str.maketrans("", "", removed)).rstrip(".")
            if part.strip():
                return part.strip()
            if take == "first":
                return None
        return None

    @property
    def signature(self) -> str:
        """Return every setting that moves a score."""
        pattern, take, removed = self._rule
        return f"extract:{self.name},{pattern.pattern},{take}{',without:' + removed if removed else ''}"
