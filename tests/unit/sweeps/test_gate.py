"""The regression gate: what is planted is caught, what is clean passes, and both as often as is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.cli.main import main
from bench.config import resolve
from bench.errors import DataError
from bench.sweeps import jobs, study
from bench.sweeps.gate import criteria, runs
from tests.helpers.launching import ROOT
from tests.helpers.pages import full

SEEDS = range(13, 18)


def baseline(**changes):
    given = {
        "recipe": "tiny",
        "hash": "x",
        "metric": "accuracy",
        "higher_is_better": True,
        "scores": {seed: 0.90 + 0.01 * (seed % 3) for seed in SEEDS},
        "losses": [0.7, 0.6, 0.5, 0.45],
        "arithmetic": {"torch": "2.13.0", "processor": "this one"},
    }
    return criteria.Baseline(**given | changes)


def moved(by, noise=0.0, seed=0):
    """New scores: the old ones, moved by so much, give or take."""
    generator = np.random.default_rng(seed)
    return {number: value + by + noise * generator.standard_normal() for number, value in baseline().scores.items()}


def test_equal_scores_pass():
    found = criteria.quality(baseline(), moved(0.0), 0.01)
    assert (found.ok, found.p) == (True, 1.0)
    assert "no drop" in found.sentence


def test_a_loss_of_two_points_is_caught():
    for noise in (0.0, 0.003):
        found = criteria.quality(baseline(), moved(-0.02, noise), 0.01)
        assert not found.ok
        assert "accuracy dropped by 0.02" in found.sentence or "accuracy dropped by 0.01" in found.sentence


def test_damage_to_some_seeds_is_caught_too():
    """The new runs' own spread would hide it."""
    old = dict(zip(SEEDS, (0.9, 0.91, 0.89, 0.9, 0.9), strict=True))
    for new in ((0.88, 0.5, 0.6, 0.2, 0.85), (0.9, 0.9, 0.9, 0.5, 0.5), (0.9, 0.9, 0.9, 0.9, 0.0)):
        scores = dict(zip(SEEDS, new, strict=True))
        gains = np.array([scores[seed] - old[seed] for seed in SEEDS])
        assert criteria.drop_p_value(gains) > 0.01
        assert not criteria.quality(baseline(scores=old), scores, 0.01 / 16).ok


def test_what_is_said_to_be_seen_is_seen():
    old = np.array([0.9, 0.91, 0.89, 0.905, 0.895])
    seen = criteria.detectable_drop(old, 0.01, 0.005)
    assert criteria.seed_spread_p_value(old, seen, 0.005) == pytest.approx(0.01)
    equal = np.full(5, 0.9)
    assert criteria.seed_spread_p_value(equal, 0.003, 0.005) > 0.1  # seeds are taken to vary by the margin
    assert criteria.seed_spread_p_value(equal, 0.1, 0.005) < 1e-4
    assert (criteria.seed_spread_p_value(equal, 0.1, 0.0), criteria.seed_spread_p_value(equal, 0.0, 0.0)) == (0.0, 1.0)


def test_less_than_the_margin_is_no_regression_however_sure():
    found = criteria.quality(baseline(), moved(-0.004), 0.01)
    assert found.ok
    assert found.p == 0.0
    assert "below the margin of 0.005" in found.sentence


def test_a_fall_within_the_seeds_noise_passes():
    found = criteria.quality(baseline(), moved(-0.01, 0.05, seed=3), 0.01)
    assert found.ok
    assert found.p > 0.01


def test_of_a_loss_less_is_better():
    down = criteria.quality(baseline(higher_is_better=False), moved(-0.02), 0.01)
    up = criteria.quality(baseline(higher_is_better=False), moved(0.02), 0.01)
    assert (down.ok, up.ok) == (True, False)


def test_seeds_that_both_have_are_compared_and_three_are_needed():
    new = moved(-0.02)
    found = criteria.quality(baseline(), {13: new[13], 14: new[14], 15: new[15], 99: 1.0}, 0.01)
    assert "over 3 seeds" in found.sentence
    with pytest.raises(DataError, match="2 seeds in common with the baseline"):
        criteria.quality(baseline(), {13: 0.9, 14: 0.9}, 0.01)


