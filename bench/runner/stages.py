"""The stages of a run, in the order in which `lifecycle.execute` calls them. Each fills in its part of the record."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from bench import console
from bench.config import registry, rules, yaml_loader
from bench.config.fields import Strict
from bench.config.recipe import Recipe
from bench.data.examples import Encoded, row_lengths
from bench.distributed.live_model import LiveModel
from bench.evaluation import input_check, lm_eval_examples, new_rows, self_check, text_examples
from bench.evaluation.reader import Scoring
from bench.models import (
    adapter_readback,
    build,
    checkpoint_head,
    flops,
    heads,
    initial_values,
    positions,
    product_types,
    saving,
    shards,
    whole_on_disk,
)
from bench.models.checkpoint_head import Finding
from bench.models.initial_values import InitialValues
from bench.models.kernels import fused, padding_free
from bench.models.library_internals import transformers_internals
from bench.records import record, throughput
from bench.runner import (
    batch_size,
    energy_of_run,
    launch_record,
    model_checks,
    resume,
    sharded_load,
    sharded_scoring,
    stage_scores,
    started_by,
    text_classifier,
    training_progress,
    unsaved,
    validation,
    warnings_of_model,
    weighed_loss,
)
from bench.runner.context import RunContext
from bench.training import fit as training
from bench.training import loss_scale, probe
from bench.training.log import TrainLog
from bench.training.schedule import Budget, make_scheduler
from bench.training.selection import Selection
from bench.training.state import FitInputs, Observer, Progress, RunIdentity

# Rows of a micro-batch of like lengths, for models that run padded on a CPU.
SORTED_ROWS = 8


# ---------------------------------------------------------------- the model


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """An adapted model; names of newly initialised parameters; the number of parameters before its head.

    findings: on its checkpoint. initial: what of it began at random.
    """

    model: nn.Module
    fresh: list[str]
    before_head: int
    findings: list[Finding]
    initial: InitialValues


def build_model(run: RunContext) -> None:
    """Build the adapted model, seeded; what it really is goes into the record."""
    if run.inputs.plan.trains == "texts":
        text_classifier.prepare(run)
        return
    recipe, plan = run.resolved.recipe, run.inputs.plan
    _plan_budget(run)  # before a large model is loaded in vain
    for note in run.budget.notes(recipe.training) if run.budget is not None else ():
        run.record.note(note)
    with run.clock.phase("load"):
        run.shards_held = sharded_load.decide(run)
        built = adapted_model(
            recipe,
            run.resolved.options,
            tokenizer=run.inputs.tokenizer,
            labels=run.inputs.corpus.labels,
            device=run.state.device,
            base_folder=run.folder / "model" / "base" if plan.adapter and recipe.save else None,
            sharded=run.shards_held,
        )
        run.model = built.model
        loss_scale.check_types(built.model, run.inputs.scoring.precision, plan.trains)
        _check_inputs(run)
        _enable_padding_free(run, built.model)
        run.record.speed["precision"] = {"chosen": run.inputs.scoring.precision, "by": "launcher"}
        fused.used()  # those of the comparisons above
    described = run.record.model = _describe_model(run, built)
    if built.fresh:
        run.record.note(f"newly initialised, not in the checkpoint: {', '.join(built.fresh)}")
    for finding in built.findings:
        if finding.code is None:
            run.record.note(finding.sentence)
        else:
            run.record.warn(finding.code, finding.sentence)
    warnings_of_model.warn_of_build(run, built.initial)
    counts = described.parameters
    console.say(
        f"{described.class_}: {counts['total']:,} parameters, {counts['trainable']:,} trainable "
        f"({counts['trainable'] / counts['total']:.2%})"
    )


def adapted_model(
    recipe: Recipe,
    options: Strict,
    *,
    tokenizer: PreTrainedTokenizerBase,
    labels: tuple[str, ...],
    device: torch.device,
    base_folder: Path | None = None,
    sharded: bool = False,
) -> BuiltModel:
    """Build a recipe's model and adapt it by its method, seeded, on a device.

    options: of the method. base_folder: where a base model of random weights is kept, for an adapter's sake.
    sharded: each process holds its shards of the model alone (`models.shards`).
    """
    method = registry.load_method(recipe.method.name)
    task, plan = registry.load_task(recipe.dataset.task), method.load_plan(options)
    weights, is_text = plan.weights or recipe.model.weights, recipe.objective == "text"
    set_seed(recipe.seed)
    make = partial(
        build.build,
        recipe.model,
        plan,
        auto_class=text_examples.auto_class(recipe) if is_text else task.AUTO_CLASS,
        head=recipe.head,
        labels=() if is_text else task.head_outputs(labels),
        keep_head=recipe.prompting.answer == "entailment",
        untrained_head=recipe.prompting.untrained_head,
        multi_label=recipe.dataset.multi_label,
        tokenizer=tokenizer,
        weights=weights,
        base_folder=base_folder,
        device=device,
        sharded=sharded,
        copied=getattr(options, "config", {}).get("modules_to_save") or (),
    )
    model = sharded_load.together(make) if sharded else make()
    fresh = initial_values.new_names(model, weights)
    before_head = build.count_parameters(model)["total"] - heads.count_in_heads(model)
    if base_folder is not None and weights == "random" and plan.quantization is None:
        # A random base model can't be had anywhere else, and the adapter is worth nothing without it.
        with whole_on_disk.mapped(model, base_folder / ".parameters") as size:
            if PartialState().is_main_process:
                model.save_pretrained(base_folder, **({"max_shard_size": size} if sharded else {}))
    found, initial = checkpoint_head.findings(model), initial_values.of_model(model, weights)
    adapted = shards.moved(method.adapt(model, options), device)
    if sharded:
        shards.hold(adapted)
    return BuiltModel(model=adapted, fresh=fresh, before_head=before_head, findings=found, initial=initial)


def _check_inputs(run: RunContext) -> None:
    """Check that the model has rows for all tokens and positions of the data, before anything is scored."""
    prompting = run.resolved.recipe.prompting
    writes = run.resolved.recipe.objective == "text" and prompting.answer == "generate"
    limit = prompting.max_new_tokens if writes else None
    for finding in input_check.check(run.model, run.inputs.tokenizer, run.inputs.encoded, limit):
        run.record.warn("beyond_the_model", finding)


def _plan_budget(run: RunContext, max_rows: int | None = None) -> None:
    recipe = run.resolved.recipe
    rows = batch_size.resolve_batch_size(run)
    if run.inputs.plan.trains == "gradient":
        assert run.inputs.train is not None
        run.budget = Budget.plan(recipe.training, len(run.inputs.train.ids), run.state.num_processes, max_rows, rows)
    run.record.launch = launch_record.describe(run.state, run.budget, recipe.training.global_batch)
    run.record.files |= started_by.config_files(run.record.launch.command)


def _enable_padding_free(run: RunContext, model: nn.Module) -> None:
    """Run padding-free where the model is shown to give the same; otherwise sort rows by length in global batches."""
    if not run.resolved.recipe.speed.padding_free:
        run.record.speed["padding_free"] = False
        return
    with shards.by_layer(model):
        reason = padding_free.attach(model, self_check.first_reason)
    run.record.speed["padding_free"] = reason is None
    if figures := padding_free.figures(model):
        run.record.speed["padding_free_check"] = figures
    if reason is not None:
        run.record.note(f"pads are computed: the model {reason}")
        if run.state.device.type == "cpu":  # a GPU would be left idle by so few rows
            _plan_budget(run, SORTED_ROWS)


def _describe_model(run: RunContext, built: BuiltModel) -> record.Model:
    card, inner = run.resolved.recipe.model, heads.unwrapped(built.model)
    return record.Model(
        id=card.id or card.package or run.resolved.model_name,
        revision=card.revision,
        weights=run.inputs.plan.weights or card.weights,
        class_=type(inner).__name__,
        attention=transformers_internals.attention_name(inner.config),
        parameters={**build.count_parameters(built.model), "before_head": built.before_head},
        dtypes=build.dtypes(built.model),
        newly_initialized=built.fresh,
        trainable_names=build.num_trainable_names(built.model),
        adapter=adapter_readback.in_force(built.model),
    )


# ---------------------------------------------------------------- training


def fit(run: RunContext) -> None:
    """Train what the method trains; fill in the training part of the record."""
    _record_kernels(run, "before")
    if run.inputs.plan.trains != "gradient":
        _note_unused(run)
        if run.inputs.plan.trains == "features":
            _fit_features(run)
        if run.inputs.plan.trains == "texts":
            text_classifier.fit(run)
        return
    assert run.budget is not None
    _warn_of_positions(run)
    log_path = run.folder / "train_log.jsonl" if run.state.is_main_process else None
    with (
        console.Phase("train", total=run.budget.steps, course=training_progress.course(run)) as display,
        run.clock.phase("train"),
        run.stopper.waiting(),
    ):
        run.progress = Progress(log=TrainLog(log_path, run.trackers.log), selection=_selection(run))
        run.fit_inputs = _fit_inputs(run, display)
        before = model_checks.fingerprints(run.model)
        result = training.fit(run.fit_inputs, run.progress)
    run.model, run.live, run.fit_result = result.model, result.live, result
    _record_kernels(run, "train")
    _record_training(run, run.fit_inputs, run.progress, result)
    model_checks.check_changed(run, before)


def _record_kernels(run: RunContext, stage: str) -> None:
    """Write down which kernels attention was computed by on a GPU, in a stage that is done."""
    if kernels := fused.used():
        run.record.speed.setdefault("attention_kernels", {})[stage] = kernels


def _warn_of_positions(run: RunContext) -> None:
    """Warn where a training example's positions depend on what it is batched with."""
    assert run.inputs.train is not None
    limit, lengths = positions.rescaled_beyond(run.model), run.inputs.train.lengths
    long = sum(length > limit for length in lengths) if limit is not None else 0
    if long:
        run.record.warn(
            "positions_by_batch",
            f"{long} of {len(lengths)} training examples have more than {limit} tokens, beyond which the model rotates "
            "all texts of a batch by its longest one: what is learned depends on which examples share a micro-batch",
        )


