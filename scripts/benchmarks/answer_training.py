"""How much faster, and in how much less memory, a model with a wide vocabulary learns to write short answers here.

    python scripts/benchmarks/answer_training.py [--small] [--rounds N] [--case NAME]

Against TRL's SFTTrainer, at its defaults, with a data set of prompts and completions: both train the same random
weights on the same tokens, in the same order, with the same learning rate, in turns and in one process. Not TRL's
defaults are `bf16=False`, for the losses to be comparable, the batch, a loss logged at every step, no checkpoints, no
shuffling (the examples come in the harness's order) and no progress bars. TRL recomputes activations by default
(`gradient_checkpointing`), and the harness does not: the case `recomputed` switches that on in the harness
(`training.gradient_checkpointing: true`), the case `kept` switches it off in TRL (`gradient_checkpointing=False`).

The harness trains by its default engine, with answer logits and with pads left out, as `speed` has it by default. Time
is that of the steps after the first. The memory of logits is measured in a step of its own: the bytes, at their peak,
of all tensors whose last dimension is wider than any layer of the body, which is to say the vocabulary or a slice of
it; weights and their gradients do not count.

Prints a table and one line of JSON. The exit code is 1 where losses are not the same; a target that is missed is only
said. The ratios depend on the share of the answers' tokens, on the vocabulary, on the size of the body, and on the
device: on a CPU TRL's head scores every token, in slices of the vocabulary, and computes those twice; where it has
Triton, it too scores only tokens with a label, and there is far less to gain.
"""

import argparse
import copy
import gc
import json
import sys
import tempfile
import warnings
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from transformers.trainer_callback import PrinterCallback  # noqa: E402

from bench.config import registry  # noqa: E402
from bench.config.cards import TokenizerCard  # noqa: E402
from bench.config.training import Training  # noqa: E402
from bench.data import tokenizer  # noqa: E402
from bench.data.examples import Encoded  # noqa: E402
from bench.models.kernels import padding_free  # noqa: E402
from bench.records.clock import Clock  # noqa: E402
from bench.training.fit import fit as train  # noqa: E402
from bench.training.schedule import Budget  # noqa: E402
from bench.training.state import FitInputs, Progress  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

# The first step pays for allocation; it is compared, but not measured.
WARMUP_STEPS = 1
STEPS = 4
BATCH = 4
SEED = 13
# Of losses: rounding, which each of AdamW's steps makes larger.
RELATIVE_DIFFERENCE = 1e-4
SPEED_TARGET, MEMORY_TARGET = 4.0, 10.0
# A wide vocabulary beside a small body, as in the smallest Gemma, where the output head is most of the work.
GEMMA = {
    "model_type": "gemma",
    "vocab_size": 256_000,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}
SMALL = {"vocab_size": 4000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 8}
# Whether activations are recomputed in the backward pass.
CASES = {"recomputed": True, "kept": False}
ANSWERS = ("bad", "very good")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both sides are given. rows: prompts and completions; split: the same in tokens."""

    model: Any
    tokens: Any
    rows: list[dict[str, str]]
    split: Encoded
    training: Training

    @property
    def order(self) -> list[int]:
        """The harness's order of examples."""
        return Budget.plan(self.training, len(self.rows), 1).order(SEED)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case. Spreads are over the rounds; a step's seconds are means over the measured steps of a round."""

    case: str
    rounds: int
    mean_tokens: float
    answer_tokens: float
    trl_cpu_s: dict[str, float]
    bench_cpu_s: dict[str, float]
    cpu_ratio: dict[str, float]
    wall_ratio: dict[str, float]
    trl_logits_mib: float
    bench_logits_mib: float
    logits_ratio: float
    # Of processor or wall times, as the device has it.
    ratio: float
    speed_target: float | None
    memory_target: float | None
    relative_difference: float

    @property
    def is_same(self) -> bool:
        """Whether both sides had the same losses."""
        return self.relative_difference <= RELATIVE_DIFFERENCE