def test_the_t_test_is_scipys():
    from scipy import stats

    gains = np.array([-0.02, -0.01, 0.005, -0.03, -0.01])
    assert criteria.drop_p_value(gains) == stats.ttest_1samp(gains, 0, alternative="less").pvalue
    assert criteria.drop_p_value(np.full(5, -0.02)) == 0.0
    assert criteria.drop_p_value(np.zeros(5)) == 1.0


@pytest.mark.parametrize("level", [0.01, 0.05])
def test_clean_repetitions_give_no_more_false_alarms_than_stated(level):
    """Fifty clean repetitions, 40 times over; without a margin, which would make alarms rarer still."""
    generator = np.random.default_rng(7)
    alarms = 0
    repetitions = 50 * 40
    for _ in range(repetitions):
        old, new = (dict(zip(SEEDS, 0.9 + 0.02 * generator.standard_normal(5), strict=True)) for _ in range(2))
        alarms += not criteria.quality(baseline(scores=old), new, level, margin=0.0).ok
    # Above this, a binomial count with that rate would lie once in a thousand tries.
    assert alarms <= repetitions * level + 3.1 * np.sqrt(repetitions * level * (1 - level))


def test_clean_timings_give_no_more_false_alarms_than_stated():
    generator = np.random.default_rng(8)
    times = 0.01 * np.exp(0.15 * generator.standard_normal((2000, 2, 6)))
    alarms = sum(not criteria.speed("tiny", "a step", old, new, 0.05, factor=1.0).ok for old, new in times)
    assert alarms <= 2000 * 0.05 + 3.1 * np.sqrt(2000 * 0.05 * 0.95)


def test_a_slowdown_of_thirty_percent_is_caught():
    generator = np.random.default_rng(9)
    caught = 0
    for _ in range(100):
        old, new = 0.01 * np.exp(0.05 * generator.standard_normal((2, 6)))
        caught += not criteria.speed("tiny", "a step", old, 1.3 * new, 0.01).ok
    assert caught >= 95


def test_a_sure_slowdown_below_the_factor_passes():
    old = [1.0, 1.001, 1.002, 1.003, 1.004, 1.005]
    found = criteria.speed("tiny", "a step", old, [1.1 * one for one in old], 0.01)
    assert found.ok
    assert found.p < 0.01


def test_too_few_runs_are_refused_instead_of_passed():
    with pytest.raises(DataError, match=r"3 and 3 runs are too few for a test at level 0\.01"):
        criteria.speed("tiny", "a step", [1, 1, 1], [2, 2, 2], 0.01)
    assert criteria.rounds_needed(0.01) == 5
    assert criteria.smallest_p(5, 5) == pytest.approx(1 / 252)


def test_a_trajectory_is_compared_digit_by_digit():
    found = criteria.trajectory(baseline(), [0.7, 0.6, 0.5, 0.45], baseline().arithmetic)
    assert found.ok
    assert found.sentence == "all 4 losses agree within 0.0001"
    wrong = criteria.trajectory(baseline(), [0.7, 0.6, 0.5002, 0.45], baseline().arithmetic)
    assert not wrong.ok
    assert wrong.sentence.startswith("the loss at step 3 is 0.500200, expected 0.500000")
    assert not criteria.trajectory(baseline(), [0.7, 0.6, float("nan"), 0.45], baseline().arithmetic).ok
    assert not criteria.trajectory(baseline(), [0.7, 0.6, 0.5], baseline().arithmetic).ok


def test_losses_of_the_base_commit_are_compared_closely_whatever_the_baseline_was_made_with():
    old, here = baseline(), {"torch": "3.0", "processor": "another"}
    base = [1.005 * loss for loss in old.losses]
    assert criteria.trajectory(old, base, here).ok
    assert criteria.same_as_base(old, base, base, here).ok
    found = criteria.same_as_base(old, base, old.losses, here)
    assert (found.ok, found.kind) == (False, "losses of the base commit")
    assert "they must agree within 0.0001" in found.sentence