def fit_inputs(
    recipe: Recipe, model: nn.Module, train: Encoded, scoring: Scoring, budget: Budget, **others: Any
) -> FitInputs:
    """Return what a recipe's training is given. others: fields of FitInputs that its run knows."""
    return FitInputs(
        model=model,
        task=registry.load_task(recipe.dataset.task),
        train=train,
        scoring=scoring,
        settings=recipe.training,
        budget=budget,
        seed=recipe.seed,
        rank=PartialState().process_index,
        objective=recipe.objective,
        by_length=recipe.speed.padding_free and not padding_free.is_attached(model),
        speed=recipe.speed,
        checkpoints=recipe.checkpoints,
        **others,
    )


def _fit_inputs(run: RunContext, display: console.Phase) -> FitInputs:
    resolved = run.resolved
    assert run.model is not None
    assert run.inputs.train is not None
    assert run.budget is not None
    return fit_inputs(
        resolved.recipe,
        run.model,
        run.inputs.train,
        run.inputs.scoring,
        run.budget,
        folder=run.folder,
        clock=run.clock,
        display=display,
        validate=validation.validator(run),
        identity=RunIdentity(
            hash=resolved.hash,
            seed=resolved.recipe.seed,
            data=run.inputs.corpus.splits["train"].fingerprint,
        ),
        checkpoint=run.previous.checkpoint,
        asked_to_stop=lambda: run.stopper.asked,
        stopped_by=lambda: run.stopper.by,
        class_loss=weighed_loss.chosen(run),
        observer=_Recorder(run),
        sharded=run.score_sharded,
        on_prepared=_before_first_step(run) if "before" in run.score_sharded else None,
    )


