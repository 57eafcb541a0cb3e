"""Scores a sample of examples again by the plain path (`--check`)."""

import math
from typing import Any

from bench.data.examples import Encoded
from bench.evaluation.reader import Scoring
from bench.evaluation.readers.base import Checked
from bench.evaluation.readers.generation import GenerationReader
from bench.evaluation.readers.likelihood import LikelihoodReader
from bench.evaluation.readers.reference import ReferenceReader
from bench.models.autocast import evaluating

# Examples that `--check` scores again by the plain path.
CHECKED = 16


def check(model: Any, split: Encoded, scoring: Scoring) -> Checked | None:
    """Score some examples by the plain path too, and compare; None for a reader without a fast path."""
    with evaluating(model):
        assert scoring.reader is not None
        reader = scoring.reader(model, split, scoring)
        if not isinstance(reader, LikelihoodReader | GenerationReader | ReferenceReader):
            return None
        step = max(1, math.ceil(len(split.ids) / CHECKED))
        return reader.check(model, list(range(0, len(split.ids), step)))
