"""training/{schedule,selection,log,policy,loss}.py: sizes and order of a run, seeds of steps, what follows a step."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import get_scheduler

from bench import console
from bench.config.training import Checkpoints, EarlyStopping, Training
from bench.errors import DivergedError, SetupError
from bench.training.log import TrainLog
from bench.training.loss import StepLoss
from bench.training.policy import Policy
from bench.training.schedule import Budget, make_scheduler, seed_step
from bench.training.selection import Selection
from bench.training.state import FitInputs, Progress


def plan(examples=100, world=1, **training):
    return Budget.plan(Training(**training), examples, world)


PROGRESS = ("step", "selection", "started_s", "last_checkpoint_s")


def inputs(budget, **settings):
    """Inputs with nothing to train, for the questions that need none."""
    known = {
        **dict.fromkeys(("model", "task", "train", "folder")),
        "clock": SimpleNamespace(energy=None),
        "settings": Training(),
        "scoring": SimpleNamespace(device=torch.device("cpu")),
        "seed": 0,
        "display": console.Phase("train", total=4),
        "validate": lambda model: {},
    }
    return FitInputs(**{**known, "budget": budget, **settings})


def policy(budget, **settings):
    """What decides in such a training run, at a place in it."""
    progress = Progress(**{name: settings.pop(name) for name in PROGRESS if name in settings})
    return Policy(inputs(budget, **settings), progress)


# ---------------------------------------------------------------- rates by epochs


@pytest.mark.parametrize(("examples", "batch", "epochs"), [(80, 8, 5), (33, 8, 4), (8, 8, 3), (10, 4, 2.5)])
def test_a_schedule_of_epochs_is_torch_s_own_stepped_after_each(examples, batch, epochs):
    settings = Training(epochs=epochs, global_batch=batch, learning_rate=0.1, schedule="cosine", schedule_per="epoch")
    budget = Budget.plan(settings, examples, 1)
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    scheduler = make_scheduler(settings, budget, ours)
    plain = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=math.ceil(epochs))
    for step in range(1, budget.steps + 1):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        for one in (ours, theirs):
            one.step()
        scheduler.step()
        if budget.epochs_ended(step) > budget.epochs_ended(step - 1):
            plain.step()


def test_few_examples_take_at_least_so_many_steps_and_many_as_many_epochs_as_asked():
    settings = Training(epochs=2, global_batch=10, min_steps=30, warmup=0.1)
    small, large = (Budget.plan(settings, examples, 1) for examples in (50, 400))
    assert (small.steps, small.epochs(small.steps), small.warmup_steps(settings)) == (30, 6.0, 3)
    assert large.steps == 80
    assert small.notes(settings) == [
        "training.min_steps: 30 steps of 10 examples are 6 epochs of the 50, where training.epochs asks for 2"
    ]
    assert large.notes(settings) == []


def test_a_schedule_of_steps_is_transformers_own():
    settings = Training(steps=10, global_batch=8, learning_rate=0.1, schedule="cosine", warmup=2)
    budget = Budget.plan(settings, 100, 1)
    found = make_scheduler(settings, budget, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    wanted = get_scheduler("cosine", torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 2, 10)
    assert [found.lr_lambdas[0](step) for step in range(10)] == [wanted.lr_lambdas[0](step) for step in range(10)]


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("world", "per_device", "expected"),
    [
        (1, None, (8, 1)),
        (1, 8, (8, 1)),
        (1, 1, (1, 8)),
        (2, None, (4, 1)),
        (2, 2, (2, 2)),
        (8, None, (1, 1)),
        (1, 32, (8, 1)),  # a micro-batch larger than the batch is the batch
        (2, 3, None),
        (3, None, None),
        (16, None, None),
        (1, 5, None),
    ],
)
def test_the_global_batch_is_spread_and_never_changed(world, per_device, expected):
    if expected is None:
        with pytest.raises(SetupError, match=f"global_batch 8 can't be split over {world} processes"):
            plan(world=world, global_batch=8, per_device_batch=per_device)
        return
    budget = plan(world=world, global_batch=8, per_device_batch=per_device)
    assert (budget.per_device_batch, budget.accumulation) == expected
    assert budget.per_device_batch * budget.accumulation * world == 8
    assert budget.steps == math.ceil(3 * 100 / 8)


@pytest.mark.parametrize(("most", "found", "expected"), [(None, None, 16), (8, None, 16), (None, 2, 2), (8, 16, 16)])
def test_auto_is_what_was_found_and_until_then_the_whole_share(most, found, expected):
    training = Training(global_batch=32, per_device_batch="auto")
    budget = Budget.plan(training, 100, 2, most, found)
    assert (budget.per_device_batch, budget.per_device_batch * budget.accumulation * 2) == (expected, 32)


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"epochs": 1.0, "global_batch": 10}, 10),
        ({"epochs": 1.0, "global_batch": 32}, 4),
        ({"epochs": 0.1, "global_batch": 10}, 1),
        ({"epochs": 0.3, "global_batch": 10}, 3),  # 0.3 x 10 is not exactly 3
        ({"epochs": 0.001, "global_batch": 10}, 1),
        ({"steps": 7, "global_batch": 10}, 7),
        ({"global_batch": 10}, 30),
    ],
)
def test_steps(training, steps):
    assert plan(**training).steps == steps


def test_epochs_and_validation_steps():
    budget = plan(epochs=2.0, global_batch=32, evaluate_every="epoch")
    assert [step for step in range(1, budget.steps + 1) if budget.validates(step)] == [4, 7]
    assert budget.epochs(3) == 0.96
    assert plan(evaluate_every=5).evaluate_every == 5
    assert plan().evaluate_every is None


@pytest.mark.parametrize(
    ("examples", "batch", "length", "expected"),
    [
        (421, 16, {"epochs": 2.0}, [27, 53]),  # 26.3 steps an epoch
        (425, 16, {"epochs": 2.0}, [27, 54]),
        (96, 32, {"epochs": 3.0}, [3, 6, 9]),
        (100, 32, {"epochs": 2.5}, [4, 7, 8]),
        (100, 32, {"steps": 5}, [4, 5]),
        (100, 32, {"steps": 3}, [3]),
        (4, 32, {"epochs": 9.0}, [1, 2]),
        (1, 1, {"epochs": 3.0}, [1, 2, 3]),
    ],
)
def test_an_epoch_is_validated_once(examples, batch, length, expected):
    budget = plan(examples=examples, global_batch=batch, evaluate_every="epoch", **length)
    assert [step for step in range(1, budget.steps + 1) if budget.validates(step)] == expected


def test_texts_of_similar_length_share_a_step():
    """As transformers' `group_by_length`: every epoch has each row once, its longest first, and few pads."""
    lengths = np.random.default_rng(0).integers(5, 500, 200).tolist()
    budget = plan(examples=200, epochs=3.0, global_batch=4)
    order = budget.order(7, lengths)
    epochs = [order[start : start + 200] for start in range(0, 600, 200)]
    assert all(sorted(epoch) == list(range(200)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        assert lengths[epoch[0]] == max(lengths)
        # By whole steps, accumulation included: 12 of them in each of four parts, and what is left.
        parts = [epoch[start : start + 48] for start in range(0, 200, 48)]
        assert all(sorted(part[1:], key=lambda row: -lengths[row]) == part[1:] for part in parts)
    assert order == budget.order(7, lengths) != budget.order(8, lengths)
    assert order == plan(examples=200, epochs=3.0, global_batch=4, per_device_batch=1, world=2).order(7, lengths)
    sampled = SimpleNamespace(lengths=lengths)
    grouped = inputs(budget, seed=7, settings=Training(group_by_length=True), train=sampled)
    assert grouped.order == order
    assert inputs(budget, seed=7, train=sampled).order == budget.order(7) != order


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.1, 2), (0.5, 10), (1.0, 1), (7.0, 7), (0.01, 1)])
def test_warmup_is_a_share_or_a_number(warmup, steps):
    training = Training(steps=20, global_batch=8, warmup=warmup)
    assert Budget.plan(training, 100, 1).warmup_steps(training) == steps


