"""runner/context.py: what a run is doing, and in which phase it failed, from its first second on."""

from pathlib import Path

import pytest
import torch

from bench.config.resolve import first_record, load
from bench.records.clock import Clock
from bench.runner.context import RunContext
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


def test_an_error_is_of_the_innermost_phase_that_it_left(run):
    run.clock = Clock()
    with pytest.raises(ValueError, match="it"), run.clock.phase("train"), run.clock.phase("save"):
        raise ValueError("it")
    assert run.failed_in == "save"


def test_a_released_model_is_held_by_nothing_of_the_run(run):
    run.model = torch.nn.Linear(1, 1)
    run.release_model()
    assert run.model is run.fit_inputs is run.fit_result is None
