"""How much faster labels are scored by bench.evaluation.likelihood than by lm-evaluation-harness's own model class.

    python scripts/benchmarks/label_scoring.py [--small] [--rows N] [--case NAME]

Both answer the same requests with the same random weights, on one thread, in turns; lm_eval with the batch size that
suits it best. A turn begins with texts and ends with log-likelihoods, so each tool tokenises in its own way. Prints a
table and one line of JSON. The exit code is 1 where the scores are not the same; a target that is missed is only said.

A ratio depends on the model, on how many rows lm_eval runs for a prompt (labels that differ in nothing but their last
token share one), and, with shots, on the number of prompts, for the shots are run once.
"""

import argparse
import gc
import json
import logging
import math
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import lm_eval  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from bench.config.cards import TokenizerCard  # noqa: E402
from bench.data.tokenizer import train  # noqa: E402
from bench.evaluation.lm_eval_model import register  # noqa: E402

TOLERANCE = 1e-4
NUM_TURNS = 2
# On a CPU more rows at once are slower: what a batch's logits fill no longer fits the caches.
BATCH_SIZES = (1, 4, 8)
# lm_eval holds a batch's logits and their log-softmax at once; larger batches ask too much of many machines.
LOGITS_LIMIT_GIB = 4.0
# With fewer tokens than that the time of a batch says little.
LEAST_TOKENS_TRIED = 1500

SENTIMENTS = ("negative", "positive")
EMOTIONS = (
    *("anger", "anticipation", "disgust", "fear", "joy", "love"),
    *("optimism", "pessimism", "sadness", "surprise", "trust"),
)
# As in Mistral's vocabulary, these are spelt with several tokens; the other labels are one token each.
SPELT = {"anticipation", "optimism", "pessimism", "sadness"}
# Words of the made-up language that lend them their pieces.
LENDERS = ("anticip", "nation", "station", "optimal", "pessary", "realism", "idealism", "sad", "kindness", "weakness")

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "max_position_embeddings": 4096,
}
GEMMA = {
    "model_type": "gemma",
    "vocab_size": 256_000,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}
SMALL = {"vocab_size": 4000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 8}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is scored: num_rows texts of num_words words and punctuation each, behind num_shots shots of that length."""

    labels: tuple[str, ...]
    num_shots: int
    num_words: int
    num_rows: int
    architecture: dict[str, Any]
    # The least ratio of processor times that is aimed at.
    target: float


CASES = {
    "11-labels-8-long-shots": Case(
        labels=EMOTIONS, num_shots=8, num_words=235, num_rows=8, architecture=LLAMA, target=25
    ),
    "2-labels-8-short-shots": Case(
        labels=SENTIMENTS, num_shots=8, num_words=22, num_rows=96, architecture=LLAMA, target=12
    ),
    "11-labels": Case(labels=EMOTIONS, num_shots=0, num_words=212, num_rows=12, architecture=LLAMA, target=9),
    "2-labels": Case(labels=SENTIMENTS, num_shots=0, num_words=272, num_rows=24, architecture=LLAMA, target=1.7),
    "2-labels-256k": Case(labels=SENTIMENTS, num_shots=0, num_words=272, num_rows=8, architecture=GEMMA, target=5),
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds of one turn of one tool; tokenising_s is processor time and part of cpu_s."""

    cpu_s: float
    wall_s: float
    tokenising_s: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case. Seconds are medians; a ratio is lm_eval's divided by ours. lm_eval_rows: for a prompt."""

    case: str
    num_rows: int
    mean_tokens: float
    label_tokens: list[int]
    lm_eval_rows: float
    lm_eval_batch_size: int
    lm_eval: Turn
    bench: Turn
    cpu_ratio: float
    wall_ratio: float
    cpu_ratio_without_tokenising: float
    target: float | None
    largest_difference: float
    same_choices: bool

    @property
    def is_same(self) -> bool:
        """Whether both tools gave the same scores and would choose the same labels."""
        return self.largest_difference <= TOLERANCE and self.same_choices


