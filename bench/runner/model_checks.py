"""Checks of a run's model: training has changed what it trains and nothing else; what was saved is what was scored."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from bench.data.examples import Encoded, Feature
from bench.distributed import setup, sharding
from bench.errors import BenchError
from bench.evaluation import self_check
from bench.evaluation.likelihood import Item, plain
from bench.evaluation.reader import Answer
from bench.evaluation.readers.head import HeadReader
from bench.models import saving, shards
from bench.models.autocast import autocast, evaluating
from bench.models.kernels import padding_free
from bench.models.library_internals import transformers_internals
from bench.records.failures import is_out_of_memory
from bench.runner.context import RunContext
from bench.utils.loading_errors import reason

# Examples that a loaded model scores again, the longest and the shortest of the split among them.
EXAMPLES = 8
# Largest difference of a probability or a log-likelihood; the second where weights or activations are in 16 bits.
TOLERANCE, TOLERANCE_16_BITS = 1e-4, 1e-2
# Tokens of a prompt whose likelihood is compared where answers are generated, which have no probabilities.
LAST_TOKENS = 8
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# ---------------------------------------------------------------- training changes something


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Checksum of a parameter's bits, and whether it is trained. A parameter of zeros has the checksum 0."""

    bits: int
    trained: bool


def fingerprints(model: nn.Module, *, sharded: bool = False) -> dict[str, Fingerprint]:
    """Return the fingerprint of each parameter of a model: one pass over its memory, and no copy of it.

    sharded: an engine holds the parameters, which are gathered one after another. Where each process holds its shards
    by itself, their sums are added up. Every process must call it in both cases.
    """
    if sharded:
        trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        values = sharding.whole_parameters(model)
        return {name: Fingerprint(bits=_checksum(value), trained=trained[name]) for name, value in values}
    sums = []
    for parameter in model.parameters():
        shard = shards.of(parameter)
        counts = shard is not None or PartialState().is_main_process or not shards.are_held(model)
        sums.append(_checksum(parameter if shard is None else shard) if counts else 0)
    if shards.are_held(model) and PartialState().num_processes > 1:
        totals = torch.tensor(sums, dtype=torch.int64, device=PartialState().device)
        torch.distributed.all_reduce(totals)
        sums = totals.tolist()
    named = zip(model.named_parameters(), sums, strict=True)
    return {name: Fingerprint(bits=bits, trained=parameter.requires_grad) for (name, parameter), bits in named}


def _checksum(tensor: torch.Tensor) -> int:
    """Return the sum of a tensor's bits, taken as whole numbers, modulo 2^64."""
    values = tensor.detach()
    if not values.is_contiguous():
        values = values.contiguous()
    return int(values.flatten().view(_BITS[values.element_size()]).sum(dtype=torch.int64))


def check_changed(run: RunContext, before: dict[str, Fingerprint]) -> None:
    """Add the check `changed`: what is trained has other values than before, and what is frozen has the same.

    before: the fingerprints of the model before its first step, also where training went on from a checkpoint.
    """
    problem = unchanged(before, fingerprints(run.model, sharded=run.live is not None)) or ""
    if problem.startswith("nothing") and run.progress is not None:
        rates = [row["learning_rate"] for row in run.progress.log.rows if row.get("learning_rate") is not None]
        if rates and not any(rates):
            problem = f"{problem}; the learning rate was 0 at each of {len(rates)} logged steps"
        elif (best := run.record.training and run.record.training.best_step) and best < run.record.training.steps:
            # Training did change it, and made it worse by its own measure: a result, not a fault.
            run.record.warn(
                "best_is_untrained",
                f"the best of {run.record.training.steps} steps was step {best}, whose weights are those of before "
                "training: the scores after training are of the untrained model",
            )
            problem = ""
    run.record.check("changed", not problem, problem)


