"""Tuning by Optuna: the same trials after the same results, what the sampler is told, early stops, what is refused."""

import json
import math

import pytest

from bench.errors import RecipeError
from bench.records import record, store
from bench.reporting import tuning_page
from bench.sweeps import jobs, scheduler, search, study, tuning
from bench.sweeps.search import Range, Sampler, Search
from bench.sweeps.study import SweepRequest
from tests.helpers.launching import ROOT

BASE = "title: T\nmetric: accuracy\nruns: [{recipe: tiny/bert-full}]\n"
RATES = "tune: {full: {training.learning_rate: {low: 1e-5, high: 1e-2, log: true}, training.warmup: [0.0, 0.1]}}\n"
SEARCH = "search: {trials: 8, seed: 3, startup: 3}\n"
SPACE = {"training.learning_rate": Range(low=1e-5, high=1e-2, log=True), "training.warmup": (0.0, 0.1)}


def rate_of(settings):
    return float(dict(text.partition("=")[::2] for text in settings)["training.learning_rate"])


def goodness(settings):
    """Best at a rate of 1e-3."""
    return 0.9 - 0.1 * abs(math.log10(rate_of(settings)) + 3)


def tuned(sampler, number, score=goodness, state="complete"):
    for _ in range(number):
        trial = sampler.ask()
        sampler.tell(state, score(trial.settings) if state == "complete" else None)
    return [trial.settings for trial in sampler.trials]