class Language:
    """Texts of made-up words, frequent ones and rare ones; the same in every run."""

    def __init__(self, num_words: int) -> None:
        self.random = random.Random(13)
        syllables = [start + vowel + end for start in "bdfgklmnprstvz" for vowel in "aeiou" for end in ("", "n", "r")]
        self.words = ["".join(self.random.choices(syllables, k=self.random.randint(1, 3))) for _ in range(num_words)]
        self.weights = [1 / (rank + 10) for rank in range(num_words)]

    def text(self, num_words: int) -> str:
        """One text."""
        return " ".join(self.random.choices(self.words, self.weights, k=num_words)) + "."

    def tokenizer(self) -> Any:
        """A byte-level BPE for which the language's words, and all labels but SPELT, are one token."""
        frequent = [word for word in (*EMOTIONS, *SENTIMENTS, *LENDERS) if word not in SPELT]
        lines = [self.words[start : start + 20] for start in range(0, len(self.words), 20)]
        texts = [f"Text: {' '.join([*line, *frequent])}.\n\nMood: {turn}" for line in lines for turn in "ab"]
        return train(TokenizerCard(train="bpe", vocab_size=32_000), "decoder", texts)


def prompts(case: Case, language: Language) -> list[str]:
    """The same shots for all, then a text of its own, at most a quarter shorter or longer than a shot's."""
    shots = "".join(
        f"Text: {language.text(case.num_words)}\nMood: {case.labels[number % len(case.labels)]}\n\n"
        for number in range(case.num_shots)
    )
    lengths = [round(case.num_words * language.random.uniform(0.75, 1.25)) for _ in range(case.num_rows)]
    return [f"{shots}Text: {language.text(length)}\nMood:" for length in lengths]


def requests_of(contexts: list[str], case: Case) -> list[Instance]:
    """As lm_eval's tasks make them: a request for each label of each prompt."""
    pairs = [(context, f" {label}") for context in contexts for label in case.labels]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def take_turn(lm: Any, requests: list[Instance]) -> tuple[Turn, list[tuple[float, bool]]]:
    """Times a tool. Its tokenising ends where it turns to the log-likelihoods of tokens."""
    tokenised_s: list[float] = []

    def note_time(*arguments: Any, **options: Any) -> list[tuple[float, bool]]:
        tokenised_s.append(time.process_time())
        return type(lm)._loglikelihood_tokens(lm, *arguments, **options)

    lm._loglikelihood_tokens = note_time
    gc.collect()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    turn = Turn(
        cpu_s=time.process_time() - cpu_s,
        wall_s=time.perf_counter() - wall_s,
        tokenising_s=tokenised_s[0] - cpu_s,
    )
    return turn, answers


def rows_of(lm: Any, contexts: list[str], case: Case) -> tuple[float, int]:
    """(rows that lm_eval runs for a prompt, tokens of the longest row)."""
    encoded = [lm._encode_pair(*request.args) for request in requests_of(contexts, case)]
    # Labels that differ in nothing but their last token are answered from one row.
    rows = {tuple(context + label[:-1]) for context, label in encoded}
    return len(rows) / len(contexts), max(map(len, rows))


def best_batch_size(lm: Any, contexts: list[str], case: Case) -> int:
    """The one of BATCH_SIZES with which lm_eval takes the least processor time for a prompt."""
    rows_a_prompt, longest = rows_of(lm, contexts, case)
    take_turn(lm, requests_of(["Text:"], case))
    costs_s = {}
    for size in BATCH_SIZES:
        logits_gib = 2 * 4 * size * longest * lm.model.config.vocab_size / 2**30
        num_prompts = math.ceil(max(size, LEAST_TOKENS_TRIED / longest) / rows_a_prompt)
        if size == 1 or logits_gib <= LOGITS_LIMIT_GIB:
            lm.batch_size_per_gpu = size
            tried = contexts[:num_prompts]
            turn, _ = take_turn(lm, requests_of(tried, case))
            costs_s[size] = (turn.cpu_s - turn.tokenising_s) / len(tried)
    return min(costs_s, key=lambda size: costs_s[size])


def models_of(case: Case, tokens: Any, small: bool) -> tuple[Any, Any]:
    """(lm_eval's, ours) around one model, whose random weights are large enough for its answers to differ."""
    torch.manual_seed(13)
    changes = SMALL if small else {}
    config = transformers.AutoConfig.for_model(**{**case.architecture, **changes}, initializer_range=0.05)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    options = {"pretrained": model, "tokenizer": tokens, "batch_size": 1}
    return HFLM(**options), register()(**options)