def _before_first_step(run: RunContext) -> Callable[[LiveModel], None]:
    """Return what scores a model before training that is sharded for training only."""

    def _score(live: LiveModel) -> None:
        with sharded_scoring.alive(run, live):
            stage_scores.score_before(run)

    return _score


class _Recorder(Observer):
    """Writes what it hears from a training into the run's record at once."""

    def __init__(self, run: RunContext) -> None:
        self.run = run

    def on_note(self, sentence: str) -> None:
        """Write it among the notes."""
        self.run.record.note(sentence)

    def on_unsaved(self, step: int, reason: str) -> None:
        """Say it at once, on the console and in the record on disk: the run may be killed soon."""
        super().on_unsaved(step, reason)
        saved = self.run.progress.saved_step if self.run.progress is not None else 0
        unsaved.report(self.run.record, self.run.folder, step=step, saved_step=saved, reason=reason)

    def on_setting(self, name: str, value: bool) -> None:
        """Write it among the fast paths."""
        self.run.record.speed[name] = value

    def on_compared(self, figures: dict[str, Any]) -> None:
        """Write it beside the fast paths."""
        self.run.record.speed["training_check"] = {**self.run.record.speed.get("training_check", {}), **figures}

    def on_compiled(self, figures: dict[str, Any]) -> None:
        """Write it beside the fast paths."""
        self.run.record.speed["compilations"] = figures

    def on_resume(self, step: int) -> None:
        """Add this resumption to those of before."""
        previous = self.run.previous.record
        earlier = previous.resumed if previous is not None else []
        self.run.record.resumed = [*earlier, resume.resumed(step, previous)]
        console.say(f"training goes on from the checkpoint of step {step}")

    def on_start(self, launch: dict[str, Any]) -> None:
        """Measure what the steps alone need from here on: to be sharded, a model was whole first."""
        assert self.run.record.launch is not None
        self.run.clock.set_apart("train_setup")
        self.run.record.launch = self.run.record.launch.model_copy(update=launch)

    def on_in_force(self, asked: dict[str, Any], found: dict[str, Any], differences: list[str]) -> None:
        """Keep it for the training part of the record; a difference fails the run's check."""
        self.run.in_force = {"asked": asked, "found": found}
        self.run.record.check("in_force", not differences, "; ".join(differences))
        assert self.run.record.launch is not None
        if found["precision"] is not None:
            self.run.record.launch.mixed_precision = found["precision"]