def test_the_same_results_give_the_same_trials_and_other_seeds_others():
    found = [tuned(Sampler(SPACE, Search(trials=12, seed=seed), higher=True), 12) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert all(1e-5 <= rate_of(one) <= 1e-2 for one in found[0])
    assert {one[1] for one in found[0]} == {"training.warmup=0.0", "training.warmup=0.1"}


def test_later_trials_lie_near_the_good_ones():
    sampler = Sampler(SPACE, Search(trials=40, seed=1, startup=8), higher=True)
    settings = tuned(sampler, 40)
    early, late = (sum(map(goodness, part)) / len(part) for part in (settings[:8], settings[-12:]))
    assert late > early + 0.03
    assert sampler.is_finished
    low = Sampler(SPACE, Search(trials=40, seed=1, startup=8), higher=False)
    worse = tuned(low, 40)
    assert sum(map(goodness, worse[-12:])) / 12 < late


def test_settings_that_run_out_of_memory_are_avoided():
    def batches(state):
        """Return how many of the last trials have a batch that fails."""
        sampler = Sampler({"training.global_batch": Range(low=8, high=64)}, Search(trials=40, startup=10), higher=True)
        for _ in range(40):
            trial = sampler.ask()
            size = int(trial.settings[0].partition("=")[2])
            sampler.tell(state if size > 32 else "complete", None if size > 32 else 0.5 + size / 1000)
        return sum(int(trial.settings[0].partition("=")[2]) > 32 for trial in sampler.trials[-20:])

    # As failures of which nothing is known the sampler forgets them, and proposes them again and again.
    assert batches("unfit") < batches("failed") - 4


def test_a_hopeless_trial_is_told_early_and_a_good_one_is_not():
    sampler = Sampler(SPACE, Search(trials=9, startup=2, prune="median"), higher=True)
    for number in range(6):
        sampler.ask()
        sampler.tell("complete", 0.7, [(10, 0.6 + number / 100), (20, 0.7)])
    sampler.ask()
    assert not sampler.is_hopeless([(10, 0.66)])
    assert not sampler.is_hopeless([(10, 0.66), (20, 0.71)])
    sampler.tell("complete", 0.71, [(10, 0.66), (20, 0.71)])
    sampler.ask()
    assert not sampler.is_hopeless([])
    assert sampler.is_hopeless([(10, 0.4)])
    assert sampler.is_hopeless([(10, 0.4)])
    sampler.tell("pruned", None, [(10, 0.4)])
    assert [trial.state for trial in sampler.trials] == ["complete"] * 7 + ["pruned"]
    without = Sampler(SPACE, Search(trials=9), higher=True)
    without.ask()
    assert not without.is_hopeless([(10, 0.0)])


def test_validations_are_read_as_far_as_they_are_written(tmp_path):
    rows = [{"step": 5, "loss": 1.0}, {"step": 5, "validation_accuracy": 0.5}, {"step": 9, "validation_accuracy": None}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 10, "validation_acc'
    (tmp_path / search.LOG).write_text(text)
    assert search.validations(tmp_path, "accuracy") == [(5, 0.5)]
    assert search.validations(tmp_path / "none", "accuracy") == []


@pytest.fixture
def planned(write):
    return lambda text: study.plan([write("own/study.yaml", text)], SweepRequest())


def finish(job, status="ok", value=None, validations=()):
    """A record of that job's run, as if it had ended."""
    resolved = job.planned.resolved
    part = record.RecipePart(path=str(ROOT), hash=resolved.hash)
    made = record.Record(name=resolved.name, seed=job.planned.seed, started_at="x", finished_at="y", recipe=part)
    made.status, made.reason = status, None if status == "ok" else "a reason"
    made.phases = [record.PhaseTime(name="train_steps", seconds=2.0)]
    score = record.Score(value=value, examples=16, signature="x")
    made.scores = {"after": {"validation": {"accuracy": score}}} if value is not None else {}
    job.folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "validation_accuracy": value} for step, value in validations]
    (job.folder / search.LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    store.write(made, job.folder)


def test_a_sweep_asks_tells_and_goes_on_where_it_was_stopped(planned, tmp_path):
    plan, launched = planned(BASE + RATES + SEARCH), []

    def execute(waiting, watch):
        for job in waiting:
            if jobs.read(job) is None:
                if len(launched) == stop_after:
                    return
                launched.append(job.planned.overrides[-2:])
                status = "oom" if len(launched) == 2 else "ok"
                finish(job, status, goodness(job.planned.overrides[-2:]) if status == "ok" else None)

    stop_after = 4
    assert tuning.searched(plan, tmp_path, "accuracy", execute) is None
    stop_after = 99
    (choice,) = tuning.searched(plan, tmp_path, "accuracy", execute)
    assert len(launched) == len(set(launched)) == 8
    assert [trial.settings for trial in choice.trials] == launched
    assert [trial.state for trial in choice.trials] == ["complete", "unfit", *["complete"] * 6]
    assert choice.chosen == max((one for one in launched if one != launched[1]), key=goodness)
    whole, launched[:] = list(launched), []
    tuning.searched(plan, tmp_path / "again", "accuracy", execute)
    assert launched == whole
    (row,) = json.loads(tuning.write_choices([choice], tmp_path, "accuracy").read_text())
    assert row["search"] == {"sampler": "TPE", "trials": 8, "seed": 3, "startup": 3, "prune": "none"}
    assert row["seconds"] == 16.0
    assert row["candidates"][1] == {"settings": list(whole[1]), "validation": None, "state": "unfit", "seconds": 2.0}
    trial = plan.systems[0].trial(whole[0]).resolved.recipe
    assert (trial.evaluation.splits, trial.save) == (("validation",), False)


def test_a_running_trial_is_stopped_once_and_known_as_pruned_by_a_repeated_sweep(planned, tmp_path):
    text = BASE.replace("tiny/bert-full", "tiny/bert-full, set: {training.evaluate_every: 5}")
    plan, stopped = planned(text + RATES + "search: {trials: 8, startup: 2, prune: median}\n"), []

    def execute(waiting, watch):
        for job in waiting:
            if jobs.read(job) is not None:
                continue
            number = len(list((tmp_path / tuning.TRIALS).glob("*/record.json")))
            good = number < 6
            finish(job, "crashed", None, [(5, 0.8 if good else 0.2)])
            if watch(job):
                assert not watch(job)
                stopped.append(job.folder)
                finish(job, "interrupted", None, [(5, 0.2)])
                (job.folder / "checkpoints" / "step-5").mkdir(parents=True)
            else:
                finish(job, "ok", 0.8, [(5, 0.8)])

    (choice,) = tuning.searched(plan, tmp_path, "accuracy", execute)
    assert [trial.state for trial in choice.trials] == [*["complete"] * 6, "pruned", "pruned"]
    assert len(stopped) == 2
    assert not list((tmp_path / tuning.TRIALS).glob("*/checkpoints"))

    def nothing(waiting, watch):
        assert not [job for job in waiting if jobs.read(job) is None]

    (again,) = tuning.searched(plan, tmp_path, "accuracy", nothing)
    assert again.trials == choice.trials


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RATES, "tune.full.training.learning_rate: a range needs `search`; without it, write a list"),
        (SEARCH, "search: needs `tune`, the settings of each method that are searched"),
        (RATES + "search: {trials: 1}\n", "search.trials"),
        (
            RATES + "search: {trials: 4, prune: median}\n",
            "search.prune: median: a trial of full is scored once",
        ),
        (RATES + "search: {trials: 4, sampler: grid}\n", "search.sampler: unknown key"),
        (SEARCH + RATES.replace("low: 1e-5", "low: 1e-1"), "learning_rate.low: 0.1 is not less than `high`, 0.01"),
        (SEARCH + RATES.replace("low: 1e-5", "low: 0.0"), "learning_rate.low: 0.0: a logarithm needs a number above 0"),
        (
            SEARCH + "tune: {full: {evaluation.threshold: {low: 0.1, high: 0.5}}}\n",
            "threshold can't be tuned",
        ),
    ],
)
def test_refused_with_the_place_and_what_was_expected(planned, text, message):
    with pytest.raises(RecipeError) as caught:
        planned(BASE + text)
    assert message in str(caught.value)
    assert "own/study.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{training.warmup: [0.0, -1, 0.1]}", "training.warmup"),
        ("{training.warmup: {low: -1.0e+308, high: 1.0e+308}}", "too wide for a number of 64 bits"),
    ],
)
def test_every_value_of_a_list_and_the_width_of_a_range_are_checked_first(planned, space, message):
    with pytest.raises(RecipeError, match=message):
        planned(BASE + SEARCH + f"tune: {{full: {space}}}\n")


