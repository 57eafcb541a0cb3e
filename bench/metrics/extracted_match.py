"""Exact match of a part of written answers, such as a number or a letter, with the same part of their references."""

from typing import ClassVar

from bench.metrics import _base

RULES = "0-1|golds:any|nothing_found:0"


class ExtractedMatch(_base.MeanMetric):
    """Share of answers whose part equals that of a reference, and share of those in which nothing was found.

    Predictions are texts, references lists of gold texts. The part is what a recipe's `evaluation.extract` names: a
    rule such as GSM8K's number, or a regular expression. Both sides are extracted by it. An answer in which nothing is
    found, and a missing one (None), count 0 in extracted_match and 1 in extracted_nothing. No examples give NaN.
    """

    source = "Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168 (gsm8k_number)."
    reads = "answers"
    configs = ("default",)
    binary = True
    higher_is_better: ClassVar[dict[str, bool]] = {"extracted_match": True, "extracted_nothing": False}
    settings: ClassVar[dict[str, str]] = {"extracted_match": f"{RULES}|v1", "extracted_nothing": f"{RULES}|v1"}
    extract = _base.Extract(name="last_number")

    def use(self, extract: _base.Extract) -> None:
        """Take what finds the part; the last number of a text where nothing else is asked."""
        self.extract = extract

    def example_score(self, prediction: str | None, reference: list[str]) -> list[float]:
        """Return [1 for an answer whose part equals a reference's, 1 for one without such a part]."""
        part = self.extract.of(prediction)
        golds = [self.extract.of(gold) for gold in reference]
        return [float(part is not None and part in golds), float(part is None)]

    def signatures(self) -> dict[str, str]:
        """Return the settings, with the rule of extraction."""
        return {name: f"{name}|{RULES}|{self.extract.signature}|v1" for name in self.settings}