def unchanged(before: dict[str, Fingerprint], after: dict[str, Fingerprint]) -> str | None:
    """Return what training should have changed and did not, or changed and should not have, or None."""
    if before.keys() != after.keys():
        other = sorted(before.keys() ^ after.keys())
        return f"the model has other parameters than before training, e.g. {other[0]}"
    trained = [name for name, item in before.items() if item.trained]
    moved = {name for name in before if before[name].bits != after[name].bits}
    if not moved.intersection(trained):
        return f"nothing that is trained has changed: all {len(trained)} parameters have the values of before"
    for kind, names in _adapter_kinds(trained).items():
        if not any(before[name].bits or after[name].bits for name in names):
            return f"the adapters do nothing: all {len(names)} parameters {kind} are still zero"
    adapters = [name for names in _adapter_kinds(trained).values() for name in names]
    if adapters and not moved.intersection(adapters):
        return f"the adapters have not changed: all {len(adapters)} parameters have the values of before"
    strays = sorted(moved.difference(trained))
    if strays:
        return f"{len(strays)} frozen parameters have changed, e.g. {strays[0]}"
    return None


def _adapter_kinds(names: list[str]) -> dict[str, list[str]]:
    """Return kind -> names of an adapter's parameters, as PEFT names them: ...lora_B.default.weight."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        if "default" in parts and "modules_to_save" not in parts:
            kinds.setdefault(parts[parts.index("default") - 1], []).append(name)
    return kinds


# ---------------------------------------------------------------- saved is what was scored


def check_saved(run: RunContext) -> None:
    """Add the check `saved_model`: a fresh load of the saved folder scores a few examples as the run's model does.

    Every process must call it; rank zero does the work. The run's model is given up before the saved one is loaded.
    """
    with run.clock.phase("check_saved"):
        if run.model is not None and shards.are_held(run.model):
            _check_saved_shards(run)
            return
        verdict = None
        if run.state.is_main_process:
            verdict = _compared(run)
        ok, sentence = setup.broadcast_from_rank_zero(verdict)
    if ok is None:
        run.record.note(sentence)
    else:
        run.record.check("saved_model", ok, sentence)


def _check_saved_shards(run: RunContext) -> None:
    """Compare the weights of the saved folder with those of the run's model: each process its own shards."""
    if run.resolved.recipe.model.trust_remote_code:
        run.record.note("the saved model was not loaded again to compare it: its code is the repository's own")
        return
    try:
        with transformers_internals.without_deepspeed(), shards.loading(run.state.device):
            model, _, _ = saving.load(run.folder / "model")
        assert run.model is not None
        own, found = dict(run.model.named_parameters()), dict(model.named_parameters())
        # PEFT keeps the untrained original of a module that is trained in full; it does not run.
        other = next(
            (name for name, part in own.items() if ".original_module." not in name and _differs(part, found.get(name))),
            None,
        )
        problem = f"the saved model has other values in {other} than the run's" if other else None
    except Exception as error:  # of whatever library
        problem = f"the saved model can't be loaded: {type(error).__name__}: {reason(error)}"
    problems = [text for text in gather_object([problem]) if text]
    sentence = f"the saved weights, read again by {run.state.num_processes} processes, are those of the run's model"
    run.record.check("saved_model", not problems, problems[0] if problems else sentence)


def _differs(own: torch.Tensor, saved: torch.Tensor | None) -> bool:
    """Return whether the saved values of a parameter are not what this process holds of it."""
    if saved is None or saved.shape != own.shape:
        return True
    shard, value = shards.of(own), shards.of(saved)
    if shard is None:
        shard = own.data
    elif value is None:
        value = shards.cut(saved)
    value = saved.data if value is None else value
    return not torch.equal(shard, value.to(shard.device, shard.dtype))