@pytest.mark.parametrize(
    ("examples", "training", "begins"),
    [
        (
            25,
            {"epochs": 1.0, "global_batch": 400},
            ["training.epochs: 1 asked for, 16 done: a step takes 400 examples"],
        ),
        (10, {"global_batch": 64}, ["training.epochs: 3 asked for, 6.4 done"]),
        (100, {"epochs": 0.001, "global_batch": 10}, ["training.epochs: 0.001 asked for, 0.1 done"]),
        (100, {"epochs": 1.0, "global_batch": 32}, ["training.epochs: 1 asked for, 1.28 done"]),
        (100, {"epochs": 1.0, "global_batch": 33}, ["training.epochs: 1 asked for, 1.32 done"]),
        (100, {"epochs": 4.0, "global_batch": 16}, []),
        (100, {"epochs": 1.0, "global_batch": 50}, []),
        (25, {"steps": 1, "global_batch": 400}, []),
        (100, {"steps": 1, "global_batch": 10, "warmup": 0.1}, ["training.warmup: 0.1 of 1 steps is all of them"]),
        (100, {"steps": 10, "global_batch": 10, "warmup": 0.95}, ["training.warmup: 0.95 of 10 steps is all of them"]),
        (
            100,
            {"steps": 10, "global_batch": 10, "evaluate_every": 20},
            ["training.evaluate_every: 20 is more than the"],
        ),
        (
            100,
            {"steps": 10, "evaluate_every": 5, "best": "f1", "early_stopping": EarlyStopping(patience=2)},
            ["training.early_stopping has no effect: patience 2 can't run out in 2 validations"],
        ),
    ],
)
def test_sizes_that_are_not_what_the_recipe_says_are_noted(examples, training, begins):
    settings = Training(**training)
    notes = Budget.plan(settings, examples, 1).notes(settings)
    assert len(notes) == len(begins)
    for note, begin in zip(notes, begins, strict=True):
        assert note.startswith(begin)