def _note_unused(run: RunContext) -> None:
    """Note keys of the recipe's file that only another method uses, which the command line or a study replaced."""
    written, keys = run.resolved.as_written, [*rules.BY_GRADIENTS, "head"]
    unused = [f"{key}.{inner}" for key in keys for inner, _ in yaml_loader.items(written.get(key))]
    if unused:
        name = run.resolved.recipe.method.name
        run.record.note(f"{', '.join(unused)} of the recipe's file not used: method {name} trains nothing by gradients")


def _fit_features(run: RunContext) -> None:
    train, options = run.inputs.train, run.inputs.plan.features
    assert train is not None
    with run.clock.phase("train"):
        iterations = probe.fit_probe(run.model, train.features, run.inputs.scoring, options)
    run.record.training = record.TrainingPart(engine="scikit-learn", steps=iterations, epochs=1, stopped_by="fitted")
    limit = options["max_iter"]
    if iterations >= limit:
        run.record.note(f"logistic regression stopped at max_iter {limit} before it had converged")


def _selection(run: RunContext) -> Selection | None:
    training = run.resolved.recipe.training
    if training.best is None:
        return None
    upward = run.inputs.scoring.metrics.higher_is_better(training.best)
    return Selection(training.best, upward, training.early_stopping)


def _record_training(run: RunContext, inputs: FitInputs, progress: Progress, result: training.FitResult) -> None:
    _time_steps(run, progress)
    run.record.training = record.TrainingPart(
        engine=inputs.settings.engine,
        steps=result.steps,
        epochs=round(inputs.budget.epochs(result.steps), 6),
        stopped_by=result.stopped_by,
        best_step=result.best_step,
        best_value=result.best_value,
        first_loss=result.first_loss,
        final_loss=result.final_loss,
        learning_rate_final=result.learning_rate,
        skipped_steps=len(result.skipped) if result.skipped or inputs.scoring.precision == "fp16" else None,
        loss_scale=result.loss_scale,
        in_force=run.in_force,
        class_weights=(inputs.class_loss and inputs.class_loss.weights) or {},
    )
    warnings_of_model.warn_of_first_loss(run, inputs, result.first_loss)
    if result.skipped:
        sentence = loss_scale.summary(result.skipped, result.steps, result.loss_scale)
        run.record.note(sentence)
        console.say(sentence)
    missing = result.without_gradient
    detail = f"without a finite gradient after the first backward: {', '.join(missing[:5])}" if missing else ""
    if missing is None and result.skipped:
        detail = "the loss scaler of fp16 skipped all steps; train for more, or in bf16 or float32"
    run.record.check("gradients", not detail, detail)
    # The schedule stands still where an update is skipped.
    updates = result.logged_step - sum(step < result.logged_step for step in result.skipped)
    rate, wanted = result.learning_rate, expected_rate(inputs, updates)
    agrees = rate is not None and abs(rate - wanted) <= 1e-6 * max(wanted, inputs.settings.learning_rate)
    run.record.check("learning_rate_final", agrees, f"{rate} at step {result.logged_step}, expected {wanted}")


