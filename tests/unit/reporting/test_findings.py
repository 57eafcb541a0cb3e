"""reporting/findings.py: the sentence says what the tests found, how sure it is, and nothing more."""

import itertools
from dataclasses import replace

import pytest

from bench.analysis.compare import EXAMPLES, SEEDS_AND_EXAMPLES, Comparison, Pair, System
from bench.analysis.costs import Costs, MemoryNeed
from bench.reporting import findings


def comparison(scores, *, better=(), metric="accuracy", seeds=5, higher=True, detectable=0.028, variance=True):
    """Systems A, B, ... with these scores, best first. better: the pairs whose difference is significant."""
    letters = "ABCDEFGHIJ"[: len(scores)]
    tier_two = {second for first, second in better if first == "A"}
    number = seeds if isinstance(seeds, tuple) else (seeds,) * len(scores)
    systems = [
        System(letter=letter, name=f"system {letter}", recipe_hash=None, seeds=list(range(count)), scores=[score],
               score=score, low=None, high=None, seed_deviation=None, tier=2 if letter in tier_two else 1)
        for letter, score, count in zip(letters, scores, number, strict=True)
    ]  # fmt: skip
    pairs = []
    for (first, one), (second, other) in itertools.combinations(zip(letters, scores, strict=True), 2):
        seen, p = one - other, 0.001 if (first, second) in better else 0.5
        ends = (seen - 0.022, seen + 0.022) if variance else (None, None)
        both = systems[letters.index(first)].seeds[1:] and systems[letters.index(second)].seeds[1:]
        pairs.append(Pair(
            first=first, second=second, difference=seen, low=ends[0], high=ends[1], bca=None, percentile=None, p=p,
            p_holm=p, test="t", interval="t", covers=SEEDS_AND_EXAMPLES if both else EXAMPLES, detectable=detectable,
            equivalent=None, verdict="",
        ))  # fmt: skip
    return Comparison(
        metric=metric, higher_is_better=higher, stage="after", split="test", examples=1872, others=0, draws=0,
        margin=None, systems=systems, pairs=pairs, left_out=[], notes=[],
    )  # fmt: skip


def test_it_says_who_wins_by_how_much_and_who_does_not_differ():
    found = comparison([0.85, 0.84, 0.797], better=[("A", "C"), ("B", "C")])
    assert findings.finding(found, {"A": "LoRA", "C": "the probe"}) == (
        "LoRA beats the probe by 5.3 points (95 % interval 3.1 to 7.5); no significant difference between LoRA and "
        "system B (minimum detectable difference 2.8 points). Paired tests on 1,872 examples, Holm's correction over "
        "3 pairs, 5 seeds of each system: this covers other seeds and other examples."
    )


def test_two_that_tie_with_the_best_but_differ_are_not_called_equal():
    found = comparison([0.85, 0.84, 0.82], better=[("B", "C")])
    assert findings.finding(found).startswith(
        "No significant difference between the best, system A, and system B and system C (minimum detectable"
    )
    assert findings.finding(comparison([0.85, 0.84, 0.82])).startswith(
        "No significant difference between system A, system B and system C (minimum detectable difference 2.8 points)."
    )


def test_a_single_seed_limits_what_is_claimed():
    every = findings.finding(comparison([0.85, 0.7], better=[("A", "B")], seeds=1))
    assert every == (
        "system A beats system B by 15.0 points (95 % interval 12.8 to 17.2). Paired tests on 1,872 examples; one seed "
        "of each system: this covers other examples for these trained models, not other seeds."
    )
    assert "one seed of system B: this" in findings.finding(comparison([0.85, 0.7], seeds=(3, 1)))
    assert "2 to 5 seeds of each system: this covers other seeds" in findings.finding(
        comparison([0.85, 0.7], seeds=(5, 2))
    )


@pytest.mark.parametrize(
    ("metric", "scores", "shown"),
    [
        ("loss", [0.31, 0.45], "by 0.140 in loss (95 % interval 0.118 to 0.162)"),
        ("bleu", [31.0, 29.5], "by 1.50 points (95 % interval 1.48 to 1.52)"),
        ("mcc", [0.7, 0.6], "by 10.0 points (95 % interval 7.8 to 12.2)"),
        ("somebody/their_metric", [3.0, 2.0], "by 1.00 in somebody/their_metric (95 % interval 0.978 to 1.02)"),
    ],
)
def test_units_are_those_of_the_metric(metric, scores, shown):
    found = comparison(scores, better=[("A", "B")], metric=metric, higher=metric != "loss")
    assert shown in findings.finding(found)


def test_without_variance_there_is_no_interval_and_without_power_no_limit():
    assert findings.finding(comparison([0.9, 0.8], better=[("A", "B")], variance=False)).startswith(
        "system A beats system B by 10.0 points. Paired"
    )
    assert "detectable" not in findings.finding(comparison([0.9, 0.89], detectable=None))


def test_many_systems_are_counted_and_long_names_cut():
    found = comparison([0.9 - place / 100 for place in range(10)], better=[("A", letter) for letter in "EFGHIJ"])
    text = findings.finding(found, {"E": "x" * 500})
    assert "and 2 more; no significant difference between" in text
    assert len(text) < 700


def costs(training_s, ram_gib, machine="one", steps=(10.0,)):
    nothing = dict.fromkeys(
        ("gpu", "tokens_per_s", "padding_share", "seconds_per_100", "process_minutes", "minutes_per_point",
         "why_no_price", "trainable_share")
    )  # fmt: skip
    return Costs(
        training_s=training_s, ram_gib=ram_gib, machine=machine, steps=list(steps), epochs=[],
        device_kind="CPU", **nothing
    )  # fmt: skip


def test_costs_are_told_in_words_beside_one_system_and_only_where_they_can_be_compared():
    made = [
        costs(10.0, 2.0),
        costs(12.0, 2.6),
        costs(5.0, None),
        costs(1.0, 1.0, machine="two"),
        costs(1.0, 1.0, steps=()),
    ]
    names = ["full", "lora", "head", "elsewhere", "probe"]
    assert findings.costs_in_words(names, made, 0) == (
        "Compared with full: lora took 1.2 times the training time and 1.3 times the RAM; "
        "head took 0.5 times the training time."
    )
    assert findings.costs_in_words(names, made, 4) == ""  # a probe takes no steps
    slow = [costs(1.0, 1.0), costs(1234.0, 1.01)]
    assert findings.costs_in_words(["a", "b"], slow, 0) == (
        "Compared with a: b took 1,234 times the training time and 1.0 times the RAM."
    )
    on_gpu = [
        replace(one, gpu=MemoryNeed(least=size, most=size, kind="predicted"))
        for one, size in zip(slow, (2, 3), strict=True)
    ]
    assert findings.costs_in_words(["a", "b"], on_gpu, 0).endswith("and 1.5 times the GPU memory, predicted.")
    assert findings.costs_in_words(names[:1], made[:1], 0) == ""
