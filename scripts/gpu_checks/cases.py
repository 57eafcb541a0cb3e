"""The cases of scripts/gpu_check, in the order in which they are run: what is correct comes first."""

from dataclasses import dataclass
from typing import Any

PARTS = ("correctness", "memory", "peers")
PRECISIONS = ("bf16", "fp16")
FITTED = (
    "imdb-mistral_7b_v03-text_qlora_12gib", "imdb-gemma_7b-text_qlora_12gib",
    "imdb-mistral_7b_v03-text_qlora_24gib", "imdb-gemma_7b-text_qlora_24gib",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One process: `python -m scripts.gpu_checks.PART ARGUMENTS`, ended after limit_s.

    expected_s: no case is begun with less of the budget left. needs: modules without which it is skipped.
    not_on_stub: why a stub GPU can't run it, where it is skipped; "" where it can.
    """

    name: str
    part: str
    arguments: tuple[str, ...]
    expected_s: float
    limit_s: float
    needs: tuple[str, ...] = ()
    not_on_stub: str = ""


def _correct(name: str, *arguments: str, needs: tuple[str, ...] = (), expected_s: float = 15) -> Case:
    return Case(
        name=name, part="correctness", arguments=arguments, expected_s=expected_s, limit_s=4 * expected_s, needs=needs
    )


def _peer(name: str, *arguments: str, expected_s: float = 40, **others: Any) -> Case:
    return Case(name=name, part="peers", arguments=arguments, expected_s=expected_s, limit_s=3 * expected_s, **others)


def cases() -> list[Case]:
    """Return all cases."""
    found = [_correct("varlen-kernel", "varlen")]
    for precision in PRECISIONS:
        found += [
            _correct(f"padding-free-{precision}", "padding-free", precision, expected_s=30),
            _correct(f"answer-only-loss-{precision}", "answers", precision),
            _correct(f"shared-prefix-{precision}", "prefix", precision),
            _correct(f"generation-{precision}", "generation", precision),
            _correct(f"4-bit-{precision}", "four-bit", precision, needs=("bitsandbytes",)),
        ]
    found += [
        Case(name=name, part="memory", arguments=(name,), expected_s=60, limit_s=200, needs=("bitsandbytes",))
        for name in FITTED
    ]
    found += [
        _peer("encoder-training", "encoder"),
        _peer("decoder-training", "decoder"),
        _peer("compiled-training", "compiled", expected_s=120, not_on_stub="nothing is compiled while it watches"),
        _peer("answer-training", "answers", needs=("trl", "datasets"), not_on_stub="TRL's loss is a kernel of Triton"),
        _peer("classifying", "pipeline"),
        _peer("label-scoring", "scoring", needs=("lm_eval",)),
    ]
    return found