def _time_steps(run: RunContext, progress: Progress) -> None:
    """Fill in the phases' seconds of the steps: those of this process, and of those that it went on from."""
    seconds, warmup, earlier = progress.steps.seconds, progress.steps.warmup, progress.steps.earlier
    run.clock.divide("train", {"warm_up": sum(seconds[:warmup]), "train_steps": sum(seconds[warmup:])})
    run.clock.seconds["warm_up"] += earlier.warmup_s
    run.clock.seconds["train_steps"] += sum(earlier.seconds)


def expected_rate(inputs: FitInputs, step: int) -> float:
    """Return the schedule's rate at a step, computed apart: a schedule that is stepped too often shows here."""
    settings, budget = inputs.settings, inputs.budget
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    scheduler = make_scheduler(settings, budget, optimizer)
    for _ in range(step - 1):
        optimizer.step()
        scheduler.step()
    return float(scheduler.get_last_lr()[0])


# ---------------------------------------------------------------- after training


def save(run: RunContext) -> None:
    """Write the model or adapter with its tokenizer, on rank zero; nothing where nothing was trained."""
    if run.inputs.plan.trains == "nothing":
        run.record.note("no model is saved: nothing was trained")
        return
    folder, description = run.folder / "model", _saved_description(run)
    with run.clock.phase("save"):
        with whole_on_disk.mapped(run.model, folder / ".parameters") as size:
            if run.state.is_main_process:
                limit = size if run.shards_held else None
                saving.save(run.model, run.inputs.tokenizer, folder, description, bytes_per_file=limit)
                run.record.artifacts["model"] = "model"
        run.state.wait_for_everyone()