@pytest.mark.parametrize("warmup", [4, 5, 100])
def test_as_many_warmup_steps_as_there_are_steps(warmup):
    with pytest.raises(SetupError, match=f"training.warmup: {warmup} warm-up steps of 4 in all"):
        plan(epochs=1.0, global_batch=32, warmup=warmup)
    assert plan(epochs=1.0, global_batch=32, warmup=3).steps == 4


# ---------------------------------------------------------------- order and seeds


@pytest.mark.parametrize(("examples", "batch"), [(10, 4), (4, 10), (7, 7), (5, 1)])
def test_every_epoch_is_a_permutation(examples, batch):
    budget = plan(examples=examples, global_batch=batch, epochs=4.0)
    order = budget.order(seed=3)
    assert len(order) == budget.steps * batch
    for start in range(0, len(order), examples):
        epoch = order[start : start + examples]
        assert len(set(epoch)) == len(epoch)
    assert set(order[:examples]) == set(range(examples))
    assert examples < 5 or order[:examples] != order[examples : 2 * examples]


def test_the_order_depends_on_the_seed_only():
    orders = [plan(world=world, global_batch=8, per_device_batch=1).order(5) for world in (1, 2, 8)]
    assert orders[0] == orders[1] == orders[2]
    assert plan(global_batch=8).order(6) != orders[0]
    # A longer run begins as a shorter one does.
    assert plan(global_batch=8, steps=90).order(5)[:80] == plan(global_batch=8, steps=10).order(5)


def drawn(*place):
    seed_step(*place)
    return torch.rand(4).tolist()


def test_a_steps_seed_is_its_place():
    assert drawn(1, 2, 3, 0) == drawn(1, 2, 3, 0)
    places = [(1, 2, 3, 0), (2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1), (3, 2, 1, 0)]
    assert len({tuple(drawn(*place)) for place in places}) == len(places)
    seed_step(2**32 - 1, 10**6, 512, 4095)


# ---------------------------------------------------------------- selection


@pytest.mark.parametrize(("upward", "sign"), [(True, 1), (False, -1)])
def test_the_best_is_the_first_of_the_best(upward, sign):
    selection = Selection("metric", upward)
    better = [selection.update(step, sign * value) for step, value in enumerate([0.5, 0.4, 0.6, 0.6, 0.55], start=1)]
    assert better == [True, False, True, False, False]
    assert (selection.best_step, selection.best_value) == (3, sign * 0.6)
    assert not selection.exhausted


def test_patience_counts_evaluations_without_enough_gain():
    selection = Selection("f1", True, EarlyStopping(patience=2, threshold=0.1))
    history = [(0.50, True, 0), (0.55, True, 1), (0.70, True, 0), (0.70, False, 1), (0.75, True, 2)]
    for step, (value, better, waited) in enumerate(history, start=1):
        assert not selection.exhausted
        assert selection.update(step, value) == better
        assert selection.waited == waited
    assert selection.exhausted
    assert selection.best_step == 5


def test_a_value_that_is_not_defined_is_never_the_best():
    selection = Selection("mcc", True, EarlyStopping(patience=2))
    assert not selection.update(1, math.nan)
    assert selection.update(2, -0.3)
    assert not selection.update(3, math.nan)
    assert selection.best_step == 2
    assert not selection.update(4, math.nan)
    assert selection.exhausted


# ---------------------------------------------------------------- log


def lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_the_log_is_written_line_by_line(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text("of an earlier run\n")
    log = TrainLog(path)
    log.write(step=1, loss=0.7, grad_norm=1.5)
    assert [row["loss"] for row in lines(path)] == [0.7]
    log.write(step=1, validation_f1=0.5)
    log.write(step=2, loss=0.6, grad_norm=None)
    assert [row["step"] for row in lines(path)] == [1, 1, 2]
    assert log.losses == [0.7, 0.6]
    assert all(row["seconds"] >= 0 for row in lines(path))


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_divergence_is_logged_before_it_ends_the_run(name, value, tmp_path):
    log = TrainLog(tmp_path / "log.jsonl")
    with pytest.raises(DivergedError, match=f"the {name} is {value} at step 4; lower training.learning_rate"):
        log.write(**{"step": 4, "loss": 1.0, name: value, "note": "NaN and Infinity are words here"})
    (row,) = lines(tmp_path / "log.jsonl")
    assert row[name] is None
    assert row["note"] == "NaN and Infinity are words here"
    assert len(log.rows) == 1


def test_a_log_is_gone_on_with(tmp_path):
    path = tmp_path / "log.jsonl"
    TrainLog(path).write(step=9, loss=0.1)
    log = TrainLog(path)
    log.restore([{"step": 1, "loss": 0.7, "seconds": 50.0}, {"step": 1, "validation_mcc": math.nan}], 60.0)
    log.write(step=2, loss=0.6)
    assert [(row["step"], row.get("loss")) for row in lines(path)] == [(1, 0.7), (1, None), (2, 0.6)]
    assert lines(path)[2]["seconds"] >= 60
    assert log.losses == [0.7, 0.6]


def test_an_undefined_metric_is_null_and_no_divergence(tmp_path):
    TrainLog(tmp_path / "log.jsonl").write(step=4, validation_mcc=math.nan)
    assert lines(tmp_path / "log.jsonl")[0]["validation_mcc"] is None


def test_other_ranks_only_remember():
    log = TrainLog(None)
    log.write(step=1, loss=0.7)
    assert log.losses == [0.7]


# ---------------------------------------------------------------- what both engines ask


def test_when_a_step_is_logged_and_validated():
    run = policy(plan(steps=25, evaluate_every=10), settings=Training(log_every=7))
    assert [step for step in range(1, 26) if run.due_for_log(step)] == [1, 7, 14, 21, 25]
    assert [step for step in range(1, 26) if run.due_for_validation(step)] == [10, 20, 25]
    assert not policy(plan(steps=25)).due_for_validation(25)
    # A validation may end training: its step is logged, so that the last one always is.
    ending = Training(log_every=7, evaluate_every=10, best="f1", early_stopping=EarlyStopping())
    for settings in (ending, Training(log_every=7, minutes=1.0)):
        run = policy(plan(steps=25, evaluate_every=10), settings=settings)
        assert [step for step in range(1, 26) if run.due_for_log(step)] == [1, 7, 10, 14, 20, 21, 25]
    assert not policy(plan(steps=25, evaluate_every=10), validate=None).due_for_validation(10)


def decided(step=3, steps=10, **settings):
    """(whether training ends, whether it saves, why it stops) after a step."""
    run = policy(plan(steps=steps), step=step, **settings)
    decision = run.decide()
    return decision.ends, decision.saves, run.progress.stopped_by


def exhausted():
    selection = Selection("f1", True, EarlyStopping(patience=1))
    selection.update(1, 0.5)
    selection.update(2, 0.4)
    return selection


LATE = {"settings": Training(minutes=0.001), "started_s": -1e9}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (False, False, "steps")),
        ({"step": 10}, (True, False, "steps")),
        ({"settings": Training(minutes=60.0)}, (False, False, "steps")),
        (LATE, (True, False, "minutes")),
        ({**LATE, "rank": 1}, (False, False, "steps")),  # rank zero's clock counts
        ({"selection": Selection("f1", True, EarlyStopping(patience=1))}, (False, False, "steps")),
        ({"selection": exhausted()}, (True, False, "early_stopping")),
        ({"asked_to_stop": lambda: True}, (True, True, "interrupted")),
        # It is over anyway: what is trained is kept for the run that goes on from there, and is not cut short.
        ({"asked_to_stop": lambda: True, "step": 10}, (True, True, "steps")),
        ({"asked_to_stop": lambda: True, "step": 10, **LATE}, (True, True, "steps")),
        ({**LATE, "step": 10}, (True, False, "steps")),
        ({"asked_to_stop": lambda: True, "selection": exhausted(), "step": 10}, (True, True, "early_stopping")),
        ({"asked_to_stop": lambda: True, **LATE}, (True, True, "interrupted")),
        ({"asked_to_stop": lambda: True, "selection": exhausted()}, (True, True, "early_stopping")),
        ({"checkpoints": Checkpoints(every_steps=3)}, (False, True, "steps")),
        ({"checkpoints": Checkpoints(every_steps=2)}, (False, False, "steps")),
        ({"checkpoints": Checkpoints(every_steps=5), "step": 10}, (True, False, "steps")),
        ({"last_checkpoint_s": -1e9}, (False, True, "steps")),
        ({"last_checkpoint_s": -1e9, "rank": 1}, (False, False, "steps")),
        ({"last_checkpoint_s": -1e9, "checkpoints": Checkpoints(every_minutes=None)}, (False, False, "steps")),
    ],
)
def test_what_follows_a_step(settings, expected):
    assert decided(**settings) == expected


