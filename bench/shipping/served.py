"""The form `vllm`: a server that speaks the OpenAI completions API, with log-probabilities of the prompt (`echo`).

The server is started by the user, with the run's exported model: `python -m bench export RUN --merge --out FOLDER`,
then `vllm serve FOLDER`. Before anything is scored, a probe of the prompt's tokens refuses a server with another
tokenizer or chat template than the run's. Prompts are then sent as tokens.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from bench.evaluation.engines import prompt_probe
from bench.evaluation.engines.completions_api import Api
from bench.evaluation.engines.engine import EngineScorer
from bench.evaluation.engines.served import ServedEngine
from bench.shipping.form import Loaded, Workshop
from bench.shipping.names import FormName

ADVICE = "serve the folder that `python -m bench export RUN --merge` writes"


class Vllm:
    """A served model. Of text alone: the completions API has no task heads."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return that no server is named, or that the model is none that a server completes texts with."""
        source = work.source
        if source.recipe.objective != "text" or source.description["model_card"]["family"] != "decoder":
            return "the completions API is for decoders that score text, and this run's model has a head or an encoder"
        if work.writes:
            return "the run's answers are written, and this form scores likelihoods of answers alone"
        if any("prompt_ids" not in feature for feature in source.split.features):
            return "these examples ask by several prompts each, which this form does not send"
        if work.server is None:
            return "no server is named: start `vllm serve FOLDER` of the exported model, and give --server URL"
        return None

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Make nothing: the server has its model."""

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Find the served model, and probe it. Raises SetupError for one that is none of the run's."""
        assert work.server is not None
        api, source = Api(work.server), work.source
        notes = prompt_probe.probe(
            api, source.scoring.tokenizer, source.split.features, source.recipe.prompting, ADVICE
        )
        scoring = replace(work.plain_scoring(), scorer=partial(EngineScorer, ServedEngine(api)))
        return Loaded(model=nn.Module().eval(), scoring=scoring, notes=notes)
