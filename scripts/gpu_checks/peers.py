"""Speed beside other tools, on the same device: in one process, in turns, in the same precision.

    python -m scripts.gpu_checks.peers KIND [--small]

KIND is a task in which another tool is at its best, or `compiled`: the harness with `speed.compile` and without.
Each tool trains copies of one model of random weights; the turn that comes first changes from round to round, and a
round before the others warms up. Tokens a second: real tokens of the steps after the first, over the time from its end
to the end of the last. The Trainer is run at its defaults and with batches sorted by length (other batches, hardly a
pad); Liger's kernels are tried where they are installed. Losses of the first step are compared where the batches are
the same. The last line is JSON.
"""

import argparse
import copy
import gc
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.models.kernels import compiled_blocks, padding_free
from bench.models.library_internals.torch_internals import Compilations
from scripts.benchmarks import common, training
from scripts.gpu_checks import stub
from scripts.gpu_checks.correctness import Outcome

ROUNDS = 3
PRECISION = "bf16"
# bfloat16 has 8 bits; of a mean over a batch.
LOSS_DIFFERENCE = 2e-2
# In nats, of a label's log-likelihood in bfloat16.
SCORE_DIFFERENCE = 0.25
ENCODER = {**common.BERT, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
           "num_attention_heads": 12}  # fmt: skip
DECODER = {**common.LLAMA, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
           "num_attention_heads": 16, "num_key_value_heads": 4}  # fmt: skip
REVIEWS = common.Texts(mean=230, longest=512)
BATCH, STEPS = 32, 16
GEMMA = {"model_type": "gemma", "vocab_size": 256_000, "hidden_size": 1024, "intermediate_size": 4096,
         "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 128,
         "max_position_embeddings": 1024}  # fmt: skip
SCORER = {"model_type": "llama", "vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 2816,
          "num_hidden_layers": 12, "num_attention_heads": 16, "max_position_embeddings": 4096}  # fmt: skip