def choices(answers: list[tuple[float, bool]], num_labels: int) -> list[int]:
    """The most probable label of each prompt."""
    sums = [answer[0] for answer in answers]
    rows = [sums[start : start + num_labels] for start in range(0, len(sums), num_labels)]
    return [row.index(max(row)) for row in rows]


def median(turns: list[Turn]) -> Turn:
    """The median of each number."""
    rows = [asdict(turn) for turn in turns]
    return Turn(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


def measure(name: str, case: Case, language: Language, tokens: Any, small: bool) -> Result:
    """One case: the tools take turns, and their answers are compared after each."""
    theirs, ours = models_of(case, tokens, small)
    contexts = prompts(case, language)
    requests = requests_of(contexts, case)
    theirs.batch_size_per_gpu = best_batch_size(theirs, contexts, case)
    take_turn(ours, requests_of(contexts[:2], case))
    turns: dict[str, list[Turn]] = {"theirs": [], "ours": []}
    difference, same = 0.0, True
    for _ in range(NUM_TURNS):
        turn, expected = take_turn(theirs, requests)
        turns["theirs"].append(turn)
        turn, found = take_turn(ours, requests)
        turns["ours"].append(turn)
        difference = max([difference, *(abs(one[0] - two[0]) for one, two in zip(found, expected, strict=True))])
        same &= choices(found, len(case.labels)) == choices(expected, len(case.labels))
        same &= [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    one, two = median(turns["theirs"]), median(turns["ours"])
    return Result(
        case=name,
        num_rows=case.num_rows,
        mean_tokens=statistics.fmean(len(tokens.encode(context)) for context in contexts),
        label_tokens=[len(tokens.encode(f" {label}", add_special_tokens=False)) for label in case.labels],
        lm_eval_rows=rows_of(theirs, contexts, case)[0],
        lm_eval_batch_size=theirs.batch_size,
        lm_eval=one,
        bench=two,
        cpu_ratio=one.cpu_s / two.cpu_s,
        wall_ratio=one.wall_s / two.wall_s,
        cpu_ratio_without_tokenising=(one.cpu_s - one.tokenising_s) / (two.cpu_s - two.tokenising_s),
        target=None if small else case.target,
        largest_difference=difference,
        same_choices=same,
    )


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = [
        "| case | prompts | tokens a prompt | lm_eval's rows a prompt "
        "| lm_eval, CPU s (tokenising) | bench, CPU s (tokenising) "
        "| ratio of CPU time | of wall time | without tokenising | target | reached | largest difference |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- | --: |",
    ]
    for result in results:
        one, two = result.lm_eval, result.bench
        reached = "" if result.target is None else "yes" if result.cpu_ratio >= result.target else "no"
        cells = [
            *(result.case, f"{result.num_rows}", f"{result.mean_tokens:.0f}", f"{result.lm_eval_rows:g}"),
            *(f"{turn.cpu_s:.2f} ({turn.tokenising_s:.3f})" for turn in (one, two)),
            *(f"{result.cpu_ratio:.1f}", f"{result.wall_ratio:.1f}", f"{result.cpu_ratio_without_tokenising:.1f}"),
            *("" if result.target is None else f"{result.target:g}", reached, f"{result.largest_difference:.1e}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reduced(case: Case) -> Case:
    """A case of a few seconds."""
    return Case(**{**vars(case), "num_words": max(case.num_words // 8, 5), "num_rows": 3})


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="tiny models and texts: does it run, are the scores the same"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="prompts of a case, instead of its own number")
    parser.add_argument("--case", choices=CASES, help="only this one")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # Both say that they were given a model that is loaded already.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    language = Language(200 if options.small else 4000)
    tokens = language.tokenizer()
    results = []
    for name in [options.case] if options.case else CASES:
        case = reduced(CASES[name]) if options.small else CASES[name]
        if options.rows:
            case = Case(**{**vars(case), "num_rows": options.rows})
        results.append(measure(name, case, language, tokens, options.small))
        print(f"{name}: {results[-1].cpu_ratio:.1f} times as fast", file=sys.stderr, flush=True)
    print(table(results))
    versions = {module.__name__: module.__version__ for module in (torch, transformers, lm_eval)}
    print(json.dumps({"benchmark": "label_scoring", "threads": 1, **versions, "cases": [asdict(r) for r in results]}))
    for result in results:
        if not result.is_same:
            print(f"{result.case}: the scores are not the same", file=sys.stderr)
    return 0 if all(result.is_same for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
