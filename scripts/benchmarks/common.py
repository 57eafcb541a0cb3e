"""What the benchmarks of training and of evaluation share: texts, random models, times, and an engine's run."""

import os
import random
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from bench import console
from bench.config import registry, resolve
from bench.config.cards import TokenizerCard
from bench.config.training import Training
from bench.data.examples import Encoded
from bench.data.tokenizer import train as train_tokenizer
from bench.distributed import setup
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.evaluation.readers import head
from bench.evaluation.self_check import EXAMPLES
from bench.records.clock import Clock, synchronize
from bench.training.fit import fit as train
from bench.training.schedule import Budget
from bench.training.state import FitInputs, Observer, Progress

LABELS = ("bad", "good", "mixed")
# Every engine needs a whole recipe; what it says of data, model and method is not used here.
RECIPE = resolve.SHIPPED / "tiny" / "bert-full.yaml"
# glibc gives large tensors back to the system, and asks for them again, in every step, unless these say otherwise.
MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")

BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30_000,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    # With dropout no two ways of computing a batch could have the same losses.
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 30_000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 30_000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
}
QWEN3_MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 30_000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "moe_intermediate_size": 344,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}
SMALL: dict[str, Any] = {"vocab_size": 1500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Lengths in tokens are log-normal, as those of reviews and sentences are, cut at `longest`."""

    mean: float
    longest: int
    # Standard deviation of the lengths' logarithm; by default that of film reviews: a mean of 1.32 medians.
    spread: float = 0.75

    def lengths(self, count: int, draw: random.Random) -> list[int]:
        """So many lengths, whose mean after cutting is `mean`."""
        drawn = [draw.lognormvariate(0.0, self.spread) for _ in range(count)]
        low, high = 0.0, 4.0 * self.mean
        for _ in range(50):
            scale = (low + high) / 2
            found = [min(max(round(scale * item), 4), self.longest) for item in drawn]
            low, high = (scale, high) if statistics.fmean(found) < self.mean else (low, scale)
        return found


class Language:
    """Made-up words, frequent ones and rare ones, the same in every run; each is one token of its tokenizer."""

    def __init__(self, num_words: int) -> None:
        self.draw = random.Random(13)
        syllables = [start + vowel for start in "bdfgklmnprstvz" for vowel in "aeiou"]
        self.words = sorted(
            {"".join(self.draw.choices(syllables, k=self.draw.randint(2, 5))) for _ in range(num_words)}
        )
        self.weights = [1 / (rank + 10) for rank in range(len(self.words))]

    def tokenizer(self, family: str, vocab_size: int) -> Any:
        """Of word pieces."""
        card = TokenizerCard(train="wordpiece", vocab_size=vocab_size)
        tokens = train_tokenizer(card, family, [" ".join(self.words)])
        tokens.padding_side, tokens.model_max_length = "right", 1024
        return tokens

    def rows(self, texts: Texts, count: int, tokens: Any) -> list[dict[str, Any]]:
        """Texts with labels, as a task gets them. Their lengths count the tokens that the tokenizer adds."""
        added = tokens.num_special_tokens_to_add()
        lengths = [length - added for length in texts.lengths(count, self.draw)]
        return [
            {
                "id": f"{number:06}",
                "text": " ".join(self.draw.choices(self.words, self.weights, k=length)),
                "label": self.draw.randrange(len(LABELS)),
            }
            for number, length in enumerate(lengths)
        ]


def encoded(rows: Sequence[dict[str, Any]], tokens: Any, max_length: int) -> Encoded:
    """A split as a run makes it from rows."""
    features, cut = head.encode_rows(rows, tokens, max_length)
    return Encoded(name="train", ids=tuple(row["id"] for row in rows), features=features, truncated=len(cut))


def build_model(architecture: dict[str, Any], tokens: Any, device: torch.device, small: bool) -> Any:
    """A classifier in single precision. Its random weights are large enough for the texts to get different answers."""
    torch.manual_seed(13)
    reduced = {**SMALL, **({"layer_types": architecture["layer_types"][-2:]} if "layer_types" in architecture else {})}
    config = transformers.AutoConfig.for_model(
        **{**architecture, **(reduced if small else {})},
        initializer_range=0.05,
        num_labels=len(LABELS),
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.config.use_cache = False
    return model.to(device).eval()


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Seconds of two clocks: the wall's, and this process's own on all of its threads."""

    wall_s: float
    cpu_s: float

    def __sub__(self, earlier: "Moment") -> "Moment":
        return Moment(wall_s=self.wall_s - earlier.wall_s, cpu_s=self.cpu_s - earlier.cpu_s)

    def busy_s(self, device: torch.device) -> float:
        """What a ratio is made of. On a CPU that others use too, time in which this process waited does not count."""
        return self.cpu_s if device.type == "cpu" else self.wall_s


def now() -> Moment:
    """When all work given to the device so far is done."""
    synchronize()
    return Moment(wall_s=time.perf_counter(), cpu_s=time.process_time())


class Ticks(console.Phase):
    """Takes the place of a run's progress, and notes when each step ends."""

    def __init__(self) -> None:
        super().__init__("train", total=0)
        self.moments: list[Moment] = []

    def advance(self, units: int = 1, *, tokens: int = 0, report: bool = True) -> None:
        """The end of a step."""
        self.moments.append(now())


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Logged losses, and the moments at which steps ended."""

    losses: list[float]
    moments: list[Moment]


def settings(engine: Any, batch: int, steps: int, **others: Any) -> Training:
    """The harness's own defaults but for these."""
    return Training(engine=engine, global_batch=batch, steps=steps, **others)


def scoring(tokens: Any, device: torch.device, checked: int = EXAMPLES) -> Scoring:
    """How the harness scores a classifier. checked: 0 leaves out the comparison with the plain path, before a training.

    It is a phase of its own in a run; here the steps are measured.
    """
    return Scoring(
        tokenizer=tokens,
        metrics=MetricSet(("accuracy",), multi_label=False, num_labels=len(LABELS)),
        threshold=0.5,
        device=device,
        precision=setup.precision(),
        checked=checked,
    )


def run_engine(
    model: Any,
    split: Encoded,
    tokens: Any,
    training: Training,
    folder: Path,
    ticks: Ticks,
    *,
    by_length: bool = False,
    compiled: bool = False,
) -> Trained:
    """Trains by the harness: the call that `accelerate launch bench/run.py` comes to.

    Mixed precision is the launcher's, which is to say that of the environment variable. by_length: rows of a global
    batch are sorted, as the harness does for a model that computes pads. compiled: as `speed.compile` asks.
    """
    device = model.device
    plain = resolve.load(RECIPE).recipe
    budget = Budget.plan(training, len(split.ids), 1)
    progress = Progress()
    inputs = FitInputs(
        model=model,
        task=registry.load_task("text_classification"),
        train=split,
        scoring=scoring(tokens, device, checked=0),
        settings=training,
        budget=budget,
        seed=plain.seed,
        folder=folder,
        clock=Clock(),
        display=ticks,
        speed=plain.speed.model_copy(update={"compile": compiled}),
        by_length=by_length,
    )
    train(inputs, progress)
    return Trained(losses=progress.log.losses, moments=ticks.moments)


class NoteKeeper(Observer):
    """Keeps the notes of a training: sentences about what was not in force."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, sentence: str) -> None:
        """Keep it."""
        self.notes.append(sentence)


class Watch(transformers.TrainerCallback):
    """Notes the losses of transformers' Trainer, or of its child, and when its steps end."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ticks = Ticks()

    def on_step_end(self, *args: Any, **options: Any) -> None:
        """Before the loss is logged, as on our side."""
        self.ticks.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """The summary at the end has no loss."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def in_order(split: Encoded, training: Training) -> list[dict[str, Any]]:
    """Features in the order in which the harness trains on them."""
    order = Budget.plan(training, len(split.ids), 1).order(resolve.load(RECIPE).recipe.seed)
    return [split.features[number] for number in order]


def quiet() -> None:
    """Nothing but the results on standard output, and no warnings of libraries about one another."""
    console.quiet_libraries()
    console.out.quiet = True
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def pick_device() -> torch.device:
    """A GPU where there is one. The CPU is used with one thread: more are slower for small models on few cores."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        return torch.device("cuda")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for a GPU, and complains
    return torch.device("cpu")


def surroundings(device: torch.device) -> dict[str, Any]:
    """What a time depends on, for the line of JSON."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "malloc": {name: os.environ[name] for name in MALLOC if name in os.environ},
        **{module.__name__: module.__version__ for module in (torch, transformers)},
    }


def described(device: torch.device) -> str:
    """The same in one sentence."""
    found = surroundings(device)
    malloc = ", ".join(f"{name}={value}" for name, value in found["malloc"].items()) or "glibc's own settings"
    return (
        f"{found['device']}, {found['threads']} thread(s), memory: {malloc}, "
        f"torch {found['torch']}, transformers {found['transformers']}"
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and both ends."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(values: dict[str, float], digits: int = 2) -> str:
    """`median (min–max)`."""
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}–{values['max']:.{digits}f})"


def table(header: dict[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown. header: title of a column -> its alignment, `---` or `--:`."""
    lines = [list(header), list(header.values()), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reached(value: float, target: float | None, *, upward: bool = True) -> str:
    """Whether a target, where there is one, is met."""
    if target is None:
        return ""
    return "yes" if (value >= target if upward else value <= target) else "no"