def test_a_checkpoint_is_due_once_in_so_many_minutes():
    run = policy(plan(steps=10), last_checkpoint_s=-1e9)
    due = []
    for run.progress.step in range(1, 4):
        due.append(run.decide().saves)
    assert due == [True, False, False]


def test_parameters_without_a_finite_gradient_are_named_once():
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("well", "none", "nan", "frozen")})
    model["frozen"].requires_grad_(False)
    model["well"].weight.grad = torch.ones(2, 2)
    model["nan"].weight.grad = torch.full((2, 2), math.nan)
    run = policy(plan())
    run.check_gradients(model)
    assert run.progress.without_gradient == ["none.weight", "nan.weight"]
    model["none"].weight.grad = torch.ones(2, 2)
    run.check_gradients(model)
    assert run.progress.without_gradient == ["none.weight", "nan.weight"]


@pytest.mark.parametrize(("share", "missing"), [(0.5, []), (0.0, ["weight"])])
def test_an_adapter_that_is_left_out_at_random_needs_no_gradient_in_the_first_step(share, missing):
    layer = nn.Linear(2, 2, bias=False)
    layer.module_dropout = {"default": share}
    run = policy(plan())
    run.check_gradients(nn.ModuleDict({"adapted": layer}))
    assert run.progress.without_gradient == [f"adapted.{name}" for name in missing]


def test_the_loss_is_a_sum_over_the_items_of_the_whole_step():
    def loss(outputs, batch, *, label_smoothing):
        return outputs.sum() * (1 - label_smoothing) + batch["labels"].sum()

    given = inputs(plan(), task=SimpleNamespace(loss=loss), settings=Training(label_smoothing=0.5))
    batch = {"rows": torch.ones(4, 3), "labels": torch.ones(6)}
    assert StepLoss(inputs=given).batch_loss(lambda rows: rows, batch, torch.tensor(6)) == 2.0


def test_log_step_notes_place_rate_and_tokens():
    run = policy(plan(examples=100, global_batch=25))
    run.log_step(3, loss=0.25, learning_rate=1e-3, grad_norm=None)
    (row,) = run.progress.log.rows
    assert {key: row[key] for key in ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens")} == {
        "step": 3,
        "epoch": 0.75,
        "loss": 0.25,
        "learning_rate": 1e-3,
        "grad_norm": None,
        "tokens": 0,
    }
    assert (run.progress.learning_rate, run.progress.logged_step) == (1e-3, 3)
    assert "loss 0.2500 at step 3" in run.inputs.display.line()
    run.log_validation(3, {"f1": 0.5})
    assert run.progress.log.rows[-1]["validation_f1"] == 0.5
    assert not {"gpu_joules", "cpu_joules"} & set(run.progress.log.rows[-1])
    run.inputs.clock.energy = SimpleNamespace(so_far=lambda phase: {"gpu": 12.5} if phase == "train" else {})
    run.log_validation(4, {"f1": 0.5})
    assert run.progress.log.rows[-1]["gpu_joules"] == 12.5


def test_a_schedule_by_epochs_that_never_changes_is_noted():
    for settings in ({"steps": 3}, {"epochs": 0.3}, {"epochs": 1}):
        training = Training(**settings, global_batch=8, schedule="cosine", schedule_per="epoch")
        (note,) = (
            text for text in Budget.plan(training, 64, 1).notes(training) if text.startswith("training.schedule:")
        )
        assert "cosine has no effect: by epochs the learning rate changes when one has ended" in note
    for training in (
        Training(epochs=2, global_batch=8, schedule="cosine", schedule_per="epoch"),
        Training(epochs=1, global_batch=8, schedule="cosine"),
    ):
        assert Budget.plan(training, 64, 1).notes(training) == []
