"""runner/context.py: what a run is doing, and in which phase it failed, from its first second on."""

from pathlib import Path

import pytest
import torch

from bench.config.resolve import first_record, load
from bench.config.training import Training
from bench.records.clock import Clock, Peaks
from bench.runner import training_progress
from bench.runner.context import RunContext
from bench.training.schedule import Budget
from tests.helpers.launching import ROOT


@pytest.fixture
def run():
    resolved = load(ROOT / "recipes" / "tiny" / "bert-full.yaml")
    return RunContext(resolved=resolved, record=first_record(resolved), folder=Path("run"))


def test_before_the_libraries_are_loaded_it_is_set_up(run):
    assert not run.has_clock
    assert not run.has_inputs
    assert (run.phase, run.failed_in) == ("set-up", "set-up")


def test_a_part_that_no_stage_has_filled_in_is_an_error(run):
    for name in ("clock", "state", "inputs"):
        with pytest.raises(AttributeError, match=name):
            getattr(run, name)


def test_the_phase_is_the_innermost_one_or_the_step_after_the_last(run):
    run.clock = Clock()
    assert run.phase == "set-up"
    with run.clock.phase("train"):
        with run.clock.phase("validate"):
            assert run.phase == "validate"
        assert run.phase == "train"
    assert run.phase == "the step after train"


def test_a_training_says_what_the_run_knows_of_it(run):
    run.clock = Clock()
    run.budget = Budget.plan(Training(global_batch=8, epochs=2.0, evaluate_every=3), examples=32, world_size=1)
    course = training_progress.course(run)
    assert (run.budget.steps, course.epochs(4), course.epochs(8)) == (8, 1.0, 2.0)
    # Validations after steps 3, 6 and 8.
    assert [course.pauses_after(step) for step in (0, 2, 3, 6, 7, 8)] == [3, 3, 2, 1, 1, 0]
    assert course.rest() is None
    run.clock.seconds["score_before"] = 7.5
    assert course.rest() == ("score", 7.5)


def test_peak_memory_is_of_the_open_phase_on_a_gpu(run, monkeypatch):
    run.clock = Clock()
    with run.clock.phase("train"):
        assert run.clock.peak_gib() is None
        run.clock.peaks["train"] = Peaks(allocated=3 * 2**30)  # before a validation, after which it was reset
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2 * 2**30)
        assert run.clock.peak_gib() == 3.0
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 4 * 2**30)
        assert run.clock.peak_gib() == 4.0
        monkeypatch.undo()


def test_an_error_is_of_the_innermost_phase_that_it_left(run):
    run.clock = Clock()
    with pytest.raises(ValueError, match="it"), run.clock.phase("train"), run.clock.phase("save"):
        raise ValueError("it")
    assert run.failed_in == "save"


def test_a_released_model_is_held_by_nothing_of_the_run(run):
    run.model = torch.nn.Linear(1, 1)
    run.release_model()
    assert run.model is run.fit_inputs is run.fit_result is None
