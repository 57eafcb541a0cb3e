"""Scores a prompted model by vLLM in place of torch (`evaluation.backend`), and a sample of it by both.

torch scores its sample first: a model in this process is then given up by the GPU, which vLLM takes.
"""

import gc
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object

from bench.config.training import Evaluation
from bench.data.examples import Encoded
from bench.errors import SetupError
from bench.evaluation import scoring
from bench.evaluation.engines import equality, in_process, prompt_probe
from bench.evaluation.engines.completions_api import Api, Server
from bench.evaluation.engines.engine import Engine, EngineGenerator, EngineScorer
from bench.evaluation.engines.equality import Kept
from bench.evaluation.engines.in_process import InProcessEngine
from bench.evaluation.engines.served import ServedEngine
from bench.evaluation.metric_set import Predictions
from bench.models import location
from bench.records import record
from bench.runner import sharded_scoring
from bench.runner.context import RunContext

ADVICE = "serve the recipe's own model, with its tokenizer and chat template"
OTHER = "vLLM has another model, revision or precision than the recipe, or computes it otherwise"


@dataclass(kw_only=True)
class InUse:
    """A backend of a run. api: of a server. plain: split -> torch's predictions of its sample, and what it gave.

    exact: torch computed in float32.
    """

    api: Api | None
    engine: Engine | None = None
    exact: bool = False
    plain: dict[str, tuple[Predictions, Kept]] = field(default_factory=dict)


def prepare(run: RunContext) -> None:
    """Find the backend that the recipe asks for, before a model is loaded. Raises SetupError where it is not there."""
    evaluation = run.resolved.recipe.evaluation
    if evaluation.backend == "torch":
        return
    recipe = run.resolved.recipe
    if evaluation.server is None:
        if (missing := in_process.why_not()) is not None:
            raise SetupError(missing)
        if run.state.num_processes > 1:
            raise SetupError(
                f"evaluation.backend: vllm in the run's own process is for one process, and {run.state.num_processes} "
                "were launched: it spreads a model over GPUs itself, by backend_options: {tensor_parallel_size: N}"
            )
        run.backend = InUse(api=None)
        where = location.locate(recipe.model) or ""
        run.record.backend = record.Backend(name="vllm", model=where, options=evaluation.backend_options)
        return
    with run.clock.phase("load"):
        api = Api(_server(evaluation))
        run.backend = InUse(api=api)
        run.record.backend = record.Backend(name="vllm", version=api.version(), server=api.url, model=api.model)
        split = run.inputs.splits[evaluation.splits[0]]
        for note in prompt_probe.probe(api, run.inputs.tokenizer, _askable(split), recipe.prompting, ADVICE):
            run.record.note(f"evaluation.backend: {note}")
    _sign(run)


def _server(evaluation: Evaluation) -> Server:
    return Server(
        url=evaluation.server or "",
        model=evaluation.served_model,
        option="evaluation.server",
        model_option="evaluation.served_model",
    )


def _askable(split: Encoded) -> list[dict[str, Any]]:
    """Return features with the tokens of a prompt; of an example that asks by several, its parts."""
    return [part for feature in split.features[: prompt_probe.PROBED] for part in feature.get("parts", (feature,))]


def _sign(run: RunContext) -> None:
    """Put the backend into the signature of every score."""
    found, prompts = run.record.backend, run.record.prompts
    assert found is not None
    if prompts is not None:
        prompts.signature += f"|backend:{found.name},{found.version or 'unknown_version'}"


def start(run: RunContext) -> None:
    """Score the samples by torch, and start the backend. Every process must call it."""
    if (backend := run.backend) is None:
        return
    assert run.model is not None
    evaluation = run.resolved.recipe.evaluation
    fitted = [evaluation.validation] if evaluation.temperature is not None else []
    for name in dict.fromkeys([*evaluation.splits, *fitted]):
        kept, part = Kept(), equality.sample(run.inputs.splits[name], evaluation.backend_sample)
        with run.clock.phase("self_check"), sharded_scoring.in_step(run):
            plain = equality.plainly(run.inputs.scoring, kept)
            scored = scoring.run(run.model, part, plain, f"{name}: a sample by torch")
        backend.plain[name] = scored.predictions, _gathered(run, kept)
    weights = next(run.model.parameters())
    backend.exact = weights.dtype == torch.float32 and run.inputs.scoring.precision == "no"
    if backend.api is not None:
        backend.engine = ServedEngine(backend.api)
        return
    with run.clock.phase("load"):
        run.model.to("cpu")  # vLLM takes nearly all of the GPU
        gc.collect()
        torch.cuda.empty_cache()
        backend.engine = _in_process(run, weights.dtype)


def _in_process(run: RunContext, dtype: torch.dtype) -> InProcessEngine:
    card, part = run.resolved.recipe.model, run.record.backend
    assert part is not None
    options: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "trust_remote_code": card.trust_remote_code,
        **({"revision": card.revision} if card.revision is not None else {}),
        **part.options,
    }
    engine = InProcessEngine(part.model, options)
    part.options, part.version = options, engine.version
    _sign(run)
    run.record.note(
        "evaluation.backend: vLLM's own processes hold its model; what they take is not in the peaks of memory here"
    )
    return engine


def scored(run: RunContext, split: Encoded, title: str) -> scoring.Scored:
    """Score a split by the run's backend, or by torch without one; a backend's answers are compared with torch's.

    A difference beyond rounding fails the run's check `backend_equals_torch`.
    """
    backend = run.backend
    if backend is None:
        return scoring.run(run.model, split, run.inputs.scoring, title)
    assert backend.engine is not None
    kept = Kept()
    make, write = (partial(kind, backend.engine) for kind in (EngineScorer, EngineGenerator))
    found = scoring.run(run.model, split, equality.by_engine(run.inputs.scoring, make, write, kept), title)
    plain, plain_kept = backend.plain[split.name]
    kept = _gathered(run, kept)
    result = equality.compare(plain_kept, kept, exact=backend.exact)
    part = record.BackendSample(
        examples=len(plain.ids),
        compared=result.compared,
        largest=result.largest,
        changed=max(result.changed, _changed(plain, found.predictions)),
        beyond=result.beyond,
        allowed="rounding of float32" if backend.exact else "rounding of 16 bits",
    )
    assert run.record.backend is not None
    run.record.backend.samples[split.name] = part
    run.record.check("backend_equals_torch", not part.beyond, _sentence(split.name, part))
    return found


def _sentence(name: str, part: record.BackendSample) -> str:
    differ = "" if part.largest is None else f", largest difference of a log-likelihood {part.largest:.2g} nats"
    said = (
        f"{name}: {part.examples} examples by vLLM and by torch{differ}: {part.beyond} of {part.compared} values "
        f"differ by more than {part.allowed}, {part.changed} answers changed"
    )
    return f"{said}; {OTHER}" if part.beyond else said


def _changed(plain: Predictions, found: Predictions) -> int:
    """Return how many of the plain predictions are others by the backend."""
    by_id = dict(zip(found.ids, found.predictions, strict=True))
    return sum(repr(one) != repr(by_id[identity]) for identity, one in zip(plain.ids, plain.predictions, strict=True))


def _gathered(run: RunContext, kept: Kept) -> Kept:
    """Return what all processes have kept."""
    if run.state.num_processes == 1:
        return kept
    everything = Kept()
    for one in gather_object([kept]):
        everything.update(one)
    return everything
