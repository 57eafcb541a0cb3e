"""Compares the forecasts of time with runs that others measured and published.

    scripts/plan_time

Prints each published run beside the range that `python -m bench plan` would give for its work, and how far the middle
of the range is off. The runs are facts of two projects: huggingface/peft, method_comparison/MetaMathQA (commits 0a179c1
and 5d602fd; Llama-3.2-3B, 5,000 steps of 4 texts, 4,198,051 tokens without pads, an L40S), and Lightning-AI/litgpt,
config_hub/finetune (commit 2685705; the 1,900 training texts of Alpaca2k, an A10G), whose texts' lengths are not
published: so QLoRA's time less LoRA's is compared, which does not hang on them. The rates of `bench.memory.timing` were
set by these same runs, but for "a later version": the errors say how well one range describes them all, and a run on
another device, or of another size, may be farther off.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import console
from bench.memory import timing
from bench.memory.timing import Work
from bench.utils import hardware

L40S, A10G = "NVIDIA L40S", "NVIDIA A10G"
# Llama-3.2-3B: numbers in its matrix products, and all that are trained in full tuning.
MULTIPLIED, TRAINED = 3_212_574_720, 3_212_749_824
STEPS, TOKENS = 5_000, 4_198_051
ALPACA_TEXTS = 1_900
# (model, numbers in its linear layers, epochs, texts of a micro-batch, minutes of LoRA, minutes of QLoRA).
LITGPT = (
    ("falcon-7b", 6_626_738_176, 4, 1, 24.84, 50.85),
    ("llama-2-7b", 6_476_005_376, 4, 2, 32.82, 45.67),
    ("mistral-7b-v0.2", 6_979_321_856, 4, 2, 31.00, 44.75),
    ("stablelm-base-alpha-3b", 3_221_225_472, 4, 1, 13.07, 25.86),
    ("phi-2", 2_516_582_400, 1, 4, 3.78, 4.51),
    ("phi-3-mini", 3_623_878_656, 1, 4, 6.46, 7.47),
    ("tiny-llama-1.1b", 968_884_224, 3, 8, 8.09, 8.70),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A published time, in seconds, and the work that it took."""

    name: str
    device: str
    published_s: float
    work: Work

    @property
    def range_s(self) -> tuple[float, float]:
        """Return the forecast's least and most seconds."""
        found = timing.seconds(self.work, hardware.DEVICES[self.device], "bf16", timing.published_rates())
        assert found is not None
        return found

    @property
    def error(self) -> float:
        """Return how far the middle of the range, by ratio, is off: 0.1 is a tenth too long."""
        least, most = self.range_s
        return math.sqrt(least * most) / self.published_s - 1


def runs() -> list[Run]:
    """Return the published runs."""
    products = MULTIPLIED * TOKENS
    lora = Work(product_flops=4.0 * products, model_flops=4.0 * products, unpacked=0.0, stepped=0.0)
    full = Work(product_flops=6.0 * products, model_flops=6.0 * products, unpacked=0.0, stepped=float(STEPS * TRAINED))
    more = Work(product_flops=2.0 * products, model_flops=2.0 * products, unpacked=0.0, stepped=float(STEPS * TRAINED))
    found = [
        Run(name="peft: LoRA, its steps", device=L40S, published_s=TOKENS / 6_770, work=lora),
        Run(name="peft: full, its steps", device=L40S, published_s=TOKENS / 2_315, work=full),
        Run(name="peft: full less LoRA, a later version", device=L40S, published_s=2_147.3 - 942.0, work=more),
    ]
    for name, numbers, epochs, rows, lora_min, qlora_min in LITGPT:
        unpacked = Work(
            product_flops=0.0, model_flops=0.0, unpacked=2.0 * numbers * epochs * ALPACA_TEXTS / rows, stepped=0.0
        )
        found.append(
            Run(
                name=f"litgpt: {name}, QLoRA less LoRA",
                device=A10G,
                published_s=60 * (qlora_min - lora_min),
                work=unpacked,
            )
        )
    return found


def main() -> int:
    """Print the table; returns the exit code."""
    console.say("| run | GPU | published, s | forecast, s | middle over published |")
    console.say("| --- | --- | ---: | ---: | ---: |")
    for run in runs():
        least, most = run.range_s
        console.say(
            f"| {run.name} | {run.device} | {run.published_s:,.0f} | {least:,.0f} to {most:,.0f} | {run.error:+.0%} |"
        )
    worst = max(runs(), key=lambda run: abs(run.error))
    console.say(f"\nThe middle of a range is off by at most {abs(worst.error):.0%} ({worst.name}).")
    console.say(
        'The rates were set by these runs, but for "a later version"; other devices and sizes may be farther off.'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