class LogitsMemory(TorchDispatchMode):
    """Follows the bytes of tensors that are wider than any layer of the body; `peak` is the most at one time."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.hidden, self.widest_layer = config.hidden_size, config.intermediate_size
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for item in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if torch.is_tensor(item) and item.dim() > 1 and self._is_logits(item):
                self._follow(item.untyped_storage())
        return outputs

    def _is_logits(self, item: torch.Tensor) -> bool:
        # What has the hidden size before it is a weight, or its gradient, turned around.
        return item.shape[-1] > self.widest_layer and item.shape[-2] != self.hidden

    def _follow(self, storage: Any) -> None:
        if storage._cdata not in self.alive:
            self.alive[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, storage._cdata)
            self.peak = max(self.peak, sum(self.alive.values()))


def run_trl(model: Any, work: Work, folder: Path) -> common.Trained:
    """Trains by SFTTrainer, and makes sure that it made the tokens that the harness is given."""
    watch, training = common.Watch(), work.training
    options = trl.SFTConfig(
        output_dir=str(folder),
        use_cpu=model.device.type == "cpu",
        bf16=False,
        gradient_checkpointing=training.gradient_checkpointing,
        per_device_train_batch_size=training.global_batch,
        max_steps=training.steps,
        learning_rate=training.learning_rate,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = datasets.Dataset.from_list([work.rows[number] for number in work.order])
    trainer = trl.SFTTrainer(
        model=model, args=options, train_dataset=data, processing_class=work.tokens, callbacks=[watch]
    )
    expected = [work.split.features[number] for number in work.order]
    assert list(trainer.train_dataset["input_ids"]) == [feature["input_ids"] for feature in expected]
    assert list(trainer.train_dataset["labels"]) == [feature["token_labels"] for feature in expected]
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return common.Trained(losses=watch.losses, moments=watch.ticks.moments)


def run_bench(model: Any, work: Work, folder: Path) -> common.Trained:
    """Trains by the harness: the call that a run of `objective: text` comes to."""
    switch_on(model)
    ticks = common.Ticks()
    observer, progress = common.NoteKeeper(), Progress()
    inputs = FitInputs(
        model=model,
        task=registry.load_task("text_classification"),
        train=work.split,
        objective="text",
        scoring=common.scoring(work.tokens, model.device, checked=0),
        settings=work.training,
        budget=Budget.plan(work.training, len(work.rows), 1),
        seed=SEED,
        folder=folder,
        clock=Clock(),
        display=ticks,
        observer=observer,
    )
    train(inputs, progress)
    assert not observer.notes, observer.notes
    return common.Trained(losses=progress.log.losses, moments=ticks.moments)


def switch_on(model: Any) -> None:
    """What of `speed` a run puts on a model before training; answer logits come on in training itself."""
    reason = padding_free.attach(model)
    assert reason is None, reason


SIDES = {"trl": run_trl, "bench": run_bench}


def take_turn(side: str, work: Work) -> common.Trained:
    """Trains a fresh copy of the model."""
    model = copy.deepcopy(work.model)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return SIDES[side](model, work, Path(folder))
    finally:
        del model
        gc.collect()


def logits_mib(side: str, work: Work) -> float:
    """Of one step, which is not timed."""
    one = work.training.model_copy(update={"steps": 1})
    with LogitsMemory(work.model.config) as memory:
        take_turn(side, Work(**{**vars(work), "training": one}))
    return memory.peak / 2**20


def prepare(
    case: str,
    device: torch.device,
    small: bool,
    *,
    architecture: dict[str, Any] = GEMMA,
    batch: int = BATCH,
    num_steps: int = STEPS,
) -> Work:
    """Random weights, large enough for the texts to get different answers, and texts of about 170 tokens."""
    language = common.Language(200 if small else 4000)
    language.words += " ".join(ANSWERS).split()
    language.weights += [0.0] * (len(language.words) - len(language.weights))
    # What occurs twice, a word with the space before it, becomes one token.
    seen = [f" {' '.join(language.words)} {end}" for end in ".!"]
    tokens = tokenizer.train(TokenizerCard(train="bpe", vocab_size=30_000), "decoder", seen)
    tokens.split_special_tokens = False  # TRL ends a completion by writing the end token's name behind it
    torch.manual_seed(SEED)
    special = {name: getattr(tokens, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = transformers.AutoConfig.for_model(
        **{**architecture, **(SMALL if small else {})}, **special, initializer_range=0.05, use_cache=False
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device)
    steps = 2 if small else num_steps
    texts = common.Texts(mean=24 if small else 166, longest=512, spread=0.3)
    found = language.rows(texts, batch * steps, tokens)
    rows = [
        {"prompt": row["text"], "completion": f" {ANSWERS[number % len(ANSWERS)]}"} for number, row in enumerate(found)
    ]
    training = Training(
        global_batch=batch,
        steps=steps,
        log_every=1,
        learning_rate=trl.SFTConfig.__dataclass_fields__["learning_rate"].default,
        gradient_checkpointing=CASES[case],
    )
    features = [lesson(row, tokens) for row in rows]
    ids = tuple(row["id"] for row in found)
    split = Encoded(name="train", ids=ids, features=features, truncated=0)
    return Work(model=model, tokens=tokens, rows=rows, split=split, training=training)


def lesson(row: dict[str, str], tokens: Any) -> dict[str, Any]:
    """The tokens of a prompt and of its completion, of which only the completion, with the end, carries a loss."""
    prompt = tokens(row["prompt"])["input_ids"]
    together = tokens(row["prompt"] + row["completion"] + tokens.eos_token)["input_ids"]
    assert together[: len(prompt)] == prompt
    answer = together[len(prompt) :]
    return {"input_ids": together, "token_labels": [-100] * len(prompt) + answer, "labels": 0}


def measure(case: str, device: torch.device, rounds: int, small: bool) -> Result:
    """The sides take turns, and their losses are compared after each."""
    work = prepare(case, device, small)
    peaks = {side: logits_mib(side, work) for side in SIDES}
    seconds: dict[str, list[common.Moment]] = {side: [] for side in SIDES}
    difference = 0.0
    for _ in range(rounds):
        found = {side: take_turn(side, work) for side in SIDES}
        for side, trained in found.items():
            seconds[side].append(trained.moments[-1] - trained.moments[WARMUP_STEPS - 1])
        assert len(found["trl"].losses) == len(found["bench"].losses) == work.training.steps
        for one, two in zip(found["trl"].losses, found["bench"].losses, strict=True):
            difference = max(difference, abs(one - two) / one)
    pairs = list(zip(seconds["trl"], seconds["bench"], strict=True))
    num_steps = (work.training.steps or 0) - WARMUP_STEPS
    ratio = common.spread([one.busy_s(device) / two.busy_s(device) for one, two in pairs])
    sizes = [len(feature["input_ids"]) for feature in work.split.features]
    answers = [sum(label != -100 for label in feature["token_labels"]) for feature in work.split.features]
    return Result(
        case=case,
        rounds=rounds,
        mean_tokens=sum(sizes) / len(sizes),
        answer_tokens=sum(answers) / len(answers),
        trl_cpu_s=common.spread([moment.cpu_s / num_steps for moment in seconds["trl"]]),
        bench_cpu_s=common.spread([moment.cpu_s / num_steps for moment in seconds["bench"]]),
        cpu_ratio=common.spread([one.cpu_s / two.cpu_s for one, two in pairs]),
        wall_ratio=common.spread([one.wall_s / two.wall_s for one, two in pairs]),
        trl_logits_mib=peaks["trl"],
        bench_logits_mib=peaks["bench"],
        logits_ratio=peaks["trl"] / peaks["bench"],
        ratio=ratio["median"],
        speed_target=None if small else SPEED_TARGET,
        memory_target=None if small else MEMORY_TARGET,
        relative_difference=difference,
    )


def table(results: list[Result]) -> str:
    """Markdown."""
    titles = [
        *("tokens (of the answer)", "TRL, CPU s a step", "bench, CPU s a step", "ratio of CPU time", "of wall time"),
        *("target", "reached", "TRL, MiB of logits", "bench, MiB", "ratio", "target", "reached", "largest difference"),
    ]
    rows = [
        [
            *(result.case, f"{result.mean_tokens:.0f} ({result.answer_tokens:.1f})"),
            *(common.shown(values) for values in (result.trl_cpu_s, result.bench_cpu_s)),
            *(common.shown(values, 1) for values in (result.cpu_ratio, result.wall_ratio)),
            "" if result.speed_target is None else f"{result.speed_target:g}",
            common.reached(result.ratio, result.speed_target),
            *(f"{result.trl_logits_mib:.1f}", f"{result.bench_logits_mib:.1f}", f"{result.logits_ratio:.1f}"),
            "" if result.memory_target is None else f"{result.memory_target:g}",
            common.reached(result.logits_ratio, result.memory_target),
            f"{result.relative_difference:.1e}",
        ]
        for result in results
    ]
    lines = [["case", *titles], ["---", *["--:"] * len(titles)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny model and texts: does it run, are losses the same")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each side")
    parser.add_argument("--case", choices=CASES, help="only this one")
    options = parser.parse_args(arguments)
    device = common.pick_device()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
    results = []
    for case in [options.case] if options.case else CASES:
        results.append(measure(case, device, options.rounds, options.small))
        print(f"{case}: {results[-1].ratio:.1f} times as fast", file=sys.stderr, flush=True)
    print(f"{common.described(device)}, trl {trl.__version__}; single precision on both sides")
    print(table(results))
    found = {**common.surroundings(device), "trl": trl.__version__, "precision": "float32"}
    print(json.dumps({"benchmark": "answer_training", **found, "cases": [asdict(result) for result in results]}))
    for result in results:
        if not result.is_same:
            print(f"{result.case}: losses are not the same", file=sys.stderr)
    return 0 if all(result.is_same for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
