"""The stages of a run, in the order in which `run.execute` calls them. Each fills in its part of the record."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, set_seed

from bench import console
from bench.config import rules, yaml_loader
from bench.distributed import setup, sharding
from bench.evaluation import scoring, text_examples
from bench.models import build, flops, heads, saving
from bench.models.kernels import padding_free
from bench.models.library_internals import transformers_internals
from bench.records import record, throughput
from bench.runner import batch_size, launch_record, resume
from bench.runner.context import Material
from bench.training import fit as train
from bench.training import log, precision, probe, selection
from bench.training.schedule import Budget
from bench.training.state import Fit
from bench.utils import hardware

# Rows of a micro-batch of like lengths, for models that run padded on a CPU.
SORTED_ROWS = 8

Run = Any  # bench.runner.context.Run; run imports this module


def build_model(run: Run, material: Material) -> None:
    """The adapted model, seeded; what it really is goes into the record."""
    recipe, plan = run.resolved.recipe, material.plan
    weights = plan.weights or recipe.model.weights
    _plan_budget(run, material)  # before a large model is loaded in vain
    with run.clock.phase("load"):
        set_seed(recipe.seed)
        model = build.build(
            recipe.model,
            plan,
            auto_class=text_examples.auto_class(recipe) if recipe.objective == "text" else material.task.AUTO_CLASS,
            head=recipe.head,
            labels=_head_outputs(material) if recipe.objective == "head" else (),
            keep_head=recipe.prompting.answer == "entailment",
            multi_label=recipe.dataset.multi_label,
            tokenizer=material.tokenizer,
            weights=weights,
            base_folder=run.folder / "model" / "base" if plan.adapter and recipe.save else None,
            device=run.state.device,
        )
        fresh = [*getattr(model, build.MISSING)]
        bare = build.count_parameters(model)["total"] - heads.count_in_heads(model)
        random_base = plan.adapter and weights == "random" and recipe.save
        if random_base and plan.quantization is None and run.state.is_main_process:
            # A random base model can't be had anywhere else, and the adapter is worth nothing without it.
            model.save_pretrained(run.folder / "model" / "base")
        material.model = material.method.adapt(model, run.resolved.options).to(run.state.device)
        _leave_out_pads(run, material)
        _choose_precision(run, material)
    run.record.model = _describe_model(run, material.model, weights, fresh, bare)
    if fresh:
        run.record.note(f"newly initialised, not in the checkpoint: {', '.join(fresh)}")
    counts = run.record.model.parameters
    console.say(
        f"{run.record.model.class_}: {counts['total']:,} parameters, {counts['trainable']:,} trainable "
        f"({counts['trainable'] / counts['total']:.2%})"
    )


def _head_outputs(material: Material) -> tuple[str, ...]:
    """A task whose head does not tell labels apart says what it does tell."""
    return getattr(material.task, "HEAD_OUTPUTS", material.corpus.labels)


def _plan_budget(run: Run, material: Material, most: int | None = None) -> None:
    recipe = run.resolved.recipe
    found = batch_size.settle(run, material)
    if material.plan.trains == "gradient":
        assert material.train_set is not None
        examples, processes = len(material.train_set.ids), run.state.num_processes
        material.budget = Budget.plan(recipe.training, examples, processes, most, found)
    run.record.launch = launch_record.describe(run.state, material.budget, recipe.training.global_batch)


def _leave_out_pads(run: Run, material: Material) -> None:
    """Where the model's family allows it; otherwise micro-batches of like length, inside the same global batches."""
    if not run.resolved.recipe.speed.padding_free:
        run.record.speed["padding_free"] = False
        return
    reason = padding_free.attach(material.model)
    run.record.speed["padding_free"] = reason is None
    if reason is not None:
        run.record.note(f"pads are computed: the model {reason}")
        if run.state.device.type == "cpu":  # a GPU would be left idle by so few rows
            _plan_budget(run, material, SORTED_ROWS)


def _choose_precision(run: Run, material: Material) -> None:
    if run.resolved.recipe.speed.precision == "launcher":
        run.record.speed["precision"] = {"chosen": material.scoring.precision, "by": "launcher"}
        return
    split = material.train_set or next(iter(material.splits.values()))
    found = resume.precision(run) or precision.measured(
        material.model, split.features, material.scoring, learns=material.plan.trains == "gradient"
    )
    run.record.speed["precision"] = {**found, "by": "measured"}
    material.scoring = dataclasses.replace(material.scoring, precision=found["chosen"])
    assert run.record.launch is not None
    run.record.launch.mixed_precision = found["chosen"]