def _saved_description(run: RunContext) -> dict[str, Any]:
    """Return what must be known to load a saved model and to read its answers."""
    recipe, inputs = run.resolved.recipe, run.inputs
    prompt = recipe.dataset.prompt if recipe.objective == "text" else None
    return {
        "task": recipe.dataset.task,
        "objective": recipe.objective,
        "prompt": prompt.model_dump(mode="json") if prompt is not None else None,
        "prompting": recipe.prompting.model_dump(mode="json"),
        "labels": list(inputs.corpus.labels),
        "outputs": list(inputs.task.head_outputs(inputs.corpus.labels)) if recipe.objective == "head" else [],
        "scheme": recipe.dataset.scheme,
        "multi_label": recipe.dataset.multi_label,
        "normalization": recipe.dataset.normalization,
        "pairs": recipe.dataset.columns.text_pair is not None,
        **new_rows.described(recipe.dataset),
        **(lm_eval_examples.described(recipe, inputs.tokenizer) if inputs.tokenizer is not None else {}),
        "threshold": recipe.evaluation.threshold,
        "max_length": recipe.max_length,
        "spans": recipe.spans.model_dump(),
        "version": inputs.corpus.version,
        "method": recipe.method.name,
        "pooling": inputs.plan.features.get("pooling"),
        "head": recipe.head.model_dump(),
        "quantization": inputs.plan.quantization,
        "unquantized": heads.unwrapped_head_names(run.model) if inputs.tokenizer is not None else [],
        "pad_token_id": inputs.tokenizer.pad_token_id if inputs.tokenizer is not None else None,
        "model_card": recipe.model.model_dump(),
    }


def measure(run: RunContext) -> None:
    """Fill in the throughput of the training steps, and the memory and energy of every phase, over all ranks."""
    _record_kernels(run, "after")
    peaks = {name: peak.gib() for name, peak in run.clock.peaks.items() if name != "metrics"}
    run.record.memory = throughput.merge_ranks(gather_object([peaks]))
    energy_of_run.fill_in(run)
    if run.fit_result is None or run.progress is None:
        return
    totals, seconds, warmup = run.progress.steps.measured()
    if padding_free.is_attached(run.model):
        totals[1] = totals[2]  # what was processed are the real tokens
    all_totals = np.array(gather_object([totals])).sum(0).tolist()
    assert run.record.environment is not None
    peak = None
    if run.state.device.type == "cuda":
        peak = product_types.peak_flops(run.record.environment.devices[0], run.model, run.inputs.scoring.precision)
    run.record.throughput["train"] = throughput.train_throughput(
        all_totals,
        seconds,
        warmup,
        _step_flops(run),
        None if peak is None else peak * run.state.num_processes,
    )
    run.record.throughput["train"] |= {"counted": _counted(run)}


def _counted(run: RunContext) -> dict[str, str]:
    """Return what an example and a loss item of the throughput are, in words of the task."""
    recipe = run.resolved.recipe
    if recipe.objective == "text":
        whose = {"answer": "answer tokens", "assistant": "tokens of the assistant", "all": "tokens"}
        return {"examples": "examples", "loss_items": whose[recipe.training.loss_on]}
    if recipe.dataset.columns.answers is not None:
        return {"examples": "windows", "loss_items": "ends of answers"}
    items = {"numbers": "numbers", "tags": "words"}.get(run.inputs.task.READS, "labels")
    return {"examples": "windows" if items == "words" else "examples", "loss_items": items}


def _step_flops(run: RunContext) -> float | None:
    """Return the mean model FLOPs of one step over all ranks, from the lengths of the examples trained on.

    None, with a note, for a model whose operations can't be counted.
    """
    inputs, result = run.fit_inputs, run.fit_result
    assert inputs is not None
    assert result is not None
    lengths = [row_lengths(feature) for feature in inputs.train.features]
    order = inputs.order[: result.steps * inputs.budget.global_batch]
    answers = None
    if inputs.writes_by_encoder_decoder:
        answers = [len(inputs.train.features[number]["token_labels"]) for number in order]
    calls = result.steps * inputs.budget.accumulation * run.state.num_processes
    rows = [tokens for number in order for tokens in lengths[number]]
    try:
        return flops.step_flops(run.model, rows, answers, calls) / result.steps
    except flops.UncountableError as error:
        run.record.note(f"model FLOPs and MFU are not known: {error}")
        return None