# Of which the fastest is taken for lm_eval, and for `pipeline`.
BATCH_SIZES = (8, 32, 128)
PIPELINE_SIZES = (8, 32, 128, 256)
COLUMNS = ["tool", "real tokens/s", "ratio", "first loss"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One training by one tool. tokens: real ones, of the measured steps."""

    seconds: float
    tokens: int
    first_loss: float


Side = Callable[[Any, Path], Turn]


def has(module: str) -> bool:
    """Return whether a library is installed."""
    return importlib.util.find_spec(module) is not None


def in_turns(sides: dict[str, Side], model: Any, rounds: int) -> dict[str, list[Turn]]:
    """Return the turns of each side, without the first round."""
    found: dict[str, list[Turn]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for place, name in enumerate(list(sides)[:: -1 if number % 2 else 1]):
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                turn = sides[name](copy.deepcopy(model), Path(folder, f"{number}-{place}"))
                if number:
                    found[name].append(turn)
    return found


def compared(turns: dict[str, list[Turn]], same_batches: set[str], notes: list[str]) -> Outcome:
    """Return the table. The first side is the harness; same_batches: sides whose losses must be its."""
    ours, *others = turns
    rates = {name: statistics.median(one.tokens / one.seconds for one in found) for name, found in turns.items()}
    first = {name: found[0].first_loss for name, found in turns.items()}
    rows = [[name, f"{rates[name]:,.0f}", "" if name == ours else f"{rates[ours] / rates[name]:.2f}",
             f"{first[name]:.4f}"] for name in turns]  # fmt: skip
    far = [one for one in others if one in same_batches and not stub.holds(_is_near(first[one], first[ours]))]
    notes = [*notes, *(f"the first loss of {name} is another one" for name in far)]
    return Outcome(ok=not far, columns=COLUMNS, rows=rows, notes=notes)


def _is_near(one: float, two: float) -> bool:
    return abs(one - two) <= LOSS_DIFFERENCE * abs(two)


# ---------------------------------------------------------------- classifiers: transformers' Trainer


def encoder(device: torch.device, small: bool) -> Outcome:
    """Train an encoder of BERT's size with a head."""
    return _classifier("encoder", common.BERT if small else ENCODER, device, small)


def decoder(device: torch.device, small: bool) -> Outcome:
    """Train a decoder with a head."""
    return _classifier("decoder", common.LLAMA if small else DECODER, device, small)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A classifier to train. real: tokens of the measured steps, in our batches. notes: of what was not in force."""

    model: Any
    split: Any
    tokens: Any
    case: training.Case
    real: int
    notes: set[str] = field(default_factory=set)

    def ours(self, *, compiled: bool = False) -> Side:
        """Return the harness's side."""

        def run(model: Any, folder: Path) -> Turn:
            reason, settings = padding_free.attach(model), self.case.training()
            if reason is not None:
                self.notes.add(f"pads are computed: the model {reason}")
            with training.mixed_precision(PRECISION):
                done = common.run_engine(
                    model, self.split, self.tokens, settings, folder / "bench", common.Ticks(), compiled=compiled
                )
            return _turn(done, self.real)

        return run

    def trainer(self, **options: Any) -> Side:
        """Return the Trainer's side."""
        features = _ordered(self.split, self.case)
        return lambda model, folder: _by_trainer(model, features, self.tokens, self.case, folder, options)


def _work(family: str, architecture: dict[str, Any], device: torch.device, small: bool) -> _Work:
    language = common.Language(500 if small else 20_000)
    tokens = language.tokenizer(family, 1500 if small else architecture["vocab_size"])
    texts = common.Texts(mean=REVIEWS.mean / 4, longest=REVIEWS.longest // 4) if small else REVIEWS
    batch, steps = (4, 3) if small else (BATCH, STEPS)
    rows = language.rows(texts, batch * (steps + 1), tokens)
    split = common.encoded(rows, tokens, texts.longest)
    model = common.build_model(architecture, tokens, device, small)
    case = training.Case(architecture=architecture, texts=texts, batch=batch, steps=steps, precision=PRECISION)
    real = sum(len(feature["input_ids"]) for feature in _ordered(split, case)[batch:])
    return _Work(model=model, split=split, tokens=tokens, case=case, real=real)


def _classifier(family: str, architecture: dict[str, Any], device: torch.device, small: bool) -> Outcome:
    work = _work(family, architecture, device, small)
    sides = {"finetune-bench": work.ours(), "Trainer": work.trainer()}
    sides["Trainer, sorted by length"] = work.trainer(train_sampling_strategy="group_by_length")
    notes = []
    if (missing := _no_liger(work.model)) is None:
        sides["Trainer with Liger"] = _with_liger(work.trainer(use_liger_kernel=True))
    else:
        notes.append(missing)
    turns = in_turns(sides, work.model, 1 if small else ROUNDS)
    return compared(turns, {"Trainer", "Trainer with Liger"}, [*notes, *sorted(work.notes)])


def compiled(device: torch.device, small: bool) -> Outcome:
    """Train an encoder and a decoder with `speed.compile` and without; small: traced, and run one by one."""
    if small:
        compiled_blocks.BACKEND = "aot_eager"
    found = []
    for family, architecture in (("encoder", ENCODER), ("decoder", DECODER)):
        reduced = common.BERT if family == "encoder" else common.LLAMA
        work, counts = _work(family, reduced if small else architecture, device, small), Compilations()
        sides = {f"{family}, compiled": work.ours(compiled=True), f"{family}, not compiled": work.ours()}
        counts.start()
        turns = in_turns(sides, work.model, 1 if small else ROUNDS)
        counts.stop()
        said = f"{family}: {counts.total} compilations, {counts.again} of them anew, {counts.seconds:.0f} s"
        found.append(compared(turns, {f"{family}, not compiled"}, [said, *sorted(work.notes)]))
        # What torch leaves as it is is no comparison.
        found[-1].ok &= counts.total > 0
    return Outcome(
        ok=all(one.ok for one in found),
        columns=COLUMNS,
        rows=[row for one in found for row in one.rows],
        notes=[note for one in found for note in one.notes],
    )


def _ordered(split: Any, case: training.Case) -> list[dict[str, Any]]:
    return common.in_order(split, common.settings("trainer", case.batch, case.steps + 1))


def _turn(done: common.Trained, tokens: int) -> Turn:
    return Turn(seconds=(done.moments[-1] - done.moments[0]).wall_s, tokens=tokens, first_loss=done.losses[0])


def _by_trainer(
    model: Any, features: list[dict[str, Any]], tokens: Any, case: training.Case, folder: Path, options: dict[str, Any]
) -> Turn:
    """Train by transformers' Trainer; its batches are counted where they are made."""
    import transformers

    watch, collator = common.Watch(), transformers.DataCollatorWithPadding(tokens)
    counts: list[int] = []

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = collator(rows)
        counts.append(int(batch["attention_mask"].sum()))
        return batch

    arguments = transformers.TrainingArguments(
        **{
            "output_dir": str(folder), "use_cpu": model.device.type == "cpu", "bf16": True,
            "per_device_train_batch_size": case.batch, "max_steps": case.steps + 1, "logging_steps": 1,
            "train_sampling_strategy": "sequential", "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "remove_unused_columns": False, **options,
        }
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=features, data_collator=collate, callbacks=[watch]
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    done = common.Trained(losses=watch.losses, moments=watch.ticks.moments)
    return _turn(done, sum(counts[1 : case.steps + 1]))


# ---------------------------------------------------------------- answers: TRL


def answers(device: torch.device, small: bool) -> Outcome:
    """Train a model with a wide vocabulary to write short answers."""
    from scripts.benchmarks import answer_training

    batch, steps = (4, 2) if small else (16, STEPS)
    work = answer_training.prepare("kept", device, small, architecture=GEMMA, batch=batch, num_steps=steps + 1)
    features = [work.split.features[number] for number in work.order]
    real = sum(len(feature["input_ids"]) for feature in features[batch:])

    def ours(model: Any, folder: Path) -> Turn:
        with training.mixed_precision(PRECISION):
            return _turn(answer_training.run_bench(model, work, folder), real)

    def by_trl(**options: Any) -> Side:
        return lambda model, folder: _run_trl(model, work, folder, options)

    sides: dict[str, Side] = {"finetune-bench": ours, "TRL": by_trl()}
    sides["TRL, nothing recomputed"] = by_trl(gradient_checkpointing=False)
    notes, same = [], set(sides)
    if (missing := _no_liger(work.model)) is None:
        with_liger = by_trl(gradient_checkpointing=False, use_liger_kernel=True)
        sides["TRL with Liger, nothing recomputed"] = _with_liger(with_liger)
        same |= set(sides)
    else:
        notes.append(missing)
    flash, kept = has("flash_attn"), {"gradient_checkpointing": False}
    # Without FlashAttention the texts of a row are kept apart by a mask, in SDPA.
    kernel = "FlashAttention" if flash else "SDPA"
    without_pads = by_trl(**kept, padding_free=True, max_length=None)
    sides[f"TRL, padding-free by {kernel}"] = _with_flash(without_pads) if flash else without_pads
    same |= set(sides)
    # Other batches: rows of so many tokens, filled with whole examples.
    packed = by_trl(
        **kept, packing=True, max_length=round(real / (len(features) / batch - 1)), per_device_train_batch_size=1
    )
    sides[f"TRL, packed by {kernel}"] = _with_flash(packed) if flash else packed
    found = in_turns(sides, work.model, 1 if small else ROUNDS)
    return compared(found, same, notes)


def _no_liger(model: Any) -> str | None:
    """Return why Liger's kernels are not tried, in words; None where they are installed and know the model."""
    if not has("liger_kernel"):
        return "liger_kernel is not installed"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    return None if kind in MODEL_TYPE_TO_APPLY_LIGER_FN else f"liger_kernel has no kernels for {kind}"


def _with_liger(side: Side) -> Side:
    """Return a side that leaves the model's module as it was: Liger puts its own functions there, for every model."""

    def run(model: Any, folder: Path) -> Turn:
        module = sys.modules[type(model).__module__]
        before = dict(vars(module))
        try:
            return side(model, folder)
        finally:
            vars(module).update(before)

    return run


def _with_flash(side: Side) -> Side:
    def run(model: Any, folder: Path) -> Turn:
        model.set_attn_implementation("flash_attention_2")
        return side(model, folder)

    return run


def _run_trl(model: Any, work: Any, folder: Path, options: dict[str, Any]) -> Turn:
    """Train by TRL's SFTTrainer; its batches are counted where they are made."""
    import datasets
    import transformers
    import trl

    watch, given = common.Watch(), work.training
    settings = trl.SFTConfig(
        **{
            "output_dir": str(folder), "use_cpu": model.device.type == "cpu", "bf16": True,
            "per_device_train_batch_size": given.global_batch, "max_steps": given.steps,
            "learning_rate": given.learning_rate, "train_sampling_strategy": "sequential", "logging_steps": 1,
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True, **options,
        }
    )  # fmt: skip
    data = datasets.Dataset.from_list([work.rows[number] for number in work.order])
    trainer = trl.SFTTrainer(
        model=model, args=settings, train_dataset=data, processing_class=work.tokens, callbacks=[watch]
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    collator, counts = trainer.data_collator, list[int]()

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = collator(rows)
        mask = batch.get("attention_mask")
        counts.append(batch["input_ids"].numel() if mask is None else int(mask.sum()))
        return batch

    trainer.data_collator = collate
    trainer.train()
    done = common.Trained(losses=watch.losses, moments=watch.ticks.moments)
    return _turn(done, sum(counts[1 : given.steps]))


# ---------------------------------------------------------------- classifying: transformers' pipeline


def pipeline(device: torch.device, small: bool) -> Outcome:
    """Classify texts as `pipeline` does at its fastest size of batches, and as the harness scores."""
    from scripts.benchmarks import evaluation

    language = common.Language(500 if small else 20_000)
    architecture = common.BERT if small else ENCODER
    tokens = language.tokenizer("encoder", 1500 if small else architecture["vocab_size"])
    reviews = common.Texts(mean=REVIEWS.mean / 4, longest=REVIEWS.longest // 4) if small else REVIEWS
    asked = [row["text"] for row in language.rows(reviews, 16 if small else 1024, tokens)]
    model = common.build_model(architecture, tokens, device, small)
    sizes, costs_s = PIPELINE_SIZES[: 2 if small else None], dict[int, float]()
    for size in sizes:
        theirs = evaluation.by_pipeline(model, tokens, size)
        theirs(asked[:size])
        costs_s[size] = evaluation.timed(theirs, asked)[0].wall_s
    best = min(costs_s, key=lambda size: costs_s[size])
    ways = {"pipeline": evaluation.by_pipeline(model, tokens, best),
            "finetune-bench": evaluation.by_bench(copy.deepcopy(model), tokens)}  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Any] = {}
    for number in range(2 if small else ROUNDS + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            spent, answers[name] = evaluation.timed(ways[name], asked)
            times[name] += [spent.wall_s] if number else []
    one, two = (statistics.median(times[name]) for name in ways)
    pairs = [*zip(answers["pipeline"], answers["finetune-bench"], strict=True)]
    far = max(abs(left[1] - right[1]) for left, right in pairs)
    same = all(left[0] == right[0] and abs(left[1] - right[1]) <= evaluation.TOLERANCE for left, right in pairs)
    rows = [[len(asked), best, f"{one:.2f}", f"{two:.2f}", f"{one / two:.1f}", f"{far:.2g}"]]
    columns = ["texts", "pipeline's batch", "pipeline, s", "finetune-bench, s", "ratio", "largest difference"]
    tried = ", ".join(f"{size}: {seconds:.2f} s" for size, seconds in costs_s.items())
    return Outcome(ok=stub.holds(same), columns=columns, rows=rows, notes=[f"pipeline by size of its batches: {tried}"])


# ---------------------------------------------------------------- labels: lm-evaluation-harness


def scoring(device: torch.device, small: bool) -> Outcome:
    """Score labels by log-likelihood, with shots and without."""
    from scripts.benchmarks import label_scoring as labels

    language = labels.Language(200 if small else 4000)
    tokens = language.tokenizer()
    rows, ok, notes = [], True, []
    for name, num_rows in (("11-labels-8-long-shots", 32), ("2-labels", 64)):
        case = labels.CASES[name]
        case = labels.reduced(case) if small else labels.Case(**{**vars(case), "num_rows": num_rows})
        theirs, ours = _scorers(tokens, device, small)
        contexts = labels.prompts(case, language)
        requests = labels.requests_of(contexts, case)
        size = _best_batch_size(theirs, labels.requests_of(contexts[:4], case), small)
        theirs.batch_size_per_gpu = size
        _timed(ours, requests[: len(case.labels) * 2])
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(1 if small else ROUNDS):
            seconds, expected = _timed(theirs, requests)
            times["theirs"].append(seconds)
            seconds, found = _timed(ours, requests)
            times["ours"].append(seconds)
        far = max(abs(one[0] - two[0]) for one, two in zip(found, expected, strict=True))
        one, two = (statistics.median(times[side]) for side in ("theirs", "ours"))
        # Not by the largest one: `max` may pass over what is not a number.
        near = all(abs(one[0] - two[0]) <= SCORE_DIFFERENCE for one, two in zip(found, expected, strict=True))
        ok &= stub.holds(near)
        rows.append([name, len(contexts), size, f"{one:.2f}", f"{two:.2f}", f"{one / two:.1f}", f"{far:.2g}"])
    if has("vllm"):
        notes.append("vllm is installed, and no comparison with it is made here")
    columns = ["case", "prompts", "lm_eval's batch", "lm_eval, s", "finetune-bench, s", "ratio", "largest difference"]
    return Outcome(ok=ok, columns=columns, rows=rows, notes=notes)


def _scorers(tokens: Any, device: torch.device, small: bool) -> tuple[Any, Any]:
    """Return lm_eval's model and ours around one model in 16 bits."""
    import transformers
    from lm_eval.models.huggingface import HFLM

    from bench.evaluation.lm_eval_model import register
    from scripts.benchmarks import label_scoring as labels

    torch.manual_seed(13)
    config = transformers.AutoConfig.for_model(**{**SCORER, **(labels.SMALL if small else {})}, initializer_range=0.05)
    # On a CPU 16 bits are slow, and nothing is to be measured there.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = transformers.AutoModelForCausalLM.from_config(config).to(device, dtype).eval()
    options = {"pretrained": model, "tokenizer": tokens, "batch_size": 1}
    return HFLM(**options), register()(**options)


def _best_batch_size(lm: Any, requests: list[Any], small: bool) -> int:
    costs_s: dict[int, float] = {}
    for size in BATCH_SIZES[: 1 if small else None]:
        lm.batch_size_per_gpu = size
        try:
            _timed(lm, requests)
            costs_s[size] = _timed(lm, requests)[0]
        except torch.OutOfMemoryError:
            break
    return min(costs_s, key=lambda size: costs_s[size])


def _timed(lm: Any, requests: list[Any]) -> tuple[float, list[tuple[float, bool]]]:
    common.now()
    started_s = time.perf_counter()
    found = lm.loglikelihood(requests, disable_tqdm=True)
    common.now()
    return time.perf_counter() - started_s, found


KINDS: dict[str, Callable[[torch.device, bool], Outcome]] = {
    "encoder": encoder, "decoder": decoder, "compiled": compiled, "answers": answers, "scoring": scoring,
    "pipeline": pipeline,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one kind; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    common.quiet()
    common.pick_device()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    stub.prepare(device)
    try:
        found = KINDS[options.kind](device, options.small)
    except AssertionError as error:  # of the benchmarks, where a side is not what is to be compared
        print(json.dumps({"ok": False, "reason": str(error) or "a benchmark's own check failed"}))
        return 1
    print(json.dumps(found.__dict__))
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
