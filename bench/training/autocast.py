"""Autocast of the forward pass where the launcher's own does not reach."""

import contextlib
from typing import Any

from bench.distributed.sharding import requested_backend
from bench.evaluation.reader import Scoring
from bench.models import autocast as models_autocast


def autocast(scoring: Scoring, *, drops_copies: bool) -> contextlib.AbstractContextManager[Any]:
    """Return mixed precision for a training step under FSDP, for which accelerate has none; nothing elsewhere.

    drops_copies: keep no 16-bit copies of weights; else each process has those of the whole model in the forward pass.
    """
    precision = scoring.precision if requested_backend() == "fsdp" else "no"
    return models_autocast.autocast(scoring.device, precision, keep_copies=not drops_copies)
