"""Base of all readers of written answers: the generator, its batches, its cost and its fallbacks."""

from functools import partial
from typing import Any

from bench.data.examples import Encoded
from bench.evaluation import self_check
from bench.evaluation.generation import Generator
from bench.evaluation.reader import Scoring
from bench.models.autocast import autocast


class GeneratorReader:
    """Base of the readers that let a model write. options: of the Generator, which also its plain path takes."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, **options: Any) -> None:
        self.split, self.scoring, self.tokenizer = split, scoring, scoring.tokenizer
        self.prompts = [feature["input_ids"] for feature in split.features]
        self.options: dict[str, Any] = {"pad_token_id": scoring.tokenizer.pad_token_id, **options}
        self.autocast = partial(autocast, scoring.device, scoring.precision)
        self.shared: dict[str, Any] = {
            "autocast": self.autocast,
            "budget": scoring.batch_tokens,
            "checked": scoring.checked,
            "agree": self_check.first_reason,
        }
        plainly = not scoring.shared_prefix
        make = scoring.generator or Generator
        self.generator = make(model, self.prompts, plainly=plainly, **self.options, **self.shared)
        self.batches = self.generator.batches

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing with the plain path took."""
        return self.generator.check_s

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks."""
        return self.generator.notes
