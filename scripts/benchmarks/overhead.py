"""What a training step of the harness costs beside forward, backward and optimiser, for both engines.

    python scripts/benchmarks/overhead.py [--small] [--rounds N]

Held against a bare loop on accelerate, written out below: prepare, forward, backward, clip, optimiser, schedule. It
finds its batches padded already and logs nothing, so that collating, counting tokens, seeds, checks, the log and the
progress of the harness, and all that the Trainer does around a step, count as overhead. `padding_free` is attached on
all three sides; optimiser, learning rates, batches and their order are the same, and so are the losses that the
engines log.

The three run in threads of one process of which only one runs at a time: after each step the next one gets its turn,
so that what happens on the machine is the same for all. An overhead is the median, over the steps of a round, of the
difference from the bare loop on the same batch. On a CPU, of the processor seconds that a step takes outside of its
forward, backward and optimiser: where in memory a copy of the model happens to lie makes more of a difference to these
than all the rest of a step. On a GPU, which works while the rest is done, of the wall seconds of whole steps. Steps are
of about 200 ms on one thread of a usual CPU.

Prints a table and one line of JSON. The exit code is 1 where losses are not the same; a target that is missed is only
said.
"""

import argparse
import collections
import contextlib
import copy
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from transformers import Trainer, TrainingArguments, get_scheduler  # noqa: E402

from bench.data import batching  # noqa: E402
from bench.data.examples import Encoded  # noqa: E402
from bench.models.kernels import padding_free  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

# Building, and the steps in which the allocator still grows.
WARMUP_STEPS = 3
RELATIVE_DIFFERENCE = 1e-4
ENGINES = ("trainer", "loop")
# Share of the bare loop's step that is aimed at, at most.
TARGET = 0.03
BATCH = 8
TEXTS = common.Texts(mean=80, longest=200)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One engine. Spreads are over the rounds."""

    case: str
    steps: int
    step_ms: dict[str, float]
    bare_step_ms: dict[str, float]
    overhead_ms: dict[str, float]
    overhead_share: dict[str, float]
    target: float | None
    losses_compared: int
    relative_difference: float
    same_losses: bool


class Parts:
    """Processor seconds spent in forward, backward and optimiser so far, by whichever thread has its turn."""

    def __init__(self) -> None:
        self.total_s = self._start_s = 0.0

    def begin(self, *_: Any) -> None:
        """A hook before one of them."""
        self._start_s = time.process_time()

    def end(self, *_: Any) -> None:
        """A hook after it."""
        self.total_s += time.process_time() - self._start_s

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, all backward passes and all optimisers are timed."""
        plain = torch.Tensor.backward

        def backward(*arguments: Any, **options: Any) -> None:
            self.begin()
            plain(*arguments, **options)
            self.end()

        hooks = [register_optimizer_step_pre_hook(self.begin), register_optimizer_step_post_hook(self.end)]
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.Tensor.backward = plain  # type: ignore[method-assign]
            for hook in hooks:
                hook.remove()

    def watch(self, model: Any) -> None:
        """Times a model's forward."""
        model.register_forward_pre_hook(self.begin)
        model.register_forward_hook(self.end)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of a step, and of what of it lies outside of forward, backward and optimiser (on a GPU: all)."""

    whole_s: float
    outside_s: float


class Rota:
    """Of several threads lets one run at a time; they take turns in the order of their names."""

    def __init__(self, names: list[str]) -> None:
        self._waiting = collections.deque(names)
        self._changed = threading.Condition()

    def wait(self, name: str) -> None:
        """Returns when it is this one's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == name)

    def hand_on(self) -> None:
        """The next one's turn."""
        with self._changed:
            self._waiting.rotate(-1)
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """This one is done."""
        with self._changed:
            self._waiting.remove(name)
            self._changed.notify_all()


class Turns(common.Ticks):
    """Times the steps of one side, each from the moment when it got its turn, and lets the others have theirs."""

    def __init__(self, rota: Rota, name: str, parts: Parts, device: torch.device) -> None:
        super().__init__()
        self.rota, self.name, self.parts, self.device = rota, name, parts, device
        self.steps: list[Step] = []
        self._start, self._inside_s = common.now(), 0.0

    def advance(self, units: int = 1, *, tokens: int = 0, report: bool = True) -> None:
        """The end of a step, and then the beginning of the next."""
        whole_s = (common.now() - self._start).busy_s(self.device)
        self.steps.append(Step(whole_s=whole_s, outside_s=whole_s - (self.parts.total_s - self._inside_s)))
        self.rota.hand_on()
        self.rota.wait(self.name)
        self._start, self._inside_s = common.now(), self.parts.total_s


def bare(model: Any, batches: list[dict[str, torch.Tensor]], optimizer: Any, turns: Turns) -> list[float]:
    """The plain loop; its losses."""
    accelerator = Accelerator()
    model, optimizer = accelerator.prepare(model, optimizer)
    scheduler = get_scheduler("linear", optimizer.optimizer, 0, len(batches))
    losses = []
    model.train()
    for batch in batches:
        loss = model(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()}).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        turns.advance()
    return [float(loss) for loss in losses]