def _describe_model(run: Run, model: Any, weights: str, fresh: list[str], bare: int) -> record.Model:
    card = run.resolved.recipe.model
    inner = heads.unwrapped(model)
    return record.Model(
        id=card.id or card.package or run.resolved.model_name,
        revision=card.revision,
        weights=weights,
        class_=type(inner).__name__,
        attention=transformers_internals.attention_name(inner.config),
        parameters={**build.count_parameters(model), "before_head": bare},
        dtypes=build.dtypes(model),
        newly_initialized=fresh,
        trainable_names=build.num_trainable_names(model),
    )


def fit(run: Run, material: Material) -> None:
    """Trains what the method trains; the training part of the record."""
    if material.plan.trains != "gradient":
        _note_unused(run)
    if material.plan.trains == "features":
        _fit_features(run, material)
    elif material.plan.trains == "gradient":
        _fit_gradient(run, material)


def _note_unused(run: Run) -> None:
    """What the recipe's file says of another method, which the command line or a study replaced by this one."""
    written, keys = run.resolved.as_written, [*rules.BY_GRADIENTS, "head"]
    unused = [f"{key}.{inner}" for key in keys for inner, _ in yaml_loader.items(written.get(key))]
    if unused:
        name = run.resolved.recipe.method.name
        run.record.note(f"{', '.join(unused)} of the recipe's file not used: method {name} trains nothing by gradients")


def _fit_features(run: Run, material: Material) -> None:
    assert material.train_set is not None
    with run.clock.phase("train"):
        iterations = probe.fit_probe(
            material.model, material.train_set.features, material.scoring, material.plan.features
        )
    run.record.training = record.TrainingPart(engine="scikit-learn", steps=iterations, epochs=1, stopped_by="fitted")
    limit = material.plan.features["max_iter"]
    if iterations >= limit:
        run.record.note(f"logistic regression stopped at max_iter {limit} before it had converged")


def _fit_gradient(run: Run, material: Material) -> None:
    recipe, budget = run.resolved.recipe, material.budget
    assert budget is not None
    assert material.train_set is not None
    log_path = run.folder / "train_log.jsonl" if run.state.is_main_process else None
    with console.Phase("train", total=budget.steps) as progress, run.clock.phase("train"), run.stopper.waiting():
        fit = Fit(
            model=material.model,
            train=material.train_set,
            objective=recipe.objective,
            by_length=recipe.speed.padding_free and not padding_free.is_attached(material.model),
            scoring=material.scoring,
            settings=recipe.training,
            budget=budget,
            seed=recipe.seed,
            rank=run.state.process_index,
            folder=run.folder,
            clock=run.clock,
            log=log.TrainLog(log_path),
            progress=progress,
            validate=_validator(run, material),
            selection=_selection(run, material),
            trackers=recipe.trackers,
            answer_logits=recipe.speed.answer_logits,
            on_start=partial(_spread, run),
            checkpoints=recipe.checkpoints,
            identity=_identity(run, material),
            asked_to_stop=lambda: run.stopper.asked,
            notes=run.record.notes,
            in_force=run.record.speed,
        )
        material.fit, run.log_rows = fit, fit.log.rows
        resume.resume(run, fit, divided=sharding.asked() is not None)
        material.model = train.fit(fit, recipe, run.state.device.type == "cpu")
    if recipe.objective == "text":
        run.record.speed["answer_logits"] = fit.answer_logits and fit.needs_all_logits is None
    if fit.needs_all_logits is not None:
        run.record.note(f"speed.answer_logits: all logits were computed, for the model {fit.needs_all_logits}")
    _time_steps(run, fit)
    best = fit.selection
    run.record.training = record.TrainingPart(
        engine=recipe.training.engine,
        steps=fit.step,
        epochs=round(budget.epochs(fit.step), 6),
        stopped_by=fit.stopped_by,
        best_step=best.best_step if best else None,
        best_value=best.best_value if best else None,
        first_loss=fit.log.losses[0],
        final_loss=fit.log.losses[-1] if fit.logged_step == fit.step else None,
        learning_rate_final=fit.learning_rate,
    )
    if fit.logged_step != fit.step:
        run.record.note(
            f"training stopped at step {fit.step}, whose loss was not logged: the last one is of step {fit.logged_step}"
        )
    _check_training(run, fit)


def _identity(run: Run, material: Material) -> dict[str, Any]:
    """By what a checkpoint is known as this run's."""
    resolved, train_split = run.resolved, material.corpus.splits["train"]
    return {"hash": resolved.hash, "seed": resolved.recipe.seed, "data": train_split.fingerprint}


def _time_steps(run: Run, fit: Fit) -> None:
    """The steps' seconds in the phases: those of this process, and of those that it went on from."""
    seconds, warmup, earlier = fit.steps.seconds, fit.steps.warmup, fit.steps.earlier
    run.clock.divide("train", {"warm_up": sum(seconds[:warmup]), "train_steps": sum(seconds[warmup:])})
    run.clock.seconds["warm_up"] += earlier.warmup_s
    run.clock.seconds["train_steps"] += sum(earlier.seconds)


