"""Greedy generation: `evaluation.generation` against transformers' `generate` in left-padded batches of 8, same texts.

    python scripts/benchmarks/generation.py [--small]

Both run in turn (A B A B ...) on one thread in one process; the ratio is the median over rounds, in CPU seconds and in
wall seconds. The model is a random one of Llama's kind, so that nothing is downloaded. Prints a table and a JSON line.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM  # noqa: E402

from bench.evaluation.generation import Generator  # noqa: E402

PEER_BATCH = 8
PAD = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case: prompts, what ends an answer, how often it is measured."""

    name: str
    prompts: list[list[int]]
    end_token_ids: set[int]
    max_new_tokens: int
    rounds: int


def build_model(layers: int, hidden: int, vocabulary: int) -> Any:
    """A random decoder of Llama's kind, in float32."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=2048,
        # Larger than usual: the texts vary, and the likeliest token stands out from rounding errors.
        initializer_range=0.06,
    )
    torch.manual_seed(13)
    return LlamaForCausalLM(config).eval()


def make_work(
    name: str, vocabulary: int, num_prompts: int, shots: list[int], text: tuple[int, int], rounds: int
) -> Work:
    """Shots of so many tokens in common, then a text of its own of `text` (shortest, longest) tokens."""
    draw = random.Random(13)
    tokens = range(1, vocabulary)
    common = [token for length in shots for token in draw.choices(tokens, k=length)]
    prompts = [common + draw.choices(tokens, k=draw.randint(*text)) for _ in range(num_prompts)]
    # One token in twenty ends an answer, so that answers end at different times.
    ends = set(draw.sample(tokens, k=vocabulary // 20))
    return Work(name=name, prompts=prompts, end_token_ids=ends, max_new_tokens=24, rounds=rounds)


def ours(model: Any, work: Work) -> list[tuple[int, ...]]:
    """New tokens of each prompt by the harness, its common prefix included in the time."""
    generator = Generator(
        model,
        work.prompts,
        end_token_ids=work.end_token_ids,
        max_new_tokens=work.max_new_tokens,
        pad_token_id=PAD,
    )
    found: dict[int, tuple[int, ...]] = {}
    for numbers in generator.batches:
        for number, answer in zip(numbers, generator.run(numbers), strict=True):
            found[number] = answer.tokens
    assert generator.notes == [], generator.notes
    return [found[number] for number in range(len(work.prompts))]


def peer(model: Any, work: Work) -> list[tuple[int, ...]]:
    """The same by transformers, as its documentation shows it: batches in the given order, padded on the left."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=work.max_new_tokens,
        eos_token_id=sorted(work.end_token_ids),
        pad_token_id=PAD,
    )
    found = []
    for start in range(0, len(work.prompts), PEER_BATCH):
        prompts = work.prompts[start : start + PEER_BATCH]
        longest = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.no_grad():
            answers = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        found += [_before_end(row[longest:].tolist(), work.end_token_ids) for row in answers]
    return found


def _before_end(tokens: list[int], ends: set[int]) -> tuple[int, ...]:
    return tuple(tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))])


def timed(run: Callable[[Any, Work], Any], model: Any, work: Work) -> tuple[float, float, Any]:
    """CPU seconds, wall seconds, result."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(model, work)
    return time.process_time() - cpu, time.perf_counter() - wall, found


def compare(model: Any, work: Work) -> dict[str, Any]:
    """Medians over the rounds; raises AssertionError when the texts are not the same."""
    rounds: list[tuple[float, float, float, float]] = []
    for _ in range(work.rounds):
        ours_cpu, ours_wall, answers = timed(ours, model, work)
        peer_cpu, peer_wall, expected = timed(peer, model, work)
        different = [number for number, pair in enumerate(zip(answers, expected, strict=True)) if pair[0] != pair[1]]
        assert not different, f"{work.name}: other texts for prompts {different}"
        rounds.append((ours_cpu, peer_cpu, ours_wall, peer_wall))
    lengths = [len(tokens) for tokens in expected]
    return {
        "case": work.name,
        "prompts": len(work.prompts),
        "prompt_tokens": statistics.mean(map(len, work.prompts)),
        "new_tokens": statistics.mean(lengths),
        "ours_cpu_s": statistics.median(item[0] for item in rounds),
        "peer_cpu_s": statistics.median(item[1] for item in rounds),
        "cpu_ratio": statistics.median(item[1] / item[0] for item in rounds),
        "wall_ratio": statistics.median(item[3] / item[2] for item in rounds),
        "rounds": work.rounds,
    }


def main() -> None:
    """Runs both cases and prints what came out."""
    parser = argparse.ArgumentParser(description="Greedy generation against transformers' generate.")
    parser.add_argument("--small", action="store_true", help="a tiny model: only shows that it works")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    if small:
        model, vocabulary = build_model(2, 64, 512), 512
        cases = [
            make_work("4 shots", vocabulary, 12, [20] * 4, (2, 25), 1),
            make_work("no shots", vocabulary, 12, [], (2, 25), 1),
        ]
    else:
        model, vocabulary = build_model(8, 512, 32_000), 32_000
        cases = [
            make_work("4 shots", vocabulary, 48, [250] * 4, (20, 250), 3),
            make_work("no shots", vocabulary, 96, [], (20, 250), 3),
        ]
    results = [compare(model, work) for work in cases]
    print("| case | prompts | tokens each | new tokens | ours, CPU s | generate, CPU s | ratio, CPU | ratio, wall |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for found in results:
        print(
            "| {case} | {prompts} | {prompt_tokens:.0f} | {new_tokens:.1f} | {ours_cpu_s:.2f} | {peer_cpu_s:.2f} "
            "| ×{cpu_ratio:.2f} | ×{wall_ratio:.2f} |".format(**found)
        )
    print(json.dumps({"benchmark": "generation", "small": small, "threads": 1, "cases": results}))


if __name__ == "__main__":
    main()