def by_bare(model: Any, split: Encoded, tokens: Any, steps: int, turns: Turns) -> list[float]:
    """The plain loop's losses, averaged as the engines log them: over the steps since the last line of the log."""
    training = common.settings("loop", BATCH, steps)
    ordered = common.in_order(split, training)
    batches = [batching.collate(ordered[start : start + BATCH], tokens) for start in range(0, len(ordered), BATCH)]
    arguments = TrainingArguments(output_dir="none", optim=training.optimizer, learning_rate=training.learning_rate)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    losses = bare(model, batches, kind(model.parameters(), **options, weight_decay=0.0), turns)
    ends = [step for step in range(1, steps + 1) if step in (1, steps) or step % training.log_every == 0]
    return [statistics.fmean(losses[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def one_round(model: Any, split: Encoded, tokens: Any, steps: int, first: int) -> Any:
    """(step times, losses) of each side, in turns that begin with the side of number `first`."""
    names = ["bare", *ENGINES]
    names = names[first:] + names[:first]
    rota, parts, losses, errors = Rota(names), Parts(), {}, []
    turns = {name: Turns(rota, name, parts, model.device) for name in names}

    def engine(name: str, folder: Path) -> Callable[[Any], list[float]]:
        training = common.settings(name, BATCH, steps)
        return lambda own: common.run_engine(own, split, tokens, training, folder / name, turns[name]).losses

    def work(name: str, run: Callable[[Any], list[float]]) -> None:
        rota.wait(name)
        try:
            torch.set_num_threads(1)  # OpenMP keeps the number apart for each thread
            own = copy.deepcopy(model)
            reason = padding_free.attach(own)
            assert reason is None, reason
            if model.device.type == "cpu":
                parts.watch(own)
            losses[name] = run(own)
        except BaseException as error:
            errors.append(error)
        finally:
            rota.leave(name)

    watching = parts.watching() if model.device.type == "cpu" else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder, watching:
        runs = {name: engine(name, Path(folder)) for name in ENGINES}
        runs["bare"] = lambda own: by_bare(own, split, tokens, steps, turns["bare"])
        threads = [threading.Thread(target=work, args=(name, runs[name])) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return {name: turns[name].steps[WARMUP_STEPS:] for name in names}, losses


def measure(steps: int, device: torch.device, rounds: int, small: bool) -> list[Result]:
    """Both engines against the bare loop."""
    language = common.Language(500 if small else 20_000)
    tokens = language.tokenizer("encoder", 1500 if small else common.BERT["vocab_size"])
    split = common.encoded(language.rows(TEXTS, steps * BATCH, tokens), tokens, TEXTS.longest)
    model = common.build_model(common.BERT, tokens, device, small)
    found = [one_round(model, split, tokens, steps, number % 3) for number in range(rounds)]
    return [summary(name, found, small) for name in ENGINES]


def summary(name: str, rounds: list[Any], small: bool) -> Result:
    """One engine's times and losses beside those of the bare loop."""
    times = [list(zip(steps["bare"], steps[name], strict=True)) for steps, _ in rounds]
    bare_ms = [1000 * statistics.median(one.whole_s for one, _ in pairs) for pairs in times]
    more_ms = [1000 * statistics.median(two.outside_s - one.outside_s for one, two in pairs) for pairs in times]
    pairs = [pair for _, losses in rounds for pair in zip(losses["bare"], losses[name], strict=True)]
    difference = max(abs(one - two) / abs(one) for one, two in pairs)
    return Result(
        case=name,
        steps=sum(map(len, times)),
        step_ms=common.spread([1000 * statistics.median(two.whole_s for _, two in pairs) for pairs in times]),
        bare_step_ms=common.spread(bare_ms),
        overhead_ms=common.spread(more_ms),
        overhead_share=common.spread([more / one for more, one in zip(more_ms, bare_ms, strict=True)]),
        target=None if small else TARGET,
        losses_compared=len(pairs),
        relative_difference=difference,
        same_losses=difference <= RELATIVE_DIFFERENCE,
    )


def table(results: list[Result]) -> str:
    """Markdown."""
    header = {
        "engine": "---",
        "steps": "--:",
        "bare step, ms": "--:",
        "step, ms": "--:",
        "overhead, ms": "--:",
        "overhead, % of the bare step": "--:",
        "at most": "--:",
        "reached": "---",
        "losses differ by, relative": "--:",
    }
    rows = []
    for result in results:
        percent = {end: 100 * share for end, share in result.overhead_share.items()}
        target = "" if result.target is None else f"{100 * result.target:g}"
        rows.append(
            [
                *(result.case, f"{result.steps}"),
                *(common.shown(item, 1) for item in (result.bare_step_ms, result.step_ms)),
                *(common.shown(result.overhead_ms), common.shown(percent), target),
                common.reached(result.overhead_share["median"], result.target, upward=False),
                f"{result.relative_difference:.1e}",
            ]
        )
    return common.table(header, rows)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="a tiny model and few steps: does it run, are the losses the same"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="all anew, so often (default: 5)")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (2 if options.small else 5)
    common.quiet()
    device = common.pick_device()
    results = measure(12 if options.small else 25, device, rounds, options.small)
    print(f"{common.described(device)}; fp32; {rounds} rounds\n")
    print(table(results))
    found = {"benchmark": "overhead", "small": options.small, "rounds": rounds, "precision": "fp32"}
    print(json.dumps({**found, **common.surroundings(device), "cases": [asdict(result) for result in results]}))
    for result in results:
        if not result.same_losses:
            print(f"{result.case}: the losses are not the same", file=sys.stderr)
    return 0 if all(result.same_losses for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