def test_the_same_model_scored_worse_is_no_chance():
    """Two points that strike other examples in each seed, which a test over seeds can't tell from chance."""
    draw, level = np.random.default_rng(4), 0.0006
    old = baseline(scores={seed: 0.8 + 0.01 * (seed % 3) for seed in SEEDS})
    missed = 0
    for _ in range(50):
        new = {seed: score - draw.binomial(320, 0.025) / 400 for seed, score in old.scores.items()}
        missed += criteria.quality(old, new, level).ok
        found = criteria.scoring(old, new, old.losses, old.arithmetic)
        assert (found.ok, found.kind) == (False, "scoring")
        assert "the same losses at all 4 steps, and accuracy dropped by 0.0" in found.sentence
    assert missed > 25
    assert criteria.scoring(old, old.scores, old.losses, old.arithmetic).ok
    other = [loss * 1.001 for loss in old.losses]
    assert criteria.scoring(old, new, other, old.arithmetic) is None
    # The models are the same to rounding, whatever computed them.
    assert not criteria.scoring(old, new, [loss * 1.00001 for loss in old.losses], {"torch": "3.0"}).ok
    untrained = baseline(losses=[], scores=old.scores)
    assert "no gradient training" in criteria.scoring(untrained, new, [], untrained.arithmetic).sentence
    assert criteria.scoring(untrained, new, [], {"torch": "3.0"}) is None


def test_what_is_timed_by_default_has_training_steps():
    trained, untrained = baseline(), baseline(losses=[])
    assert runs._first_trained({Path("a"): untrained, Path("b"): trained}) == (Path("b"),)
    assert runs._first_trained({Path("a"): untrained}) == (Path("a"),)


def test_other_versions_are_compared_loosely_and_that_is_said():
    other = baseline().arithmetic | {"torch": "2.14.0"}
    found = criteria.trajectory(baseline(), [0.7, 0.601, 0.501, 0.451], other)
    assert found.ok
    assert found.sentence == "the losses of the first 20 steps agree within 0.01, since torch changed"
    assert not criteria.trajectory(baseline(), [0.7, 0.65, 0.5, 0.45], other).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content | {"scores": {"13": 0.5}},
        lambda content: content | {"scores": {"13": 0.5, "14": 0.5, "15": None}},
        lambda content: content | {"surprise": 1},
        lambda content: {},
    ],
)
def test_an_edited_baseline_is_refused(tmp_path, change):
    path = tmp_path / "tiny.json"
    criteria.write_baseline(baseline(), path)
    assert criteria.read_baseline(path) == baseline()
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(DataError, match=r"invalid baseline: (.*; write a new one with --write|it needs|a score or)"):
        criteria.read_baseline(path)


def test_a_baseline_of_endless_brackets_is_refused(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"deep\.json: invalid baseline: .*; write a new one with --write"):
        criteria.read_baseline(tmp_path / "deep.json")


def test_the_comment_shows_failures_first_and_breaks_on_no_text():
    verdicts = [
        criteria.quality(baseline(), moved(0.0), 0.01),
        criteria.quality(baseline(recipe="a|b"), moved(-0.02), 0.01),
    ]
    text = criteria.as_markdown(verdicts, ["a note"])
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert "**1 of 2 checks failed**" in text
    assert rows[0].startswith("| **failed** | a")
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    assert text.endswith("- a note\n")
    assert criteria.as_markdown(verdicts, ["of <x> | y"]).endswith("- of &lt;x&gt; &#124; y\n")


def test_a_terminal_is_shown_plain_text():
    drop = criteria.quality(baseline(recipe="a|b_c"), moved(-0.02), 0.01)
    times = criteria.speed("<x>", "a step", [1.0] * 6, [1.3] * 6, 0.01)
    assert criteria.as_text([criteria.quality(baseline(), moved(0.0), 0.01), drop, times], ["a > b & c"]).split(
        "\n"
    ) == [
        "Regression gate: 2 of 3 checks failed",
        f"FAILED  a|b_c, quality: {drop.sentence}",
        f"FAILED  <x>, speed: {times.sentence}",
        "ok      tiny, quality: accuracy 0.9120 -> 0.9120: no drop",
        "note: a > b & c",
    ]
    assert "->" in drop.sentence
    assert criteria.as_text([times]).startswith("Regression gate: 1 of 1 checks failed\n")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "tiny").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_baselines_are_of_the_shipped_recipes(path):
    found = criteria.read_baseline(ROOT / "reports" / "baseline" / f"{path.stem}.json")
    runs.refuse_edited(found, path, resolve.load(path, runs.overrides_of(path)))
    assert len(found.scores) == 5