def test_settings_that_are_proposed_again_run_once_and_cost_once(planned, tmp_path):
    plan = planned(BASE + "search: {trials: 6, seed: 3}\ntune: {full: {training.warmup: [0.0, 0.1]}}\n")

    def execute(waiting, watch):
        for job in waiting:
            if jobs.read(job) is None:
                finish(job, "ok", 0.5)

    choices = tuning.searched(plan, tmp_path, "accuracy", execute)
    (row,) = json.loads(tuning.write_choices(choices, tmp_path, "accuracy").read_text())
    assert len(row["candidates"]) == 6
    assert row["seconds"] == 2.0 * len(list((tmp_path / tuning.TRIALS).glob("*/record.json"))) == 4.0
    page = tuning_page.section([(tmp_path / "run" / "record.json", None)], str)
    assert "6 (4 proposed again, which ran once)" in page


def test_both_ends_of_a_space_are_resolved_before_anything_runs(planned):
    text = BASE + SEARCH + RATES.replace("training.warmup: [0.0, 0.1]", "training.per_device_batch: {low: 1, high: 7}")
    with pytest.raises(RecipeError, match=r"training.global_batch: 32 is not a multiple of per_device_batch 7"):
        planned(text)


def test_a_dry_run_prints_the_first_trial_and_slurm_is_refused(planned, tmp_path, capsys):
    plan = planned(BASE + RATES + SEARCH)
    machine = jobs.Machine.from_config("cpu", 1, None, dry=True)
    options = scheduler.SweepOptions(out=tmp_path / "out", machine=machine, dry_run=True)
    assert scheduler.run_sweep([plan], options) == 0
    shown = capsys.readouterr().out
    assert shown.count("training.learning_rate=") == 1
    assert "those after them depend on their results" in shown
    with pytest.raises(RecipeError, match="--slurm: the study has `search`"):
        scheduler.run_sweep([plan], scheduler.SweepOptions(out=tmp_path / "out", machine=machine, slurm=True))