def _spread(run: Run, found: dict[str, Any]) -> None:
    """Now that the model is wrapped, what the steps alone need is measured: dividing a model takes it whole first."""
    run.clock.set_apart("train_setup")
    run.record.launch = run.record.launch.model_copy(update=found)


def _validator(run: Run, material: Material) -> Any:
    recipe = run.resolved.recipe
    if recipe.training.evaluate_every is None:
        return None
    split = material.splits[recipe.evaluation.validation]

    def validate(model: Any) -> dict[str, float]:
        with run.clock.phase("validate"):
            scored = scoring.run(model, split, material.scoring, f"validate {split.name}")
            return material.scoring.metrics.values(scored.predictions)

    return validate


def _selection(run: Run, material: Material) -> selection.Selection | None:
    training = run.resolved.recipe.training
    if training.best is None:
        return None
    upward = material.scoring.metrics.higher_is_better(training.best)
    return selection.Selection(training.best, upward, training.early_stopping)


def _check_training(run: Run, fit: Fit) -> None:
    missing = fit.without_gradient or []
    detail = f"without a finite gradient after the first backward: {', '.join(missing[:5])}" if missing else ""
    run.record.check("gradients", not missing, detail)
    rate, wanted = fit.learning_rate, expected_rate(fit)
    agrees = rate is not None and abs(rate - wanted) <= 1e-6 * max(wanted, fit.settings.learning_rate)
    run.record.check("learning_rate_final", agrees, f"{rate} at step {fit.logged_step}, expected {wanted}")


def expected_rate(fit: Fit) -> float:
    """The schedule's rate at the last logged step, computed apart: a schedule that is stepped too often shows here."""
    from transformers import get_scheduler

    settings, budget = fit.settings, fit.budget
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    scheduler = get_scheduler(settings.schedule, optimizer, budget.warmup_steps(settings), budget.steps)
    for _ in range(fit.logged_step - 1):
        optimizer.step()
        scheduler.step()
    return float(scheduler.get_last_lr()[0])


def save(run: Run, material: Material) -> None:
    """Writes the model or adapter with its tokenizer, on rank zero; nothing where nothing was trained."""
    recipe = run.resolved.recipe
    if material.plan.trains == "nothing":
        run.record.note("no model is saved: nothing was trained")
        return
    with run.clock.phase("save"):
        if run.state.is_main_process:
            description = {
                "task": recipe.dataset.task,
                "objective": recipe.objective,
                "prompt": recipe.dataset.prompt.model_dump(mode="json") if recipe.objective == "text" else None,
                "prompting": recipe.prompting.model_dump(mode="json"),
                "labels": list(material.corpus.labels),
                "multi_label": recipe.dataset.multi_label,
                "threshold": recipe.evaluation.threshold,
                "max_length": recipe.max_length,
                "spans": recipe.spans.model_dump(),
                "version": material.corpus.version,
                "method": recipe.method.name,
                "pooling": material.plan.features.get("pooling"),
                "head": recipe.head.model_dump(),
                "quantization": material.plan.quantization,
                "unquantized": heads.unwrapped_head_names(material.model),
                "pad_token_id": material.tokenizer.pad_token_id,
                "model_card": recipe.model.model_dump(),
            }
            saving.save(material.model, material.tokenizer, run.folder / "model", description)
            run.record.artifacts["model"] = "model"
        run.state.wait_for_everyone()


def measure(run: Run, material: Material) -> None:
    """Throughput of the training steps and memory of every phase, over all ranks."""
    peaks = {name: peak.gib() for name, peak in run.clock.peaks.items() if name != "metrics"}
    run.record.memory = throughput.merge_ranks(gather_object([peaks]))
    if material.fit is None:
        return
    totals, seconds, warmup = material.fit.steps.measured()
    if padding_free.is_attached(material.model):
        totals[1] = totals[2]  # what was processed are the real tokens
    all_totals = np.array(gather_object([totals])).sum(0).tolist()
    device = run.record.environment.devices[0]
    peak = hardware.peak_flops(device, setup.precision()) if run.state.device.type == "cuda" else None
    run.record.throughput["train"] = throughput.train_throughput(
        all_totals,
        seconds,
        warmup,
        _step_flops(material),
        None if peak is None else peak * run.state.num_processes,
    )


def _step_flops(material: Material) -> float:
    """Mean model FLOPs of one step over all ranks, from the lengths of the examples that were trained on."""
    assert material.fit is not None
    assert material.budget is not None
    assert material.train_set is not None
    lengths = material.train_set.lengths
    order = material.fit.order[: material.fit.step * material.budget.global_batch]
    answers = None
    if material.fit.by_encoder_decoder:
        answers = [len(material.train_set.features[number]["token_labels"]) for number in order]
    return flops.step_flops(material.model, [lengths[number] for number in order], answers) / material.fit.step