RECIPE = "recipes/tiny/bert-full.yaml"
BASELINE = ROOT / "reports" / "baseline" / "bert-full.json"


def edited(**changes):
    return lambda place: (place / "bert-full.json").write_text(
        json.dumps(json.loads(BASELINE.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def with_a_run(place):
    plan = study.plan([ROOT / RECIPE], study.SweepRequest(seeds=(15,), sets=runs.overrides_of(ROOT / RECIPE)))
    (place / "out" / plan.systems[0].runs()[0].folder_name).mkdir(parents=True)


def with_a_twin(place):
    (place / "tiny").mkdir()
    shutil.copy(ROOT / RECIPE, place / "tiny" / "twin.yaml")


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        (with_a_run, [], "exists, but earlier runs must not be mixed with those of the current code"),
        (
            with_a_run,
            ["--write", "--num-seeds", "4"],
            "exists, but earlier runs must not be mixed with those of the current code",
        ),
        (
            edited(losses=[], grad_norms=[], learning_rates=[], tokens=[]),
            [],
            "was edited: it has no losses, though the recipe trains by gradient; write a new one",
        ),
        (edited(losses=[]), [], "its lists of steps have different lengths"),
        (edited(recipe="gpt2"), [], "bert-full: its baseline was edited: it names the recipe 'gpt2'; write a new one"),
        (edited(higher_is_better=False), [], "higher_is_better=False is wrong for 'accuracy'"),
        (edited(hash="x"), [], "the recipe has changed since its baseline was written; write a new one with --write"),
        (None, ["--write", "--seeds", "2"], "--num-seeds 2: a baseline needs at least 3 seeds"),
        (None, ["--write", "--against", "HEAD"], "--against, --speed and --rounds can't be combined with --write"),
        (None, ["--num-seeds", "5"], "--num-seeds goes with --write"),
        (None, ["--speed", RECIPE], "--speed and --rounds need --against"),
        (None, ["--against", "nosuchcommit"], "--against 'nosuchcommit': no such commit in "),
        (None, ["--against", "HEAD", "--rounds", "2"], "--rounds 2: a test at level 0.0025 needs at least"),
        (None, ["--against", "HEAD", "--speed", "none.yaml"], "none.yaml"),
        (None, ["-o", "."], ". is a folder; give the name of a file"),
        (with_a_twin, ["TWIN"], "define the same run; leave one of them out"),
    ],
)
def test_refused_before_anything_runs(tmp_path, capsys, prepare, words, message):
    shutil.copy(BASELINE, tmp_path)
    shutil.copy(BASELINE, tmp_path / "twin.json")
    if prepare is not None:
        prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = [str(tmp_path / "tiny" / "twin.yaml") if word == "TWIN" else word for word in words]
    given = ["--baseline", str(tmp_path), "--out", str(tmp_path / "out"), "--config", "cpu"]
    assert main(["gate", *given, *words, str(ROOT / RECIPE)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_baseline_is_of_the_metric_that_would_be_chosen():
    plan = study.plan([ROOT / RECIPE], study.SweepRequest(seeds=(13,)))
    planned = plan.systems[0].runs()[0]
    done = runs.FinishedRun(jobs.Job(planned, ROOT / "none", ROOT / "none.txt"), full())
    with pytest.raises(
        DataError, match="it has scores of 'mcc', but its recipe is compared by 'accuracy'; write a new one"
    ):
        runs._verdicts(baseline(metric="mcc"), [done], 0.01, 0.005)


@pytest.mark.parametrize("words", [["compare", "-o"], ["compare", "--json"], ["report", "--html"]])
def test_a_folder_in_place_of_a_file_is_named(tmp_path, capsys, words):
    assert main([words[0], str(tmp_path), words[1], str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is a folder; give the name of a file\n"