def _compared(run: RunContext) -> tuple[bool | None, str]:
    """Return whether both models agree, or None where that could not be found out, and a sentence."""
    if run.resolved.recipe.model.trust_remote_code:
        return None, "the saved model was not loaded again to compare it: its code is the repository's own"
    split = sample(run.inputs.splits[run.resolved.recipe.evaluation.splits[0]])
    expected = scores(run.model, split, run)
    run.release_model()
    gc.collect()
    if run.state.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with transformers_internals.without_deepspeed():
            model, tokenizer, _ = saving.load(run.folder / "model", run.state.device)
        found = scores(model, split, run)
    except BenchError as error:
        return False, f"the saved model can't be loaded: {error}"
    except Exception as error:  # of whatever library
        if is_out_of_memory(error):
            return None, "the saved model was not loaded again to compare it: there was not enough memory"
        return False, f"the saved model can't be loaded: {type(error).__name__}: {reason(error)}"
    problem = _other_tokens(run, split, tokenizer)
    if problem is not None:
        return False, problem
    largest = max((float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True) if a.size), default=0.0)
    limit = _tolerance(run)
    sentence = f"{len(split.ids)} examples of {split.name} again by the saved model: largest difference {largest:.2g}"
    return largest <= limit, sentence if largest <= limit else f"{sentence}, more than {limit:g}"


def _tolerance(run: RunContext) -> float:
    assert run.record.model is not None
    exact = set(run.record.model.dtypes) <= {"float32", "float64"} and run.inputs.scoring.precision == "no"
    return TOLERANCE if exact else TOLERANCE_16_BITS


def _other_tokens(run: RunContext, split: Encoded, tokenizer: Any) -> str | None:
    """Return a sentence where the saved tokenizer makes other tokens of the examples' texts."""
    if tokenizer is None:
        return None
    wanted = set(split.ids)
    for row in run.inputs.corpus.splits[split.name].rows:
        if row["id"] in wanted:
            texts = [text for text in (row["text"], row["text_pair"]) if text]
            mine, theirs = (tool(texts)["input_ids"] for tool in (run.inputs.tokenizer, tokenizer))
            if mine != theirs:
                return f"the saved tokenizer makes other tokens of {row['id']!r} than the run's"
    return None


def sample(split: Encoded) -> Encoded:
    """Return at most EXAMPLES examples of a split, by their lengths: the shortest, the longest, and some between."""
    numbers = sorted(self_check.sample(split.lengths, EXAMPLES), key=lambda number: (split.lengths[number], number))
    return Encoded(
        name=split.name,
        ids=tuple(split.ids[number] for number in numbers),
        features=[split.features[number] for number in numbers],
        truncated=0,
        sizes=None if split.sizes is None else tuple(split.sizes[number] for number in numbers),
        in_words=split.in_words,
    )


def scores(model: Any, split: Encoded, run: RunContext) -> list[np.ndarray]:
    """Return the probabilities of each example by the run's reader; of a language model, log-likelihoods of answers.

    By the model's own forward alone, which both models have.
    """
    scoring = run.inputs.scoring
    padding_free.detach(model)
    with evaluating(model):
        if run.record.prompts is not None:
            with autocast(scoring.device, scoring.precision):
                return [np.array(plain(model, _item(feature)).sums) for feature in split.features]
        reader = (scoring.reader or HeadReader)(model, split, scoring)
        answers = {
            number: answer
            for numbers in reader.batches
            for number, answer in zip(numbers, reader.read(numbers), strict=True)
        }
    return [np.array([*_numbers(answers[number])]) for number in range(len(split.ids))]


def _numbers(answer: Answer) -> Iterator[float]:
    yield from answer.scores
    yield from (answer.extra[key] for key in ("score", "null_score") if answer.extra.get(key) is not None)


def _item(feature: Feature) -> Item:
    """Return a prompt with its first and its last answer; without answers, the end of the prompt after the rest."""
    answers = feature.get("continuation_ids")
    if answers:
        chosen = dict.fromkeys(tuple(ids) for ids in (answers[0], answers[-1]))
        return Item(context=tuple(feature["prompt_ids"]), continuations=tuple(chosen))
    ids = tuple(feature["input_ids"])
    cut = max(1, len(ids) - LAST_TOKENS)
    return Item(context=ids[:cut], continuations=(ids[cut:] or ids[-1:],))
